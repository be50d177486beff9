"""Experiments, through every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.backends.conftest import MLFLOW
from withrun.backend import Backend, KeyValue
from withrun.errors import AlreadyExists, NotFound, ServerError

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_created_is_there(backend: Backend, client: MlflowClient, name: str) -> None:
    """An experiment is created with its name and all of its tags, empty and four-byte ones too."""
    tags = {"plain": "text", "empty": "", "ключ": "значение 😀"}
    experiment_id = backend.create_experiment(name, tags=tuple(KeyValue(*item) for item in tags.items()))
    found = client.get_experiment(experiment_id)
    assert (found.name, found.tags) == (name, tags)
    record = backend.get_experiment(experiment_id)
    assert record.artifact_location == found.artifact_location
    assert record.creation_time == found.creation_time
    assert {tag.key: tag.value for tag in record.tags} == tags
    assert backend.get_experiment_by_name(name) == record


def test_artifact_location_is_kept(backend: Backend, client: MlflowClient, name: str) -> None:
    """An artifact location that is given is the experiment's, as it is."""
    experiment_id = backend.create_experiment(name, artifact_location="s3://bucket/some where")
    assert client.get_experiment(experiment_id).artifact_location == "s3://bucket/some where"


def test_taken_name(backend: Backend, name: str) -> None:
    """A name can be used once; also a deleted experiment keeps it, and the error says so."""
    experiment_id = backend.create_experiment(name)
    with pytest.raises(AlreadyExists, match=name):
        backend.create_experiment(name)
    backend.delete_experiment(experiment_id)
    with pytest.raises(AlreadyExists, match="deleted") as caught:
        backend.create_experiment(name)
    assert "[SQL" not in str(caught.value)


def test_delete_and_restore(backend: Backend, client: MlflowClient, experiment: str) -> None:
    """A deleted experiment is found by ID and name, but not among active ones, until it is restored."""
    backend.delete_experiment(experiment)
    record = backend.get_experiment(experiment)
    assert record.lifecycle_stage == "deleted"
    assert backend.get_experiment_by_name(record.name) == record
    query = f"name = '{record.name}'"
    assert backend.search_experiments(query).items == ()
    assert backend.search_experiments(query, view_type="DELETED_ONLY").items == (record,)
    backend.restore_experiment(experiment)
    assert client.get_experiment(experiment).lifecycle_stage == "active"


def test_tags(backend: Backend, client: MlflowClient, experiment: str) -> None:
    """Tags are set, replaced and deleted; deleting one that is absent changes nothing, in MLflow 3."""
    backend.set_experiment_tag(experiment, "a", "1")
    backend.set_experiment_tag(experiment, "a", "")
    backend.set_experiment_tag(experiment, "b", "2")
    assert client.get_experiment(experiment).tags == {"a": "", "b": "2"}
    if MLFLOW < (3, 0):
        with pytest.raises(ServerError, match=r"version|upgrade"):
            backend.delete_experiment_tag(experiment, "a")
        return
    backend.delete_experiment_tag(experiment, "a")
    backend.delete_experiment_tag(experiment, "a")
    assert client.get_experiment(experiment).tags == {"b": "2"}


def test_search_pages_in_order(backend: Backend, name: str) -> None:
    """A search gives pages in the order asked for, each experiment once."""
    ids = [backend.create_experiment(f"{name}-{i}") for i in range(5)]
    found, token = [], ""
    while True:
        page = backend.search_experiments(
            f"name LIKE '{name}%'", max_results=2, order_by=("name DESC",), page_token=token
        )
        found += [record.experiment_id for record in page.items]
        assert len(page.items) <= 2
        if not (token := page.next_token):
            break
    assert found == ids[::-1]


@pytest.mark.parametrize("unknown", ["999999", "no-number", "", "9" * 30, "-1", "a/b", "../0", "0\0", "😀"])
def test_unknown_id(backend: Backend, unknown: str) -> None:
    """Every call on an ID that names no experiment, malformed or not, is NotFound and says what was asked."""
    calls = [
        lambda: backend.get_experiment(unknown),
        lambda: backend.set_experiment_tag(unknown, "k", "v"),
        lambda: backend.delete_experiment(unknown),
        lambda: backend.restore_experiment(unknown),
        lambda: backend.create_run(unknown, run_name="r", start_time=1),
    ]
    if MLFLOW >= (3, 0):
        calls.append(lambda: backend.delete_experiment_tag(unknown, "k"))
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert repr(unknown) in str(caught.value)


def test_name_given_for_an_id(backend: Backend, experiment: str) -> None:
    """Who gives an experiment's name as its ID is told to look it up by name."""
    name = backend.get_experiment(experiment).name
    with pytest.raises(NotFound, match="by name"):
        backend.get_experiment(name)


@pytest.mark.parametrize("unknown", ["no such experiment", "", "😀", "a'b\"c"])
def test_unknown_name(backend: Backend, unknown: str) -> None:
    """A name that no experiment has gives None."""
    assert backend.get_experiment_by_name(unknown) is None
