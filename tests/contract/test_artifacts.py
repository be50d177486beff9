"""The contract on artifacts of runs, and on the cache that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.conftest import Place
from withrun import BaseMlflowApi, GenericMlflowApi, RunApi
from withrun.errors import ArtifactNotFound, FailedToPublishArtifact, IllegalPath, NotCached


def test_log_and_list(api: BaseMlflowApi, run: RunApi, folder: Path) -> None:
    """Paths and dumpers are published by every form of the run, under their own or a given name."""
    assert run.log_artifact(folder) is run
    api.log_run_artifact(run.id, str(folder / "a.txt"), "renamed.txt")
    api.log_run_artifact(run.model_copy(), lambda path: path.write_text("dumped"), "deep/dumped")
    listed = api.list_run_artifacts(run)
    assert isinstance(listed, list)
    assert {(o.Name, o.IsDir) for o in listed} == {("folder", True), ("renamed.txt", False), ("deep", True)}
    one = run.list_artifacts("renamed.txt")
    assert not isinstance(one, list)
    assert (one.Name, one.Size, one.IsDir) == ("renamed.txt", 1, False)
    assert run.load_artifact(Path.read_text, "deep/dumped") == "dumped"
    assert (folder / "a.txt").read_text() == "a"


def test_nothing_there(api: BaseMlflowApi, run: RunApi, tmp_path: Path) -> None:
    """A run without artifacts lists none; what is missing is ArtifactNotFound, in the run and as a source."""
    assert run.list_artifacts() == []
    for call in (run.list_artifacts, run.get_artifact, run.cache_artifact):
        with pytest.raises(ArtifactNotFound, match="nothing"):
            call("nothing")
    with pytest.raises(FileNotFoundError):
        run.log_artifact(tmp_path / "nothing")


def test_get_place_export(api: BaseMlflowApi, run: RunApi, folder: Path, tmp_path: Path) -> None:
    """What was published comes back whole by get, place (linked or copied) and export."""
    run.log_artifact(folder)
    got = run.get_artifact("folder")
    assert (got / "sub" / "b ü.txt").read_text() == "b"
    assert api.get_run_artifact(run.id, "folder/a.txt").read_text() == "a"
    linked = run.place_artifact(tmp_path / "linked", "folder")
    copied = run.place_artifact(tmp_path / "copied.txt", "folder/a.txt", link=False)
    assert (linked / "a.txt").read_text() == copied.read_text() == "a"
    with pytest.raises(FileExistsError, match="overwrite"):
        run.place_artifact(tmp_path / "copied.txt", "folder/a.txt")
    run.place_artifact(tmp_path / "copied.txt", "folder/sub/b ü.txt", overwrite=True, link=False)
    assert (tmp_path / "copied.txt").read_text() == "b"
    assert (run.export_artifact(tmp_path / "export", "folder") / "a.txt").read_text() == "a"


def test_adding_deletes_nothing(run: RunApi, folder: Path, tmp_path: Path) -> None:
    """Publishing into a folder of a run adds and replaces file by file."""
    run.log_artifact(folder)
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.txt").write_text("new")
    (more / "c.txt").write_text("c")
    run.log_artifact(more, "folder")
    names = {o.Name for o in run.list_artifacts("folder")}  # type: ignore[union-attr]
    assert names == {"a.txt", "c.txt", "sub"}
    run.clean_cached_artifact("folder")
    assert (run.cache_artifact("folder") / "a.txt").read_text() == "new"


@pytest.mark.parametrize("path", ["../up", "/abs", "a/../../b", "a\0b"])
def test_illegal_paths(api: BaseMlflowApi, run: RunApi, folder: Path, path: str) -> None:
    """A path that is absolute or climbs is refused by every verb, before anything happens."""
    calls = (
        lambda: run.log_artifact(folder / "a.txt", path),
        lambda: run.get_artifact(path),
        lambda: run.list_artifacts(path),
        lambda: run.load_artifact(Path.read_text, path),
        lambda: api.clean_cached_run_artifact(run, path),
    )
    for call in calls:
        with pytest.raises(IllegalPath):
            call()
    assert run.list_artifacts() == []


def test_failing_dumper(run: RunApi) -> None:
    """A dumper's own exception passes, and what it had written is kept and named in a note."""

    def dump(path: Path) -> None:
        path.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run.log_artifact(dump, "dumped")
    kept = [Path(word.strip("'.,:")) for note in _notes(caught.value) for word in note.split() if "/" in word]
    assert [path.read_text() for path in kept if path.is_file()] == ["half"]
    assert run.list_artifacts() == []


def _notes(error: BaseException) -> list[str]:
    return [*getattr(error, "__notes__", []), *map(str, error.args)]


def test_failed_publish_keeps_the_source(api: BaseMlflowApi, folder: Path, exp: object, place: Place) -> None:
    """When publishing fails, the error names the source or the dumper's output, which is kept."""
    run = api.create_run(exp, repo="file:///proc/nothing/can/be/written/here")  # type: ignore[arg-type]
    with pytest.raises(FailedToPublishArtifact) as caught:
        run.log_artifact(folder)
    assert (caught.value.source / "a.txt").read_text() == "a"
    with pytest.raises(FailedToPublishArtifact) as caught:
        run.log_artifact(lambda path: path.write_text("dumped"), "dumped")
    assert caught.value.source.read_text() == "dumped"
    api.clean_temp_artifacts()
    assert not caught.value.source.exists()


def test_repo_of_ones_own(api: BaseMlflowApi, exp: object, folder: Path, tmp_path: Path) -> None:
    """A run with a `repo` keeps its artifacts there, as `repo_url` says."""
    run = api.create_run(exp, repo=(tmp_path / "repo").as_uri())  # type: ignore[arg-type]
    run.log_artifact(folder)
    assert (
        api.get_run(run.id).repo_url == run.repo_url == f"{(tmp_path / 'repo').as_uri()}/{run.id}/artifacts"
    )
    assert (tmp_path / "repo" / run.id / "artifacts" / "folder" / "a.txt").read_text() == "a"


def test_dumpers_write_inside_the_cache(api: BaseMlflowApi, tmp_path: Path) -> None:
    """`temp_artifacts_dir` is a folder inside the cache, also of a copy with another cache, unless given."""
    assert api.cache_dir is not None
    assert api.temp_artifacts_dir == api.cache_dir / "temp-artifacts"
    conf = {"healthcheck": False}
    copy = api.model_copy(update={"cache_dir": tmp_path / "other", **conf})
    assert copy.temp_artifacts_dir == tmp_path / "other" / "temp-artifacts"
    copy = api.model_copy(update={"temp_artifacts_dir": tmp_path / "mine", **conf})
    assert copy.temp_artifacts_dir == copy.in_offline_mode.temp_artifacts_dir == tmp_path / "mine"


def test_by_id_without_a_request(
    api: BaseMlflowApi, run: RunApi, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a run's ID, what is cached is served without the server, and offline without cached metadata."""
    run.log_artifact(folder)
    with api.model_copy(update={"cache_local_artifacts": True}) as caching:
        cached = caching.cache_run_artifact(run.id, "folder")
        monkeypatch.setattr(caching.services.runs, "fetch", None)  # who asks fails
        assert caching.get_run_artifact(run.id, "folder") == cached
        offline = caching.in_offline_mode
    assert offline.get_run_artifact(run.id, "folder") == cached
    assert offline.load_run_artifact(run.id, Path.read_text, "folder/a.txt") == "a"
    with pytest.raises(NotCached):
        offline.get_run_artifact(run.id, "else")
    offline.clean_cached_run_artifact(run.id)
    with pytest.raises(NotCached):
        offline.get_run_artifact(run.id, "folder")


def test_artifact_exports_serve_by_id(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path, tmp_path: Path
) -> None:
    """An export of an artifact alone serves it by the run's ID, and a version's by name and number."""
    run.log_artifact(folder)
    version = run.log_model_version(name, folder, "m")
    api.export_run_artifact(run.id, tmp_path / "export", "folder")
    api.export_model_artifact((name, version.version), tmp_path / "export")
    generic = GenericMlflowApi(cache_dir=tmp_path / "export")
    assert (generic.get_run_artifact(run.id, "folder") / "a.txt").read_text() == "a"
    assert (generic.get_model_artifact((name, version.version)) / "a.txt").read_text() == "a"
