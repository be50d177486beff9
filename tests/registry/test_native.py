"""Versions that MLflow's own client registered, in every way that it has."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import withrun
from tests.registry.conftest import Store
from withrun.errors import ArtifactNotFound

# What each way's artifact holds: the names in a folder, or None for a file.
HOLDS = {
    "logged": {"MLmodel", "model.pkl"},
    "copied": {"MLmodel", "model.pkl"},
    "runs folder": {"a.txt"},
    "runs file": None,
    "runs odd": None,
    "runs root": {"folder", "o d"},
    "plain folder": {"a.txt"},
    "plain folder, no run": {"a.txt"},
    "runs folder, no run": {"a.txt"},
}


def key(store: Store, way: str) -> tuple[str, str]:
    if way not in store.native:
        pytest.skip(f"this store refuses a version made so: {way}")
    model, version, _ = store.native[way]
    return model, version


@pytest.mark.parametrize("way", HOLDS)
def test_is_read(
    store: Store, api: withrun.BaseMlflowApi, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version made by MLflow's client is got, listed, placed, exported; the current folder stays empty."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    model, number = key(store, way)
    version = api.get_model_version((model, number))
    assert (version.model.name, version.version) == (model, number)
    assert (version.run.id if version.run else "") == store.native[way][2]

    found = version.get_artifact()
    wanted = HOLDS[way]
    listed = version.list_artifacts()
    if wanted is None:
        assert found.read_text() in ("whole", "odd")
        assert not isinstance(listed, list)
        assert listed.Size == found.stat().st_size
    else:
        assert wanted <= {path.name for path in found.iterdir()}
        assert isinstance(listed, list)
        assert wanted <= {meta.Name for meta in listed}

    placed = api.place_model_artifact((model, number), tmp_path / "placed", link=False)
    files = [placed] if wanted is None else [path for path in placed.rglob("*") if path.is_file()]
    assert files
    assert not any(path.stat().st_mode & 0o222 for path in files)

    version.export(tmp_path / "export")
    offline = withrun.get_api("generic", conf={"cache_dir": tmp_path / "export"})
    again = offline.get_model_artifact((model, number))
    assert again.is_relative_to(tmp_path / "export")
    assert tree(again) == tree(found)
    assert list(here.iterdir()) == []


def tree(path: Path) -> dict[str, bytes]:
    """The files below a path, or the one there, by relative name."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("way", ["logged", "copied"])
def test_logged_model_is_loaded(store: Store, api: withrun.BaseMlflowApi, way: str) -> None:
    """What `mlflow.sklearn.log_model` registered is loaded through withrun, and predicts."""

    def load(path: Path) -> object:
        with (path / "model.pkl").open("rb") as file:
            return pickle.load(file)

    model = api.load_model_artifact(key(store, way), load)
    assert list(model.predict([[0.0], [1.0]])) == [0, 1]  # type: ignore[attr-defined]


def test_inside_their_run(store: Store, api: withrun.BaseMlflowApi) -> None:
    """A `runs:/` source and a plain one are the same place in the run."""
    for way in ("runs folder", "plain folder"):
        version = api.get_model_version(key(store, way))
        assert (version.path_in_run, version.source) == ("folder", "")
    assert version.run is not None
    assert version.get_artifact() == version.run.get_artifact("folder")


def test_missing(store: Store, api: withrun.BaseMlflowApi, tmp_path: Path) -> None:
    """A version whose artifact is not there is fetched and listed; its artifact is ArtifactNotFound."""
    version = api.get_model_version(key(store, "missing"))
    for verb in (
        version.get_artifact,
        version.cache_artifact,
        version.list_artifacts,
        lambda: version.load_artifact(lambda path: path),
        lambda: version.place_artifact(tmp_path / "placed"),
        lambda: version.export_artifact(tmp_path / "export"),
    ):
        with pytest.raises(ArtifactNotFound, match="nothing"):
            verb()
    assert not (tmp_path / "placed").exists()


def test_are_found(store: Store, api: withrun.BaseMlflowApi) -> None:
    """A search finds them all, and those of one model or one run."""
    everything = {(v.model.name, v.version) for v in api.find_model_versions()}
    assert {made[:2] for made in store.native.values()} <= everything
    assert [v.version for v in api.get_model("logged").find_versions()] == ["1"]
    run = api.get_run(store.native["logged"][2])
    of_run = {(v.model.name, v.version) for v in run.find_model_versions()}
    assert of_run == {made[:2] for made in store.native.values() if made[2]}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("runs:/" + "f" * 32 + "/x", "run that is no longer"),
        ("runs:", "run that is no longer"),
        ("", "does not say where"),
        ("some/folder", "relative path"),
        ("..", "relative path"),
    ],
)
def test_lost_sources(store: Store, api: withrun.BaseMlflowApi, name: str, source: str, words: str) -> None:
    """A version whose source leads nowhere is listed among the others; reading it says that it is lost."""
    # The database's own store takes any source, where a server would refuse some.
    registry = store.client._get_registry_client().store  # the public client checks sources
    store.client.create_registered_model(name)
    registry.create_model_version(name, source)
    assert [v.version for v in api.find_model_versions({"model.name": name})] == ["1"]
    with pytest.raises(ArtifactNotFound, match=words):
        api.get_model_artifact((name, "1"))


def test_lost_logged_model(store: Store, api: withrun.BaseMlflowApi, name: str) -> None:
    """A version of a logged model that was deleted is listed, and its artifact is said to be lost."""
    source = api.get_model_version(key(store, "logged"))
    assert source.run is not None
    logged = store.client.create_logged_model(source.run.exp.id, name="gone", source_run_id=source.run.id)
    store.client.create_registered_model(name)
    api.services.backend.create_version(name, f"models:/{logged.model_id}", run_id=source.run.id)
    store.client.delete_logged_model(logged.model_id)
    (found,) = api.find_model_versions({"model.name": name})
    with pytest.raises(ArtifactNotFound):
        found.get_artifact()
