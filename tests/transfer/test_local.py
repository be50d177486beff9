"""The local route: plain paths and file: URLs."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from tests.transfer.conftest import contents

from withrun.errors import ArtifactNotFound, TransferError
from withrun.transfer import FileTransfer, ObjMeta, join_url

ft = FileTransfer(prog_bar=False)


@pytest.mark.parametrize("as_url", [False, True], ids=["path", "file-url"])
def test_round_trip(folder: Path, tmp_path: Path, as_url: bool) -> None:
    """What is pushed and pulled again is the same, links resolved, whatever form the URL has."""
    base = tmp_path / "repo ü" / "run"
    url = join_url(base.as_uri(), "m") if as_url else str(base / "m")
    ft.push(folder, url)
    ft.pull(url, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder) == contents(base / "m")
    assert not any(path.is_symlink() for path in base.rglob("*"))


def test_push_adds_and_replaces(folder: Path, tmp_path: Path) -> None:
    """A second push replaces same-named files and leaves the others."""
    repo = tmp_path / "repo"
    ft.push(folder, str(repo))
    (repo / "other").write_text("stays")
    (repo / "a.txt").chmod(0o444)
    (folder / "a.txt").write_text("new")
    ft.push(folder, str(repo))
    assert (repo / "a.txt").read_text() == "new"
    assert (repo / "other").read_text() == "stays"


def test_file_to_exact_path(folder: Path, tmp_path: Path) -> None:
    """A file lands at exactly the path given, with its time and executability, and no file beside it."""
    (folder / "a.txt").chmod(0o540)
    ft.push(folder / "a.txt", str(tmp_path / "deep" / "er" / "b.txt"))
    placed = tmp_path / "deep" / "er" / "b.txt"
    assert placed.read_text() == "alpha"
    assert placed.stat().st_mtime_ns == (folder / "a.txt").stat().st_mtime_ns
    assert placed.stat().st_mode & 0o100
    assert [p.name for p in placed.parent.iterdir()] == ["b.txt"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """While a file is replaced many times, a reader sees one version or the other, whole."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1" * 3_000_000)
    two.write_bytes(b"2" * 3_000_000)
    target = tmp_path / "repo" / "f"
    ft.push(one, str(target))
    stop = threading.Event()

    def writer() -> None:
        while not stop.is_set():
            ft.push(one, str(target))
            ft.push(two, str(target))

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for _ in range(100):
            seen = target.read_bytes()
            assert len(seen) == 3_000_000
            assert len(set(seen)) == 1
    finally:
        stop.set()
        thread.join()


def test_listing(folder: Path, tmp_path: Path) -> None:
    """A folder gives a sorted list, recursive or not, a file its own ObjMeta, what is missing an error."""
    top = ft.ls(str(folder))
    assert isinstance(top, list)
    assert [m.Path for m in top] == ["a b+ü&=.bin", "a.txt", "empty", "link.txt", "sub"]
    assert [m.IsDir for m in top] == [False, False, False, False, True]
    everything = ft.ls(str(folder), recursive=True)
    assert isinstance(everything, list)
    assert {m.Path: m.Size for m in everything}["sub/large.bin"] == 3_200_000
    single = ft.ls((folder / "a.txt").as_uri())
    assert isinstance(single, ObjMeta)
    assert (single.Name, single.Size, single.MimeType) == ("a.txt", 5, "text/plain")
    assert single.ModTime is not None
    assert single.ModTime.tzinfo is not None
    with pytest.raises(ArtifactNotFound):
        ft.ls(str(tmp_path / "missing"))
    with pytest.raises(ArtifactNotFound):
        ft.pull(str(tmp_path / "missing"), tmp_path / "x")
    with pytest.raises(ArtifactNotFound):
        ft.push(tmp_path / "missing", str(tmp_path / "x"))


def test_unfit_sources_are_refused_before_anything_is_copied(folder: Path, tmp_path: Path) -> None:
    """Loops, broken links and pipes in a source raise, and nothing was published."""
    repo = tmp_path / "repo"
    (folder / "sub" / "loop").symlink_to(folder)
    with pytest.raises(TransferError, match="no end"):
        ft.push(folder, str(repo))
    (folder / "sub" / "loop").unlink()
    (folder / "broken").symlink_to("nowhere")
    with pytest.raises(TransferError, match="broken"):
        ft.push(folder, str(repo))
    (folder / "broken").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(TransferError, match="pipe"):
        ft.push(folder, str(repo))
    assert not repo.exists()


def test_a_folder_is_not_published_into_itself(folder: Path) -> None:
    """Publishing a folder below itself raises; onto itself does nothing."""
    with pytest.raises(TransferError, match="into itself"):
        ft.push(folder, str(folder / "sub" / "copy"))
    before = contents(folder)
    ft.push(folder, str(folder))
    assert contents(folder) == before


def test_file_and_folder_in_each_others_way(folder: Path, tmp_path: Path) -> None:
    """A file is never replaced by a folder or the other way round."""
    repo = tmp_path / "repo"
    (repo / "a.txt").mkdir(parents=True)
    with pytest.raises(TransferError, match="a folder lies there"):
        ft.push(folder, str(repo))
    (tmp_path / "file").write_text("x")
    with pytest.raises(TransferError):
        ft.push(folder, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "x"


def test_a_cut_off_pull_is_completed(folder: Path, tmp_path: Path) -> None:
    """A file that was cut off is copied again, also one of the full size; complete ones are left alone."""
    target = tmp_path / "pulled"
    ft.pull(str(folder), target)
    untouched = (target / "a.txt").stat().st_ino
    (target / "sub" / "large.bin").write_bytes(b"half")
    (target / "a b+ü&=.bin").write_bytes(b"x" * 12_800)
    ft.pull(str(folder), target)
    assert contents(target) == contents(folder)
    assert (target / "a.txt").stat().st_ino == untouched


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """A full disk raises TransferError that says so, and leaves no half file."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True
    ).returncode:
        pytest.skip("may not mount")
    try:
        (tmp_path / "big").write_bytes(b"x" * 3_000_000)
        with pytest.raises(TransferError, match="No space left"):
            ft.push(tmp_path / "big", str(small / "big"))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
