"""The contract on experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import withrun
from tests.contract.conftest import Place
from withrun import BaseMlflowApi, ExpApi
from withrun.errors import AlreadyExists, InvalidArgument, NotFound
from withrun.schema import Experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_create_and_get(api: BaseMlflowApi, name: str, client: MlflowClient) -> None:
    """A created experiment is on the server, and can be had by entity, handle and ID."""
    exp = api.create_exp(name, tags={"a": {"b": 1}, "c": "text"})
    stored = client.get_experiment(exp.id)
    assert stored.name == name == exp.name
    assert stored.tags.items() >= {"a.b": "1", "c": "text"}.items()
    assert exp.tags == {"a": {"b": 1}, "c": "text"}
    for form in (exp, exp.id, exp.model_copy()):
        assert api.get_exp(form) == exp
    assert api.get_or_create_exp(name) == exp


def test_get_or_create(api: BaseMlflowApi, name: str, client: MlflowClient) -> None:
    """An experiment that is not there is created, once."""
    assert api.get_or_create_exp(name).id == api.get_or_create_exp(name).id
    assert client.get_experiment_by_name(name) is not None


def test_taken_names(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """A name that is taken is refused with the way out, also one that a deleted experiment holds."""
    with pytest.raises(AlreadyExists, match="get_or_create_exp"):
        api.create_exp(exp.name)
    client.delete_experiment(exp.id)
    with pytest.raises(AlreadyExists, match="restore_experiment"):
        api.create_exp(exp.name)
    with pytest.raises(InvalidArgument, match="restore_experiment"):
        api.get_or_create_exp(exp.name)


def test_not_found(api: BaseMlflowApi, exp: ExpApi) -> None:
    """An unknown ID is NotFound; a name in its place gets a hint that a name was probably meant."""
    with pytest.raises(NotFound, match="987654321"):
        api.get_exp("987654321")
    with pytest.raises(NotFound, match="get_or_create_exp"):
        api.get_exp(exp.name)
    with pytest.raises(LookupError, match="get_or_create_exp"):
        api.start_run(exp.name)


def test_set_tags(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """Tags nest, keep their types, add to what is there, and show on the handle that set them."""
    assert exp.set_tags({"n": {"x": 1.5, "y": [1, None]}, "t": True}) is exp
    assert api.set_tags_on_exp(exp.id, {"n": {"z": "1"}}).tags["n"] == {"x": 1.5, "y": [1, None], "z": "1"}
    assert exp.update().tags == {"n": {"x": 1.5, "y": [1, None], "z": "1"}, "t": True}
    assert client.get_experiment(exp.id).tags["n.z"] == '"1"'


def test_url(api: BaseMlflowApi, exp: ExpApi, place: Place) -> None:
    """The URL is the page of the web interface, or the store's URI with that page's fragment."""
    assert exp.url == api.get_exp_url(exp.id)
    assert exp.url == f"{place.uri}{'/' if place.has_web_page else ''}#/experiments/{exp.id}"


def test_find(api: BaseMlflowApi, name: str) -> None:
    """Experiments are found by their fields and sorted."""
    made = [api.create_exp(f"{name}-{n}", tags={"group": name, "n": n}) for n in range(3)]
    assert list(api.find_exps({"tags.group": name}, [("tags.n", -1)])) == made[::-1]
    assert [e.name for e in api.find_exps({"name": f"{name}-1"})] == [f"{name}-1"]


@pytest.mark.parametrize(
    "wrong",
    [None, 0, "", b"0", ["0"], pytest.param(object(), id="object")],
    ids=repr,
)
def test_what_is_no_experiment(api: BaseMlflowApi, wrong: object) -> None:
    """What names no experiment is refused at once, saying what is accepted."""
    for call in (api.get_exp, api.get_exp_url, api.start_run, api.create_run, api.cache_exp_meta):
        with pytest.raises(InvalidArgument, match="experiment"):
            call(wrong)  # type: ignore[operator]
    if wrong != "0":
        with pytest.raises(InvalidArgument):
            api.get_or_create_exp(wrong if wrong != ["0"] else " ")  # type: ignore[arg-type]


def test_no_runs_in_a_deleted_experiment(api: BaseMlflowApi, name: str) -> None:
    """It is refused with the way out, whether it is named by a handle, a plain entity or its ID."""
    exp = api.create_exp(name)
    with withrun.session(api):
        withrun.delete_experiment(exp.id)
    for named in (exp, Experiment(id=exp.id, name=exp.name, tags={}), exp.id):
        with pytest.raises(InvalidArgument, match="is deleted: restore_experiment"):
            api.create_run(named)
