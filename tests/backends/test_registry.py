"""Registered models, their versions, and logged models, through every backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.conftest import MLFLOW
from withrun.backend import Backend, KeyValue, VersionRecord
from withrun.errors import AlreadyExists, NotFound, ServerError

if TYPE_CHECKING:
    from mlflow import MlflowClient


def _dict(items: tuple[KeyValue, ...]) -> dict[str, str]:
    return {item.key: item.value for item in items}


@pytest.fixture
def model(backend: Backend, name: str) -> str:
    """The name of a new model."""
    return backend.create_model(name).name


@pytest.fixture
def version(backend: Backend, model: str, run: str) -> VersionRecord:
    """A new version, of an artifact of the run's."""
    source = f"{backend.get_run(run).artifact_uri}/model"
    return backend.create_version(model, source, run_id=run, tags=(KeyValue("t", ""),), description="d")


def test_model(backend: Backend, client: MlflowClient, name: str) -> None:
    """A model is created with tags and description, and its name can be used once."""
    created = backend.create_model(name, tags=(KeyValue("a", ""), KeyValue("b", "😀")), description="what")
    found = client.get_registered_model(name)
    assert (found.tags, found.description) == ({"a": "", "b": "😀"}, "what")
    assert backend.get_model(name) == created
    with pytest.raises(AlreadyExists, match=name):
        backend.create_model(name)


def test_model_tags(backend: Backend, client: MlflowClient, model: str) -> None:
    """A model's tags are set, replaced and deleted; an absent one counts as deleted."""
    backend.set_model_tag(model, "a", "1")
    backend.set_model_tag(model, "a", "")
    assert client.get_registered_model(model).tags == {"a": ""}
    backend.delete_model_tag(model, "a")
    backend.delete_model_tag(model, "a")
    assert client.get_registered_model(model).tags == {}


def test_models_in_pages(backend: Backend, name: str) -> None:
    """A search of models gives pages in the order asked for."""
    names = [backend.create_model(f"{name}-{i}").name for i in range(3)]
    first = backend.search_models(f"name LIKE '{name}%'", max_results=2, order_by=("name ASC",))
    rest = backend.search_models(
        f"name LIKE '{name}%'", max_results=2, order_by=("name ASC",), page_token=first.next_token
    )
    assert [m.name for m in first.items + rest.items] == names
    assert rest.next_token == ""


def test_version(backend: Backend, client: MlflowClient, version: VersionRecord, run: str) -> None:
    """A version gets the next number as a string, its source, run, tags and description."""
    found = client.get_model_version(version.name, "1")
    assert version.version == "1"
    assert (version.source, version.run_id) == (found.source, run)
    assert (version.description, version.status) == ("d", "READY")
    assert _dict(version.tags) == found.tags == {"t": ""}
    assert backend.get_version(version.name, "1") == version
    assert backend.version_download_uri(version.name, "1") == version.source
    again = backend.create_version(version.name, version.source, run_id=run)
    assert again.version == "2"


def test_version_tags(backend: Backend, client: MlflowClient, version: VersionRecord) -> None:
    """A version's tags are set and deleted; an absent one counts as deleted."""
    backend.set_version_tag(version.name, "1", "a", "😀")
    backend.delete_version_tag(version.name, "1", "t")
    backend.delete_version_tag(version.name, "1", "t")
    assert client.get_model_version(version.name, "1").tags == {"a": "😀"}


def test_aliases(backend: Backend, client: MlflowClient, version: VersionRecord, run: str) -> None:
    """An alias names one version at a time, by string; removing one that is absent changes nothing."""
    backend.create_version(version.name, version.source, run_id=run)
    backend.set_alias(version.name, "champion", "1")
    backend.set_alias(version.name, "champion", "2")
    found = backend.get_version_by_alias(version.name, "champion")
    assert (found.version, found.aliases) == ("2", ("champion",))
    assert backend.get_model(version.name).aliases == (KeyValue("champion", "2"),)
    assert str(client.get_model_version_by_alias(version.name, "champion").version) == "2"
    backend.delete_alias(version.name, "champion")
    backend.delete_alias(version.name, "champion")
    with pytest.raises(NotFound, match="champion"):
        backend.get_version_by_alias(version.name, "champion")


def test_reserved_alias(backend: Backend, version: VersionRecord) -> None:
    """An alias that MLflow reserves is refused as a 4xx."""
    with pytest.raises(ServerError) as caught:
        backend.set_alias(version.name, "v1", "1")
    assert caught.value.status == 400


def test_search_versions(backend: Backend, version: VersionRecord, run: str) -> None:
    """A search of versions filters and orders, and gives numbers as strings."""
    backend.create_version(version.name, version.source, run_id=run)
    found = backend.search_versions(f"name = '{version.name}'", order_by=("version_number DESC",))
    assert [v.version for v in found.items] == ["2", "1"]
    assert len(backend.search_versions(f"run_id = '{run}'", max_results=1).items) == 1


def test_delete_version(backend: Backend, client: MlflowClient, version: VersionRecord) -> None:
    """A version is deleted with its aliases; one that is absent counts as deleted."""
    backend.set_alias(version.name, "champion", "1")
    backend.delete_version(version.name, "1")
    backend.delete_version(version.name, "1")
    assert client.search_model_versions(f"name = '{version.name}'") == []
    assert backend.get_model(version.name).aliases == ()


@pytest.mark.parametrize("unknown", ["no such model", "", "a/b", "a:b", "😀", "a\0b"])
def test_unknown_model(backend: Backend, unknown: str) -> None:
    """Every call on a name that no model has, or can have, is NotFound and says what was asked."""
    calls = (
        lambda: backend.get_model(unknown),
        lambda: backend.set_model_tag(unknown, "k", "v"),
        lambda: backend.delete_model_tag(unknown, "k"),
        lambda: backend.get_version(unknown, "1"),
        lambda: backend.get_version_by_alias(unknown, "champion"),
        lambda: backend.set_alias(unknown, "champion", "1"),
        lambda: backend.delete_alias(unknown, "champion"),
        lambda: backend.set_version_tag(unknown, "1", "k", "v"),
    )
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert repr(unknown) in str(caught.value)


@pytest.mark.parametrize("unknown", ["7", "x", "", "-1", "1.0", "9" * 30])
def test_unknown_version(backend: Backend, version: VersionRecord, unknown: str) -> None:
    """Every call on a version that is not there, or can't be, is NotFound and says what was asked."""
    calls = (
        lambda: backend.get_version(version.name, unknown),
        lambda: backend.version_download_uri(version.name, unknown),
        lambda: backend.set_version_tag(version.name, unknown, "k", "v"),
        lambda: backend.delete_version_tag(version.name, unknown, "k"),
        lambda: backend.set_alias(version.name, "champion", unknown),
    )
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert repr(unknown) in str(caught.value)


@pytest.mark.parametrize("unknown", ["zz", "a b", ""])
def test_unknown_alias(backend: Backend, version: VersionRecord, unknown: str) -> None:
    """An alias that names no version is NotFound."""
    with pytest.raises(NotFound):
        backend.get_version_by_alias(version.name, unknown)


@pytest.mark.parametrize("malformed", ["", *(["a/b", "a:b"] if MLFLOW >= (3, 0) else [])])
def test_malformed_name(backend: Backend, malformed: str) -> None:
    """A model can't be created under a name that MLflow doesn't allow; that is a 4xx."""
    with pytest.raises(ServerError) as caught:
        backend.create_model(malformed)
    assert caught.value.status == 400


@pytest.mark.skipif(MLFLOW < (3, 0), reason="MLflow 2 has no logged models")
def test_logged_model(
    backend: Backend,
    client: MlflowClient,
    model: str,
    run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version of a logged model is registered in this store, and nothing is left in the current folder."""
    monkeypatch.chdir(tmp_path)
    experiment = backend.get_run(run).experiment_id
    logged = client.create_logged_model(experiment, name="net", source_run_id=run)
    record = backend.get_logged_model(logged.model_id)
    assert (record.name, record.source_run_id, record.status) == ("net", run, "PENDING")
    assert record.artifact_uri == logged.artifact_location
    version = backend.create_version(model, f"models:/{logged.model_id}")
    assert version.run_id == run
    assert backend.version_download_uri(model, version.version) == record.artifact_uri
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unknown", ["m-" + "0" * 32, "", "../x", "a/b", "%2e%2e"])
def test_unknown_logged_model(backend: Backend, unknown: str) -> None:
    """An ID that names no logged model is NotFound."""
    with pytest.raises(NotFound):
        backend.get_logged_model(unknown)
