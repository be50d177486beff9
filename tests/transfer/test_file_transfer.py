"""FileTransfer itself: its fields, scheme mapping, tools of the user's own, replacement."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.transfer.conftest import contents

from withrun.errors import ArtifactNotFound, IllegalPath, InvalidArgument, TransferError
from withrun.transfer import FileTransfer, ObjMeta


class Disk:
    """A tool with rclone-python's signatures that keeps `any://bucket/…` in a folder, and notes its calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[Any, ...]] = []

    def _path(self, url: str) -> Path:
        return self.root / url.partition("://")[2] if "://" in url else Path(url)

    def ls(
        self,
        path: str,
        max_depth: int | None = None,
        dirs_only: bool = False,
        files_only: bool = False,
        args: list[str] | None = None,
    ) -> list[dict[str, Any]]:
        self.calls.append(("ls", path, list(args or [])))
        if args is not None:
            args.append("--seen")  # as rclone-python does
        found = self._path(path)
        listed = [found] if found.is_file() else sorted(found.iterdir()) if found.is_dir() else []
        return [
            {
                "Path": p.name,
                "Name": p.name,
                "Size": -1 if p.is_dir() else p.stat().st_size,
                "IsDir": p.is_dir(),
            }
            for p in listed
        ]

    def copyto(
        self,
        in_path: str,
        out_path: str,
        ignore_existing: bool = False,
        show_progress: bool = True,
        listener: Any = None,
        args: list[str] | None = None,
        pbar: Any = None,
    ) -> None:
        self.calls.append(("copyto", in_path, out_path, args))
        source, target = self._path(in_path), self._path(out_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)

    def sync(
        self,
        src_path: str,
        dest_path: str,
        show_progress: bool = True,
        listener: Any = None,
        args: list[str] | None = None,
        pbar: Any = None,
    ) -> None:
        self.calls.append(("sync", src_path, dest_path, args))
        shutil.copytree(self._path(src_path), self._path(dest_path), dirs_exist_ok=True)


def test_fields_and_defaults() -> None:
    """The fields are those of the contract, with its defaults; others are refused, and none can be changed."""  # noqa: E501
    assert FileTransfer().model_dump() == {
        "prog_bar": True,
        "tool": "rclone_python.rclone",
        "extra_args": {"sync": ["--copy-links"]},
        "use_scheme": None,
        "map_scheme": None,
    }
    for bad in (
        {"unknown": 1},
        {"use_scheme": "s3", "map_scheme": {"a": "b"}},
        {"use_scheme": "s3:"},
        {"use_scheme": ""},
        {"use_scheme": "-x"},
        {"map_scheme": {"(": "s3"}},
        {"map_scheme": {"a": "s 3"}},
    ):
        with pytest.raises(ValidationError):
            FileTransfer(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        FileTransfer().prog_bar = False  # type: ignore[misc]


def test_schemes_are_mapped() -> None:
    """use_scheme replaces the scheme of remote URLs, map_scheme by the first regexp that matches the start."""  # noqa: E501
    used = FileTransfer(use_scheme="minio")
    assert used.mapped("s3://b/x") == "minio://b/x"
    assert used.mapped("/a/b") == "/a/b"
    assert used.mapped("file:///a") == "file:///a"
    assert used.mapped("mlflow-artifacts:/1/x") == "mlflow-artifacts:/1/x"
    mapped = FileTransfer(
        map_scheme={"s3://special": "one", re.compile(r"S3://.*X", re.I): "two", "gs": "three"}
    )
    assert mapped.mapped("s3://special/x") == "one://special/x"
    assert mapped.mapped("s3://b/x") == "two://b/x"
    assert mapped.mapped("s3://b/y") == "s3://b/y"
    assert mapped.mapped("gs://b/y") == "three://b/y"
    assert mapped.mapped("abfss://gs") == "abfss://gs"


def test_a_tool_of_ones_own(folder: Path, tmp_path: Path) -> None:
    """A custom tool gets plain paths and mapped URLs and its extra_args, and does the whole work."""
    disk = Disk(tmp_path / "disk")
    extra = {"ls": ["--one"], "copyto": ["--two"], "sync": ["--three"]}
    ft = FileTransfer(tool=disk, extra_args=extra, use_scheme="disk", prog_bar=False)
    odd = folder / 'a "$(b)".txt'
    odd.write_text("odd")
    ft.push(folder, "s3://bucket/m")
    ft.pull("s3://bucket/m", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)
    ft.pull(f"s3://bucket/m/{odd.name}", tmp_path / "odd")
    assert (tmp_path / "odd").read_text() == "odd"
    assert ("copyto", str(folder), "disk://bucket/m", ["--two"]) in disk.calls
    assert ("sync", "disk://bucket/m", str(tmp_path / "pulled"), ["--three"]) in disk.calls
    assert ("copyto", f"disk://bucket/m/{odd.name}", str(tmp_path / "odd"), ["--two"]) in disk.calls
    assert all(call[2] == ["--one"] for call in disk.calls if call[0] == "ls")
    everything = ft.ls("s3://bucket/m", recursive=True)
    assert isinstance(everything, list)
    assert "sub/deeper/x.json" in {m.Path for m in everything}
    ft.push(folder / "a.txt", "s3://bucket/same/same")
    same = ft.ls("s3://bucket/same")
    assert isinstance(same, list)
    assert isinstance(ft.ls("s3://bucket/same/same"), ObjMeta)
    with pytest.raises(ArtifactNotFound):
        ft.ls("s3://bucket/missing")
    assert ft.extra_args == extra


def test_tools_by_dotted_path(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules, classes and objects are found by dotted path; what is not there or lacks a function is told."""  # noqa: E501
    module: Any = types.ModuleType("some_tool")
    disk = Disk(tmp_path / "disk")
    module.ls, module.copyto, module.sync, module.disk = disk.ls, disk.copyto, disk.sync, disk

    class Static:
        ls, copyto, sync = staticmethod(disk.ls), staticmethod(disk.copyto), staticmethod(disk.sync)

    class Plain(Disk):
        def __init__(self) -> None:
            super().__init__(tmp_path / "disk")

    module.Static, module.Plain = Static, Plain
    monkeypatch.setitem(sys.modules, "some_tool", module)
    for path in ("some_tool", "some_tool.disk", "some_tool:disk", "some_tool.Static", "some_tool.Plain"):
        FileTransfer(tool=path, prog_bar=False).push(folder / "a.txt", "any://b/x")
        assert (tmp_path / "disk" / "b" / "x").read_text() == "alpha"
        (tmp_path / "disk" / "b" / "x").unlink()
    for bad in ("no_such_module.x", "some_tool.nothing", "json", ""):
        with pytest.raises(InvalidArgument):
            FileTransfer(tool=bad, prog_bar=False).ls("any://b/x")


class Hostile(Disk):
    """A tool that lists what it is told to."""

    listing: list[dict[str, Any]]

    def ls(self, path: str, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return self.listing


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "..", "", ".", "a//b", "a\0b", "x/../../y", "..\\x"]
)
def test_hostile_listings(tmp_path: Path, name: str) -> None:
    """A listing that names a path out of the target is refused before anything is brought."""
    tool = Hostile(tmp_path / "disk")
    tool.listing = [{"Path": "fine", "Name": "fine", "Size": 1}, {"Path": name, "Name": name, "Size": 1}]
    ft = FileTransfer(tool=tool, prog_bar=False)
    with pytest.raises(IllegalPath):
        ft.pull("s3://b/x", tmp_path / "target")
    assert tool.calls == []
    assert not (tmp_path / "target").exists()


def test_what_did_not_arrive_is_told(folder: Path, tmp_path: Path) -> None:
    """A pull that leaves files out, or too short, raises TransferError though the tool said nothing."""
    tool = Hostile(tmp_path / "disk")
    tool.listing = [{"Path": "a.txt", "Name": "a.txt", "Size": 5}]
    ft = FileTransfer(tool=tool, prog_bar=False)
    (tmp_path / "disk" / "b" / "x").mkdir(parents=True)
    with pytest.raises(TransferError, match="did not arrive"):
        ft.pull("s3://b/x", tmp_path / "target")
    (tmp_path / "disk" / "b" / "x" / "a.txt").write_text("a")
    with pytest.raises(TransferError, match="1 bytes"):
        ft.pull("s3://b/x", tmp_path / "target")


def test_it_can_be_replaced(tmp_path: Path) -> None:
    """A subclass that overrides push, pull and ls is a FileTransfer."""

    class Mine(FileTransfer):
        def push(self, source: Path, url: str, *, http: Any = None) -> None:
            (tmp_path / "seen").write_text(url)

    Mine().push(tmp_path, "s3://x")
    assert (tmp_path / "seen").read_text() == "s3://x"


def test_import_is_light() -> None:
    """Importing the package loads none of httpx, rich, rclone-python and mlflow."""
    code = (
        "import sys, withrun.transfer as t; t.FileTransfer();"
        "print([m for m in ('httpx', 'rich', 'rclone_python', 'mlflow', 'numpy', 'pandas') if m in sys.modules])"  # noqa: E501
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
