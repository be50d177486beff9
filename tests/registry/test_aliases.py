"""Names of versions: numbers that the registry gives, and aliases that users give, online and offline."""

from __future__ import annotations

from pathlib import Path

import pytest

import withrun
from tests.registry.conftest import Store
from withrun.errors import AlreadyExists, InvalidArgument, NotCached, NotFound, OfflineError


@pytest.fixture
def version(run: withrun.RunApi, name: str) -> withrun.ModelVersionApi:
    """A version with the alias `champion`."""
    made = run.log_model_version(name, lambda path: path.write_text("weights"), tags={"a": 1})
    return made.set_alias("champion")


def test_alias_names_a_version_everywhere(
    store: Store, api: withrun.BaseMlflowApi, version: withrun.ModelVersionApi, name: str, tmp_path: Path
) -> None:
    """Every call that takes a version takes it by `@alias`."""
    alias = (name, "@champion")
    assert str(store.client.get_model_version_by_alias(name, "champion").version) == version.version
    assert api.get_model_version(alias) == version
    assert api.get_model(name).get_version("@champion") == version
    assert api.get_model_version_url(alias) == version.url
    assert api.set_tags_on_model_version(alias, {"b": 2}).tags == {"a": 1, "b": 2}
    assert store.client.get_model_version(name, version.version).tags["b"] == "2"
    assert api.get_model_artifact(alias).read_text() == "weights"
    assert api.cache_model_artifact(alias).read_text() == "weights"
    assert api.load_model_artifact(alias, Path.read_text) == "weights"
    assert not isinstance(api.list_model_artifact(alias), list)
    assert api.place_model_artifact(alias, tmp_path / "placed").read_text() == "weights"
    api.clean_cached_model_artifact(alias)
    assert api.cache_model_version_meta(alias).version == version.version
    assert api.export_model_version_meta(alias, tmp_path / "export").is_file()
    assert api.export_model_artifact(alias, tmp_path / "export").read_text() == "weights"


def test_alias_moves(
    api: withrun.BaseMlflowApi, run: withrun.RunApi, version: withrun.ModelVersionApi, name: str
) -> None:
    """An alias set on another version names that one; deleted, it names none; deleting again is fine."""
    second = run.log_model_version(name, lambda path: path.write_text("2"), "second").set_alias("@champion")
    assert api.get_model_version((name, "@champion")) == second
    model = api.get_model(name)
    assert model.delete_alias("champion").delete_alias("@champion") is model
    with pytest.raises(NotFound, match="champion"):
        api.get_model_version((name, "@champion"))


@pytest.mark.parametrize("alias", ["v1", "V22", "latest", "Latest", "a b", "a/b", "", "@", "é?", None])
def test_bad_alias(version: withrun.ModelVersionApi, alias: str) -> None:
    """An alias that MLflow reserves or can't keep is refused before anything is sent."""
    with pytest.raises(InvalidArgument):
        version.set_alias(alias)


def test_alias_offline(
    api: withrun.BaseMlflowApi,
    run: withrun.RunApi,
    version: withrun.ModelVersionApi,
    name: str,
    tmp_path: Path,
) -> None:
    """Cached or exported by its alias, a version has it offline; by number alone, an error says the way."""
    version.export(tmp_path / "export")
    generic = withrun.get_api("generic", conf={"cache_dir": tmp_path / "export"})
    with pytest.raises(OfflineError, match="by its alias while online"):
        generic.get_model_version((name, "@champion"))
    api.export_model_version_meta((name, "@champion"), tmp_path / "export")
    assert generic.load_model_artifact((name, "@champion"), Path.read_text) == "weights"

    api.cache_model_version_meta((name, "@champion"))
    offline = api.in_offline_mode
    assert offline.get_model_version((name, "@champion")).version == "1"
    second = run.log_model_version(name, lambda path: path.write_text("2"), "second").set_alias("champion")
    api.cache_model_version_meta((name, "@champion"))
    assert offline.get_model_version((name, "@champion")).version == second.version
    api.clean_all_cache()
    with pytest.raises(OfflineError):
        offline.get_model_version((name, "@champion"))
    with pytest.raises(NotCached):
        offline.get_model_version((name, "1"))


def test_chosen_version(store: Store, api: withrun.BaseMlflowApi, run: withrun.RunApi, name: str) -> None:
    """A version number of the caller's is refused before anything is published or registered."""
    for log in (
        lambda **version: api.log_model_version(name, run, lambda path: path.write_text("x"), **version),
        lambda **version: run.log_model_version(name, lambda path: path.write_text("x"), **version),
    ):
        with pytest.raises(InvalidArgument, match="numbers versions itself"):
            log(version="7")
    assert run.list_artifacts() == []
    with pytest.raises(NotFound):
        api.get_model(name)


@pytest.mark.parametrize("path", ["{name}", "{name}/inner", "above"])
def test_taken_path(api: withrun.BaseMlflowApi, run: withrun.RunApi, name: str, path: str) -> None:
    """Nothing is published at, below or above another version's artifact, and that stays as it was."""
    inside = "above/below" if path == "above" else name
    first = run.log_model_version(name, lambda path: path.write_text("first"), inside)
    with pytest.raises(AlreadyExists, match="another path_in_run"):
        run.log_model_version(name, lambda path: path.write_text("second"), path.format(name=name))
    assert first.get_artifact().read_text() == "first"
    assert [v.version for v in api.get_model(name).find_versions()] == ["1"]
    beside = run.log_model_version(name, lambda path: path.write_text("beside"), f"{inside}-2")
    assert beside.get_artifact().read_text() == "beside"


def test_same_name_in_another_run(api: withrun.BaseMlflowApi, name: str) -> None:
    """Versions of one model have the same path in different runs, and keep their own artifacts."""
    exp = api.get_or_create_exp("registry")
    made = []
    for text in ("one", "two"):
        with api.start_run(exp) as run:
            made.append(run.log_model_version(name, lambda path, text=text: path.write_text(text)))
    assert [version.version for version in made] == ["1", "2"]
    assert [version.load_artifact(Path.read_text) for version in made] == ["one", "two"]


def test_model_names(store: Store, api: withrun.BaseMlflowApi, name: str) -> None:
    """A model's name is used once; `get_or_create_model` takes what is there."""
    made = api.create_model(name, {"t": [1]})
    assert store.client.get_registered_model(name).tags == {"t": "[1]"}
    with pytest.raises(AlreadyExists, match="get_or_create_model"):
        api.create_model(name)
    assert api.get_or_create_model(name) == made
    with pytest.raises(NotFound):
        api.get_model(f"{name}-not")
    with pytest.raises(NotFound):
        api.get_model_version((name, "1"))
