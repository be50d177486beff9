"""The contract on registered models and their versions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.conftest import Place
from withrun import BaseMlflowApi, ExpApi, RunApi
from withrun.errors import AlreadyExists, CacheError, FailedToPublishArtifact, InvalidArgument, NotFound

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_create_and_get(api: BaseMlflowApi, name: str, client: MlflowClient) -> None:
    """A model is registered once, and can be had by entity, handle and name."""
    model = api.create_model(name, tags={"a": {"b": 1}})
    assert client.get_registered_model(name).tags == {"a.b": "1"}
    for form in (model, name, model.model_copy()):
        assert api.get_model(form) == model
    assert api.get_or_create_model(name) == model
    with pytest.raises(AlreadyExists, match="get_or_create_model"):
        api.create_model(name)
    with pytest.raises(NotFound, match="nothing-of-that-name"):
        api.get_model("nothing-of-that-name")
    for wrong in ("", " ", "a/b", "a:b", 1, None):
        with pytest.raises(InvalidArgument):
            api.create_model(wrong)  # type: ignore[arg-type]


def test_tags_and_url(api: BaseMlflowApi, name: str, place: Place) -> None:
    """Tags nest and keep their types; the URL is the page of the web interface."""
    model = api.get_or_create_model(name)
    assert model.set_tags({"x": {"y": None}}) is model
    assert api.set_tags_on_model(name, {"z": 1}).tags == {"x": {"y": None}, "z": 1}
    assert model.update().tags == {"x": {"y": None}, "z": 1}
    assert model.url == api.get_model_url(name)
    assert model.url == f"{place.uri}{'/' if place.has_web_page else ''}#/models/{name}"


def test_versions(api: BaseMlflowApi, name: str, run: RunApi, folder: Path, client: MlflowClient) -> None:
    """Versions are numbered, lie under their run, and can be had by every form."""
    model = api.get_or_create_model(name)
    first = api.log_model_version(model, run, folder, tags={"k": {"v": 1}})
    second = api.log_model_version(name, run.id, str(folder), "elsewhere/it")
    third = run.log_model_version(name, folder / "a.txt", "single.txt")
    fourth = model.log_version(run, lambda path: path.write_text("dumped"), path_in_run="dumped")
    assert [v.version for v in (first, second, third, fourth)] == ["1", "2", "3", "4"]
    assert [v.path_in_run for v in (first, second, third, fourth)] == [
        name,
        "elsewhere/it",
        "single.txt",
        "dumped",
    ]
    stored = client.get_model_version(name, "1")
    assert stored.run_id == run.id
    assert stored.tags.pop("withrun.uid")  # by which it is registered once
    assert stored.tags == {"k.v": "1"}
    for form in (first, (name, "1"), (model, "1"), first.model_copy()):
        found = api.get_model_version(form)  # type: ignore[arg-type]
        assert (found, found.path_in_run, found.run) == (first, name, run)
    assert model.get_version("2") == second
    assert api.load_model_artifact((name, "4"), Path.read_text) == "dumped"
    assert {v.version for v in model.find_versions()} == {"1", "2", "3", "4"}
    assert {v.version for v in run.find_model_versions()} == {"1", "2", "3", "4"}
    assert [v.version for v in api.find_model_versions({"model.name": name, "tags.k.v": 1})] == ["1"]


def test_alias(api: BaseMlflowApi, name: str, run: RunApi, folder: Path, client: MlflowClient) -> None:
    """An alias names a version wherever one is named, moves, and can be deleted."""
    model = api.get_or_create_model(name)
    one, two = (model.log_version(run, folder, path) for path in ("one", "two"))
    assert one.set_alias("champion") is one
    assert str(client.get_model_version_by_alias(name, "champion").version) == "1"
    assert api.get_model_version((name, "@champion")) == one
    two.set_alias("champion")
    assert model.get_version("@champion") == two
    assert api.set_tags_on_model_version((name, "@champion"), {"best": True}).version == "2"
    assert api.get_model_version_url((name, "@champion")) == two.url
    assert (api.get_model_artifact((name, "@champion")) / "a.txt").read_text() == "a"
    model.delete_alias("champion").delete_alias("champion")
    with pytest.raises(NotFound, match="champion"):
        model.get_version("@champion")


def test_unregistered_version_keeps_its_source(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path, client: MlflowClient
) -> None:
    """When the registry refuses a version, the source is kept though it was to go; logging again mends it."""
    model = api.create_model(name)
    client.delete_registered_model(name)
    with pytest.raises(FailedToPublishArtifact, match="registration") as caught:
        api.log_model_version(model, run, folder, "m", keep_the_source=False)
    assert caught.value.source == folder
    assert (folder / "a.txt").read_text() == "a"
    assert api.log_model_version(name, run, folder, "m", keep_the_source=False).version == "1"
    assert not folder.exists()


def test_version_at_the_root(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path, client: MlflowClient
) -> None:
    """A version that another tool registered at a run's artifact folder leaves no path of it free."""
    run.log_artifact(folder / "a.txt")
    client.create_registered_model(name)
    client.create_model_version(name, run.repo_url, run.id)
    with pytest.raises(AlreadyExists, match="artifact folder"):
        api.log_model_version(name, run, folder, "else")


def test_version_under_another_spelling(
    api: BaseMlflowApi,
    place: Place,
    name: str,
    exp: ExpApi,
    folder: Path,
    client: MlflowClient,
    tmp_path: Path,
) -> None:
    """A version is seen where it lies, though the registry has its local path as a `file:` URL."""
    if not place.takes_any_source:
        pytest.skip("this store refuses sources on a local path, so that there can't be such a version")
    run = exp.create_run(repo=str(tmp_path / "re po"))
    run.log_artifact(folder, "m")
    client.create_registered_model(name)
    client.create_model_version(name, f"{Path(run.repo_url.removeprefix('file://')).as_uri()}/m", run.id)
    with pytest.raises(AlreadyExists, match="'m'"):
        api.log_model_version(name, run, folder, "m/sub")


def test_version_tags(api: BaseMlflowApi, name: str, run: RunApi, folder: Path) -> None:
    """Tags of versions nest, keep their types and add up."""
    version = api.log_model_version(name, run, folder)
    assert version.set_tags({"a": {"b": [1]}}) is version
    assert api.set_tags_on_model_version((name, "1"), {"c": "1"}).tags == {"a": {"b": [1]}, "c": "1"}
    assert version.update().tags == {"a": {"b": [1]}, "c": "1"}


def test_no_version_over_another(api: BaseMlflowApi, name: str, run: RunApi, folder: Path) -> None:
    """Publishing where, above or below where another version lies is refused; that version stays as it is."""
    api.log_model_version(name, run, folder, "a/b")
    for path in ("a/b", "a", "a/b/c"):
        with pytest.raises(AlreadyExists, match="a/b"):
            api.log_model_version(name, run, folder / "a.txt", path)
    api.log_model_version(name, run, folder, "a/bc")
    assert [v.version for v in run.find_model_versions()] in (["1", "2"], ["2", "1"])
    assert (api.get_model_artifact((name, "1")) / "a.txt").read_text() == "a"


def test_versions_at_once_to_one_path(
    api: BaseMlflowApi, name: str, run: RunApi, tmp_path: Path, client: MlflowClient
) -> None:
    """Of threads that log versions to one path, or below it, one succeeds, and its files are whole."""
    api.create_model(name)
    barrier = threading.Barrier(6)

    def log(number: int) -> str | None:
        folder = tmp_path / str(number)
        folder.mkdir()
        for file in "ab":
            (folder / file).write_text(str(number))
        barrier.wait()
        try:
            return run.log_model_version(name, folder, "p" if number % 3 else "p/q").version
        except AlreadyExists:
            return None

    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(log, range(6)))
    (winner,) = (number for number, version in enumerate(numbers) if version)
    assert len(client.search_model_versions(f"name = '{name}'")) == 1
    at = api.cache_model_artifact((name, "1"))
    assert {path.name: path.read_text() for path in at.iterdir()} == {"a": str(winner), "b": str(winner)}


def test_artifacts_over_a_version(api: BaseMlflowApi, name: str, run: RunApi, folder: Path) -> None:
    """Artifacts that would change a version's files are refused, by every verb; those beside it are not."""
    run.log_artifact(folder, "a")
    run.log_model_version(name, folder, "a/b")
    run.log_model_version(name, folder / "a.txt", "single")
    kept: list[Path] = []

    def dump(path: Path) -> None:
        kept.append(path)
        path.write_text("dumped")

    for source, path in (
        (folder, "a/b"),
        (folder / "a.txt", "a/b/a.txt"),
        (dump, "single"),
        (folder, "single"),
    ):
        with pytest.raises(AlreadyExists, match=r"a version is never changed") as caught:
            run.log_artifact(source, path)
    assert kept[0].read_text() == "dumped"
    (folder / "b").mkdir()
    (folder / "b" / "new").write_text("new")
    with pytest.raises(AlreadyExists, match="'a/b/new'"):
        run.log_artifact(folder, "a")
    assert "kept" in "".join(getattr(caught.value, "__notes__", []))
    run.log_artifact(folder / "sub", "a").log_artifact(folder / "a.txt", "a/c.txt")
    assert {o.Name for o in api.list_model_artifact((name, "1"))} == {"a.txt", "sub"}  # type: ignore[union-attr]


def test_local_paths_on_a_server(
    api: BaseMlflowApi, name: str, exp: ExpApi, place: Place, tmp_path: Path
) -> None:
    """A server takes no version on a path of its client: that is said before the callback is even called."""
    run = exp.create_run(repo=str(tmp_path / "repo"))
    if not place.has_web_page:
        assert run.log_model_version(name, lambda path: path.write_text("x")).version == "1"
        return
    with pytest.raises(InvalidArgument, match="without `repo`"):
        run.log_model_version(name, lambda path: path.write_text("x"))
    assert run.list_artifacts() == []
    assert list(api.find_models({"name": name})) == []


def test_version_that_can_not_be_cached(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A version that can't be cached is registered and given back; if that was asked for, it is named."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "staging").write_text("in the way")
    with api.model_copy(update={"cache_dir": tmp_path / "cache", "cache_local_artifacts": True}) as cramped:
        assert cramped.log_model_version(name, run, folder, "one").version == "1"
        assert f"as version 1 of model '{name}', but could not be cached" in caplog.text
        with pytest.raises(CacheError, match=f"version 2 of model '{name}', but could not be cached"):
            cramped.log_model_version(name, run, folder, "two", use_cache=True)
    assert {v.version for v in api.get_model(name).find_versions()} == {"1", "2"}


def test_refused_before_anything_is_published(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path, client: MlflowClient
) -> None:
    """Bad tags, paths, versions and sources are refused with nothing published and no model registered."""
    for bad in (
        {"tags": {"a\n": 1}},
        {"tags": "text"},
        {"version": "7"},
        {"path_in_run": "../up"},
        {"path_in_run": "/abs"},
        {"source": 3},
        {"source": lambda path: path.write_text("x"), "path_in_run": ""},
    ):
        with pytest.raises(InvalidArgument):
            api.log_model_version(**{"model": name, "run": run, "source": folder, **bad})
    assert run.list_artifacts() == []
    assert list(api.find_models({"name": name})) == []


def test_empty_path_means_the_name_of_the_source(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path
) -> None:
    """With a path as source, an empty `path_in_run` means the source's own name."""
    assert api.log_model_version(name, run, folder, "").path_in_run == folder.name


@pytest.mark.parametrize(
    "wrong", [None, "name", ("name",), ("a", "b", "c"), ("a", None), ("", "1"), ("a", 1.5)]
)
def test_what_is_no_version(api: BaseMlflowApi, wrong: object) -> None:
    """What names no version is refused at once, saying what is accepted."""
    for call in (api.get_model_version, api.get_model_artifact, api.get_model_version_url):
        with pytest.raises(InvalidArgument):
            call(wrong)  # type: ignore[operator]


def test_artifact_of_a_version(
    api: BaseMlflowApi, name: str, run: RunApi, folder: Path, tmp_path: Path
) -> None:
    """A version's artifact is listed, pulled, loaded, placed, exported and cleaned, on API and handle."""
    version = api.log_model_version(name, run, folder)
    listed = version.list_artifacts()
    assert isinstance(listed, list)
    assert {o.Name for o in listed} == {"a.txt", "sub"}
    assert [o.Name for o in api.list_model_artifact((name, "1"), "sub")] == ["b ü.txt"]  # type: ignore[union-attr]
    assert version.get_artifact() == api.get_model_artifact((name, "1"))
    assert version.load_artifact(lambda path: sorted(p.name for p in path.iterdir())) == ["a.txt", "sub"]
    placed = version.place_artifact(tmp_path / "placed", link=False)
    assert (placed / "sub" / "b ü.txt").read_text() == "b"
    assert not (placed / "a.txt").stat().st_mode & 0o222
    exported = api.export_model_artifact(version, tmp_path / "export")
    assert (exported / "a.txt").read_text() == "a"
    assert version.clean_cached_artifact() is version
    assert (version.get_artifact() / "a.txt").read_text() == "a"
