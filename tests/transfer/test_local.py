"""The local route: plain paths and file: URLs."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from tests.transfer.conftest import contents

from withrun.errors import ArtifactNotFound, IllegalPath, TransferError
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


def test_planted_links_in_a_repository_are_not_written_through(folder: Path, tmp_path: Path) -> None:
    """Publishing into a folder with a symlink that leads out is refused before anything is written."""
    repo, outside = tmp_path / "repo", tmp_path / "outside"
    repo.mkdir()
    outside.mkdir()
    (repo / "sub").symlink_to(outside)
    with pytest.raises(IllegalPath, match="leads out"):
        ft.push(folder, str(repo))
    assert list(outside.iterdir()) == []
    assert [path.name for path in repo.iterdir()] == ["sub"]


def test_links_within_a_repository_are_followed(folder: Path, tmp_path: Path) -> None:
    """A symlink that stays in the folder is written through and read through, as it always was."""
    repo = tmp_path / "repo"
    (repo / "real").mkdir(parents=True)
    (repo / "sub").symlink_to("real")
    ft.push(folder, str(repo))
    assert (repo / "real" / "large.bin").exists()
    ft.pull(str(repo), tmp_path / "pulled")
    pulled = contents(tmp_path / "pulled")
    assert pulled["sub/large.bin"] == pulled["real/large.bin"] == (folder / "sub" / "large.bin").read_bytes()


@pytest.mark.parametrize("aim", ["secret", "outside"], ids=["file", "folder"])
def test_planted_links_in_a_repository_are_not_read_through(tmp_path: Path, aim: str) -> None:
    """Pulling or listing a folder with a symlink that leads out is refused, and nothing of it is copied."""
    repo = tmp_path / "repo"
    (repo / "deep").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_text("theirs")
    (tmp_path / "secret").write_text("theirs")
    (repo / "deep" / "link").symlink_to(tmp_path / aim)
    for call in (lambda: ft.pull(str(repo), tmp_path / "t"), lambda: ft.ls(str(repo), recursive=True)):
        with pytest.raises(IllegalPath, match="leads out"):
            call()
    assert not (tmp_path / "t").exists()


def test_a_pull_leaves_nothing_of_an_earlier_one(folder: Path, tmp_path: Path) -> None:
    """A resumed pull removes what the repository no longer has, also where a file became a folder."""
    target = tmp_path / "pulled"
    ft.pull(str(folder), target)
    (target / "stray").symlink_to(tmp_path)
    (folder / "a b+ü&=.bin").unlink()
    (folder / "empty").unlink()
    (folder / "empty").mkdir()
    (folder / "sub" / "deeper" / "x.json").unlink()
    (folder / "sub" / "deeper").rmdir()
    (folder / "sub" / "deeper").write_text("a file now")
    ft.pull(str(folder), target)
    assert contents(target) == contents(folder)
    assert (target / "empty").is_dir()
    assert not (target / "stray").is_symlink()
    ft.pull(str(folder / "a.txt"), target)
    assert target.read_text() == "alpha"
    ft.pull(str(folder), target)
    assert contents(target) == contents(folder)


def test_a_pull_never_removes_its_source(folder: Path, tmp_path: Path) -> None:
    """A target that holds the source, or lies in it, is refused; the source onto itself changes nothing."""
    before = contents(tmp_path)
    for source, target in ((folder, tmp_path), (folder / "a.txt", folder), (folder, folder / "sub" / "x")):
        with pytest.raises(TransferError, match="one lies in the other"):
            ft.pull(str(source), target)
    ft.pull(str(folder), folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("relative", ["a.txt/x", "n" * 300, "sub/" + "n" * 300])
def test_what_can_not_be_there_is_not_found(folder: Path, tmp_path: Path, relative: str) -> None:
    """A path below a file, or longer than any name, is ArtifactNotFound in every verb."""
    with pytest.raises(ArtifactNotFound):
        ft.ls(f"{folder}/{relative}")
    with pytest.raises(ArtifactNotFound):
        ft.pull(f"{folder}/{relative}", tmp_path / "t")
    with pytest.raises(ArtifactNotFound):
        ft.push(folder / relative, str(tmp_path / "t"))
