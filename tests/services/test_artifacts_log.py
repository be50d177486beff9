"""Publishing: sources, options, and that nothing of the user's is ever lost."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from tests.services.conftest import MakeService
from withrun.cache.artifacts import ArtifactCache
from withrun.cache.trim import trim
from withrun.errors import (
    ArtifactNotFound,
    CacheError,
    FailedToPublishArtifact,
    IllegalPath,
    InvalidArgument,
    OfflineError,
    WithrunError,
)
from withrun.schema import Run
from withrun.services.artifacts import ArtifactService, of_run
from withrun.transfer.file_transfer import FileTransfer


def repo(run: Run) -> Path:
    return Path(run.repo_url)


def test_path_goes_under_its_own_name(direct: ArtifactService, run: Run, tmp_path: Path) -> None:
    """A path without `path_in_run` is published under its own name, and stays."""
    source = tmp_path / "model.bin"
    source.write_bytes(b"m")
    assert direct.log(run, source).path == "model.bin"
    assert direct.log(run, str(source), "").path == "model.bin"
    assert (repo(run) / "model.bin").read_bytes() == b"m"
    assert source.read_bytes() == b"m"


def test_dot_has_the_folders_name(
    direct: ArtifactService, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder is published under its real name."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "f").write_text("x")
    monkeypatch.chdir(tmp_path / "here")
    assert direct.log(run, ".").path == "here"
    assert (repo(run) / "here" / "f").read_text() == "x"


def test_dumper_writes_file_or_folder(direct: ArtifactService, run: Run, tmp_path: Path) -> None:
    """A dumper's output is published and not kept by default; its path ends in the artifact's name."""
    seen: list[Path] = []

    def folder(path: Path) -> None:
        seen.append(path)
        path.mkdir()
        (path / "a").write_text("1")

    direct.log(run, folder, "out/model")
    direct.log(run, lambda path: path.write_text("2"), "b.txt")
    assert (repo(run) / "out/model/a").read_text() == "1"
    assert (repo(run) / "b.txt").read_text() == "2"
    assert seen[0].name == "model"
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.parametrize("path", [None, ""])
def test_dumper_needs_a_path(direct: ArtifactService, run: Run, path: str | None) -> None:
    """What a dumper writes has no name of its own."""
    with pytest.raises(IllegalPath, match="path_in_run"):
        direct.log(run, lambda p: p.write_text("x"), path)


@pytest.mark.parametrize("path", ["/abs", "../up", "a/../../b", "a\\..\\..\\b", "nul\0", "C:\\x", "\\\\host"])
def test_illegal_paths(direct: ArtifactService, run: Run, tmp_path: Path, path: str) -> None:
    """A path that is absolute or climbs is refused, for every verb, before anything is written."""
    source = tmp_path / "f"
    source.write_text("x")
    with pytest.raises(IllegalPath):
        direct.log(run, source, path)
    with pytest.raises(IllegalPath):
        of_run(run, path)
    assert not repo(run).exists()


def test_missing_source(direct: ArtifactService, run: Run, tmp_path: Path) -> None:
    """A source that is not there is an error before anything is sent, and no publishing error."""
    with pytest.raises(ArtifactNotFound, match="nope"):
        direct.log(run, tmp_path / "nope")
    assert not repo(run).exists()


@pytest.mark.parametrize("source", [None, 3, b"bytes", "", "a\0b"])
def test_source_of_another_type(direct: ArtifactService, run: Run, source: Any) -> None:
    """What is neither a path nor a callback is refused with a word on what to give."""
    with pytest.raises(InvalidArgument, match="source"):
        direct.log(run, source, "x")


def test_symlinked_source(direct: ArtifactService, run: Run, tmp_path: Path) -> None:
    """Links are followed; removing such a source removes the link alone."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "a").write_text("1")
    (tmp_path / "outer").write_text("2")
    (real / "b").symlink_to(tmp_path / "outer")
    link = tmp_path / "link"
    link.symlink_to(real)
    direct.log(run, link, keep_the_source=False)
    assert (repo(run) / "link/b").read_text() == "2"
    assert not (repo(run) / "link/b").is_symlink()
    assert not link.is_symlink()
    assert (real / "a").read_text() == "1"


def test_symlink_loop_and_broken_link(direct: ArtifactService, run: Run, tmp_path: Path) -> None:
    """A loop or a broken link is named before anything is sent."""
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "loop").symlink_to(folder)
    with pytest.raises(FailedToPublishArtifact, match="loop"):
        direct.log(run, folder)
    (folder / "loop").unlink()
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(FailedToPublishArtifact, match="gone") as caught:
        direct.log(run, folder)
    assert caught.value.source == folder
    assert not repo(run).exists()


def test_publishing_merges(cached: ArtifactService, run: Run, tmp_path: Path) -> None:
    """A second folder at the same path adds and replaces, deletes nothing, and no stale copy is served."""
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, names in ((first, "ab"), (second, "bc")):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(folder.name)
    cached.log(run, first, "x/d")
    assert sorted(p.name for p in cached.get(of_run(run, "x")).joinpath("d").iterdir()) == ["a", "b"]
    assert cached.get(of_run(run, "x/d/b")).read_text() == "1"
    cached.log(run, second, "x/d")
    for path in ("x/d", "x", ""):
        at = cached.get(of_run(run, path))
        found = {p.name: p.read_text() for p in at.rglob("*") if p.is_file()}
        assert found == {"a": "1", "b": "2", "c": "2"}
    assert cached.get(of_run(run, "x/d/b")).read_text() == "2"


OPTIONS = list(itertools.product([None, True, False], repeat=3))


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("local", [True, False], ids=["direct", "cached"])
@pytest.mark.parametrize(("keep", "duplicate", "use"), OPTIONS)
def test_all_options(
    make: MakeService,
    run: Run,
    tmp_path: Path,
    keep: bool | None,
    duplicate: bool | None,
    use: bool | None,
    local: bool,
    is_folder: bool,
) -> None:
    """Every combination is refused untouched, or publishes and keeps the source unless told otherwise."""
    service = make(cache_local_artifacts=not local)
    source = tmp_path / "s"
    file = source / "f" if is_folder else source
    file.parent.mkdir(exist_ok=True)
    file.write_text("content")
    options = {"keep_the_source": keep, "allow_duplication": duplicate, "use_cache": use}
    if keep is not False and duplicate is False and use is False:
        with pytest.raises(InvalidArgument, match="contradict"):
            service.log(run, source, "p/s", **options)
        assert not repo(run).exists()
        assert file.read_text() == "content"
        return
    service.log(run, source, "p/s", **options)
    inner = "p/s/f" if is_folder else "p/s"
    assert (repo(run) / inner).read_text() == "content"
    assert service.get(of_run(run, inner)).read_text() == "content"
    if keep is False:
        assert not os.path.lexists(source)
        return
    assert file.read_text() == "content"
    assert source.is_symlink() == (duplicate is False)
    service.clean_all()
    assert file.read_text() == "content"


def test_lent_source_survives_newer_copies_and_cleaning(
    cached: ArtifactService, run: Run, tmp_path: Path
) -> None:
    """A source that became a link keeps its content whatever is published or cleaned later."""
    one, two, folder = tmp_path / "one", tmp_path / "two", tmp_path / "folder"
    one.write_text("1")
    two.write_text("2")
    folder.mkdir()
    (folder / "x").write_text("x")
    cached.log(run, one, "m", allow_duplication=False)
    cached.log(run, two, "m", allow_duplication=False)
    cached.log(run, folder, "f", allow_duplication=False)
    assert (one.read_text(), two.read_text()) == ("1", "2")
    assert one.is_symlink()
    cached.clean_all()
    assert (one.read_text(), two.read_text(), (folder / "x").read_text()) == ("1", "2", "x")
    assert not one.is_symlink()
    assert not folder.is_symlink()
    one.write_text("writable again")


def test_lent_to_a_local_run_is_the_users_own(direct: ArtifactService, run: Run, tmp_path: Path) -> None:
    """A source of a local run becomes a link to a copy: neither it nor the run ever changes the other."""
    mine, other, folder = tmp_path / "mine", tmp_path / "other", tmp_path / "folder"
    mine.write_text("mine")
    other.write_text("other")
    folder.mkdir()
    (folder / "x").write_text("x")
    direct.log(run, mine, "best", allow_duplication=False)
    direct.log(run, folder, "d", allow_duplication=False)
    assert mine.resolve().is_relative_to(tmp_path / "cache")
    assert mine.stat().st_mode & 0o222 == 0
    direct.log(run, other, "best")
    direct.log(run, other, "d/x")
    assert (mine.read_text(), (folder / "x").read_text()) == ("mine", "x")
    mine.chmod(0o644)
    mine.write_text("mine again")
    assert direct.get(of_run(run, "best")).read_text() == "other"
    assert (repo(run) / "best").read_text() == "other"


def test_files_of_the_run_become_no_links(cached: ArtifactService, run: Run) -> None:
    """What lies in the run's own folder stays itself, published in its place or in another."""
    repo(run).mkdir(parents=True)
    (repo(run) / "f").write_text("x")
    cached.log(run, repo(run) / "f", "f", allow_duplication=False)
    cached.log(run, repo(run) / "f", "g", allow_duplication=False)
    assert not (repo(run) / "f").is_symlink()
    assert not (repo(run) / "g").is_symlink()


@pytest.mark.parametrize("moment", ["rename", "replace"])
def test_interrupted_while_it_becomes_a_link(
    cached: ArtifactService, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A folder lies under its own name whenever Ctrl-C comes, and no copy counts as lent that is not."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").write_text("x")
    real = getattr(Path, moment)

    def interrupted(path: Path, target: Path) -> Path:
        if folder != (path if moment == "rename" else target):
            return Path(real(path, target))
        if moment == "rename":
            real(path, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, moment, interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        cached.log(run, folder, allow_duplication=False)
    monkeypatch.undo()
    assert (folder / "x").read_text() == "x"
    assert not folder.is_symlink()
    assert str(folder) in "".join(caught.value.__notes__)
    assert list(tmp_path.glob(".withrun*")) == []
    cached.clean_all()
    assert (folder / "x").read_text() == "x"


def test_lent_source_survives_a_move_of_its_link(
    cached: ArtifactService, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is lent stays though its link is elsewhere now; only cleaning removes it, and says so."""
    one, two, moved = tmp_path / "one", tmp_path / "two", tmp_path / "moved"
    one.write_text("1")
    two.write_text("2")
    cached.log(run, one, "m", allow_duplication=False)
    one.rename(moved)
    cached.log(run, two, "m")
    cached.get(of_run(run, "m"))
    trim(ArtifactCache(tmp_path / "cache"), 0)
    assert moved.read_text() == "1"
    cached.clean_all()
    assert str(one) in caplog.text


def test_source_in_the_cache(cached: ArtifactService, run: Run, tmp_path: Path) -> None:
    """The cache's own files can't be a source; a link to them from elsewhere can."""
    (tmp_path / "f").write_text("x")
    cached.log(run, tmp_path / "f")
    copy = cached.get(of_run(run, "f"))
    with pytest.raises(CacheError, match="in the cache"):
        cached.log(run, copy, "g")
    cached.place(of_run(run, "f"), tmp_path / "placed")
    cached.log(run, tmp_path / "placed", "h", keep_the_source=False)
    assert (repo(run) / "h").read_text() == "x"
    assert copy.read_text() == "x"


def test_source_in_its_place(direct: ArtifactService, run: Run) -> None:
    """Publishing what lies in the run already changes nothing, and is refused where it would remove it."""
    repo(run).mkdir(parents=True)
    (repo(run) / "f").write_text("x")
    direct.log(run, repo(run) / "f")
    with pytest.raises(InvalidArgument, match="already"):
        direct.log(run, repo(run) / "f", keep_the_source=False)
    assert (repo(run) / "f").read_text() == "x"


def test_source_that_changes_is_kept(
    make: MakeService, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that came while its folder was being published is not removed with the folder."""

    class Slow(FileTransfer):
        def push(self, source: Path, url: str, *, http: Any = None) -> None:
            super().push(source, url, http=http)
            (source / "late").write_text("late")

    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "early").write_text("early")
    make(transfer=Slow(prog_bar=False)).log(run, folder, keep_the_source=False)
    assert (folder / "late").read_text() == "late"
    assert "changed while" in caplog.text


def test_sources_files_are_never_shared(cached: ArtifactService, run: Run, tmp_path: Path) -> None:
    """What a link in a source that goes leads to stays writable, and writing to it changes no copy."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "f").write_text("1")
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "holder").mkdir()
    (tmp_path / "holder" / "sub").symlink_to(real)
    (tmp_path / "one").symlink_to(real / "f")
    for name in ("link", "holder", "one"):
        cached.log(run, tmp_path / name, keep_the_source=False)
        assert not os.path.lexists(tmp_path / name)
    assert (real / "f").stat().st_mode & 0o200
    assert (real / "f").stat().st_nlink == 1
    (real / "f").write_text("2")
    for path in ("link/f", "holder/sub/f", "one"):
        assert cached.get(of_run(run, path)).read_text() == "1"


# --- failures ---


def test_error_after_publishing_says_that_it_was(make: MakeService, run: Run, tmp_path: Path) -> None:
    """An error of any kind after the upload says that the artifact was published, and where the source is."""

    class Lost(FileTransfer):
        def ls(self, url: str, **options: Any) -> Any:
            raise ConnectionError("the network is gone")

    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    service = make(transfer=Lost(prog_bar=False))
    with pytest.raises(CacheError, match="was published, but") as caught:
        service.log(run, tmp_path / "d", keep_the_source=False, use_cache=True)
    assert str(tmp_path / "d") in str(caught.value)
    assert "network is gone" in str(caught.value)
    assert (repo(run) / "d/f").read_text() == (tmp_path / "d/f").read_text() == "x"


def test_interrupt_after_publishing(make: MakeService, run: Run, tmp_path: Path) -> None:
    """Ctrl-C after the upload passes with a note that the artifact was published."""

    class Interrupted(FileTransfer):
        def ls(self, url: str, **options: Any) -> Any:
            raise KeyboardInterrupt

    (tmp_path / "d").mkdir()
    with pytest.raises(KeyboardInterrupt) as caught:
        make(transfer=Interrupted(prog_bar=False)).log(run, tmp_path / "d", use_cache=True)
    assert "was published" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("dump", [True, False])
@pytest.mark.parametrize("wrong", [RuntimeError("no"), KeyboardInterrupt()])
def test_failed_registration_keeps_the_source(
    cached: ArtifactService, run: Run, tmp_path: Path, dump: bool, wrong: BaseException
) -> None:
    """What was published and could not be registered is kept, and the error or note says so."""
    path = tmp_path / "f"
    path.write_text("x")

    def register() -> None:
        assert (repo(run) / "m").read_text() == "x"
        raise wrong

    source: Any = (lambda at: at.write_text("x")) if dump else path
    expected = FailedToPublishArtifact if isinstance(wrong, Exception) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        cached.log(run, source, "m", keep_the_source=False, register=register)
    (kept,) = (tmp_path / "temp").rglob("m") if dump else [path]
    assert kept.read_text() == "x"
    assert str(kept) in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    if isinstance(caught.value, FailedToPublishArtifact):
        assert caught.value.source == kept


def test_dumper_that_writes_a_broken_link(direct: ArtifactService, run: Run) -> None:
    """A dump that can't be published is kept, and FailedToPublishArtifact names it."""

    def dump(path: Path) -> None:
        path.mkdir()
        (path / "gone").symlink_to("nowhere")

    with pytest.raises(FailedToPublishArtifact, match="gone") as caught:
        direct.log(run, dump, "m")
    assert caught.value.source.is_dir()
    assert not repo(run).exists()


def blocked(run: Run) -> None:
    """Make publishing fail: a file lies where the run's folder is to be."""
    repo(run).parent.mkdir(parents=True)
    repo(run).write_text("in the way")


def test_failed_publish_keeps_a_path(direct: ArtifactService, run: Run, tmp_path: Path) -> None:
    """A path that can't be published stays though it was not to be kept, and the error names it."""
    blocked(run)
    (tmp_path / "f").write_text("x")
    with pytest.raises(FailedToPublishArtifact) as caught:
        direct.log(run, tmp_path / "f", keep_the_source=False)
    assert caught.value.source == tmp_path / "f"
    assert str(tmp_path / "f") in str(caught.value)
    assert (tmp_path / "f").read_text() == "x"


def test_failed_publish_keeps_a_dump(direct: ArtifactService, run: Run) -> None:
    """A dump that can't be published is kept, can be published from there, and is cleaned on request."""
    blocked(run)
    with pytest.raises(FailedToPublishArtifact) as caught:
        direct.log(run, lambda path: path.write_text("precious"), "m/x.bin")
    kept = caught.value.source
    assert kept.read_text() == "precious"
    repo(run).unlink()
    direct.log(run, kept, "m/x.bin")
    assert (repo(run) / "m/x.bin").read_text() == "precious"
    direct.clean_temp()
    assert not kept.exists()


def test_failing_dumper_passes_with_a_note(direct: ArtifactService, run: Run) -> None:
    """A dumper's own exception comes through, with a note naming what it had written, which is kept."""

    def half(path: Path) -> None:
        path.write_text("half")
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        direct.log(run, half, "x")
    (note,) = caught.value.__notes__
    assert Path(note.rsplit(": ", 1)[1]).read_text() == "half"
    assert not repo(run).exists()


def test_failing_dumper_that_wrote_nothing(direct: ArtifactService, run: Run, tmp_path: Path) -> None:
    """Where nothing was written, nothing is kept, and there is no note."""

    def fail(path: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        direct.log(run, fail, "x")
    assert not hasattr(caught.value, "__notes__")
    assert list((tmp_path / "temp").iterdir()) == []


def test_dumper_that_adds_an_extension(direct: ArtifactService, run: Run) -> None:
    """A dumper that wrote beside its path is told so, and what it wrote is kept."""
    with pytest.raises(InvalidArgument, match=r"x\.npy"):
        direct.log(run, lambda path: path.with_suffix(".npy").write_text("x"), "x")


@pytest.mark.parametrize("stage", ["dump", "push"])
def test_interrupt(make: MakeService, run: Run, tmp_path: Path, stage: str) -> None:
    """Ctrl-C stays KeyboardInterrupt, in the dumper and in the upload, and keeps what was written."""

    class Interrupted(FileTransfer):
        def push(self, source: Path, url: str, *, http: Any = None) -> None:
            raise KeyboardInterrupt

    def dump(path: Path) -> None:
        path.write_text("x")
        if stage == "dump":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        make(transfer=Interrupted(prog_bar=False)).log(run, dump, "x")
    (kept,) = (tmp_path / "temp").rglob("x")
    assert kept.read_text() == "x"
    assert str(kept) in "".join(caught.value.__notes__)


def test_offline(make: MakeService, run: Run, tmp_path: Path) -> None:
    """Nothing is published offline."""
    (tmp_path / "f").write_text("x")
    with pytest.raises(OfflineError):
        make(offline_mode=True).log(run, tmp_path / "f")


def test_no_cache(make: MakeService, run: Run, tmp_path: Path) -> None:
    """Without a cache publishing works, and asking to use one is refused."""
    (tmp_path / "f").write_text("x")
    service = make(cache=None)
    service.log(run, tmp_path / "f")
    with pytest.raises(InvalidArgument, match="cache_dir"):
        service.log(run, tmp_path / "f", use_cache=True)


@pytest.mark.parametrize("blocked", ["root", "staging"])
@pytest.mark.parametrize("asked", [True, None])
def test_cache_that_can_not_be_written(
    make: MakeService,
    run: Run,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    blocked: str,
    asked: bool | None,
) -> None:
    """What can't be cached is published and registered; that is an error only if a copy was asked for."""
    root = tmp_path / "c"
    if blocked == "staging":
        root.mkdir()
    (root / "staging" if blocked == "staging" else root).write_text("no folder")
    (tmp_path / "f").write_text("x")
    service = make(cache=ArtifactCache(root), cache_local_artifacts=True)
    options: dict[str, Any] = {"use_cache": asked, "register": lambda: "version 1 of m"}
    if asked:
        with pytest.raises(CacheError, match="was published as version 1 of m, but could not be cached"):
            service.log(run, tmp_path / "f", keep_the_source=False, **options)
        assert (tmp_path / "f").read_text() == "x"
    else:
        service.log(run, tmp_path / "f", keep_the_source=False, **options)
        service.log(run, lambda path: path.write_text("x"), "g", **options)
        assert "was published as version 1 of m, but could not be cached" in caplog.text
        assert not (tmp_path / "f").exists()
        assert list((tmp_path / "temp").iterdir()) == []
    assert (repo(run) / "f").read_text() == "x"


def test_empty_folder(cached: ArtifactService, run: Run, tmp_path: Path) -> None:
    """An empty folder is published to a local repo as one."""
    (tmp_path / "d" / "inner").mkdir(parents=True)
    try:
        cached.log(run, tmp_path / "d")
    except WithrunError as error:  # pragma: no cover - says why in the failure
        pytest.fail(str(error))
    assert (repo(run) / "d" / "inner").is_dir()
