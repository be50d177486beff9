"""Local IDs in queries: they lead to what the server knows under another ID, and only where IDs are meant."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.offline.conftest import MakeApi
from withrun import ExpApi, MlflowApi, RunApi


class Delivered(NamedTuple):
    """Handles from before delivery, whose IDs are local, and an API that the server's IDs are known to."""

    api: MlflowApi
    exp: ExpApi
    base: RunApi
    model: str
    version: str


@pytest.fixture
def delivered(uri: str, tmp_path: Path, open_api: MakeApi) -> Delivered:
    """A run with a model version, its child, and one whose param and tag name the first by its local ID."""
    offline = open_api(uri, offline_mode=True)
    mark = uuid.uuid4().hex  # the server has other tests' experiments and models, too
    exp = offline.get_or_create_exp(f"exp-{mark}")
    source = tmp_path / "weights"
    source.write_text("w")
    with offline.start_run(exp, name="base") as base:
        version = base.log_model_version(f"model-{mark}", source).version
        base.start_child("child").end_run()
    with offline.start_run(exp, name="derived", tags={"from": base.id}) as derived:
        derived.log_param("from", base.id)
    offline.close()
    api = open_api(uri)
    api.flush(60)
    assert api.get_run(base.id).id != base.id
    return Delivered(api, exp, base, f"model-{mark}", version)


def found(delivered: Delivered, query: Any) -> set[str]:
    runs = delivered.api.find_runs(query)
    return {run.name for run in runs if run.exp.name == delivered.exp.name}


ALL = {"base", "child", "derived"}


def test_local_ids_lead_to_what_was_delivered(delivered: Delivered) -> None:
    """Identifiers, handles, lists and sets of either name what they named before delivery."""
    api, exp, base, model, version = delivered
    for every in ({"exp.id": exp.id}, {"exp": exp}, {"exp.id": exp}, {"exp": {"$in": [exp, "987654321"]}}):
        assert found(delivered, every) == ALL, every
    for none in ({"exp": {"$ne": exp}}, {"$nor": [{"exp.id": exp.id}]}, {"id": base.id, "exp.id": "0"}):
        assert found(delivered, none) == set(), none
    for one in ({"id": base.id}, {"id": {"$in": [base.id]}}, {"id": {"$in": {base.id}}}):
        assert found(delivered, one) == {"base"}, one
    assert found(delivered, {"id": {"$nin": frozenset([base.id])}}) == ALL - {"base"}
    assert found(delivered, {"tags.mlflow.parentRunId": base.id}) == {"child"}
    assert found(delivered, {"tags.mlflow.parentRunId": {"$ne": base.id}}) == ALL - {"child"}
    assert [one.name for one in api.find_exps({"id": exp.id})] == [exp.name]
    for query, count in (
        ({"run": base, "model": model}, 1),
        ({"run.id": base.id}, 1),
        ({"run": {"$ne": base}, "model": model}, 0),
        ({"run.exp": exp}, 1),
        ({"model": model, "version": version}, 1),
        ({"model": "another", "version": version}, 0),
    ):
        assert len(list(api.find_model_versions(query))) == count, query


def test_what_was_logged_is_found_as_it_was_logged(delivered: Delivered) -> None:
    """A param or tag that holds a local ID is found by that ID, which no delivery changes there."""
    local, of_server = delivered.base.id, delivered.api.get_run(delivered.base.id).id
    for queries in (
        lambda base: {"params.from": base},
        lambda base: {"tags.from": {"$in": [base]}},
        lambda base: {"params": {"from": base}},
        lambda base: {"params.from": {"$all": [base]}},
    ):
        assert found(delivered, queries(local)) == {"derived"}
        assert found(delivered, queries(of_server)) == set()
