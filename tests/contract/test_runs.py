"""The contract on runs: their life, what is logged to them, and how values come back."""

from __future__ import annotations

import datetime as dt
import math
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import Place
from withrun import BaseMlflowApi, ExpApi, RunApi, RunStatus
from withrun.errors import InvalidArgument, NotFound, RunClosed

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_life(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """A run is declared, resumed, ended, with name, tags, times and MLflow's own source tags."""
    run = api.create_run(exp.id, "fit", tags={"team": "x", "n": 1})
    stored = client.get_run(run.id)
    assert (stored.info.status, stored.info.run_name) == ("SCHEDULED", "fit")
    assert stored.data.tags.items() >= {"team": "x", "n": "1", "mlflow.source.type": "LOCAL"}.items()
    assert stored.data.tags["mlflow.user"]
    assert api.resume_run(run.id) == run
    assert client.get_run(run.id).info.status == "RUNNING"
    assert api.end_run(run, succeeded=False).status is RunStatus.FAILED
    assert client.get_run(run.id).info.status == "FAILED"
    fetched = api.get_run(run.id)
    assert fetched.start_time is not None
    assert fetched.end_time is not None
    assert fetched.start_time <= fetched.end_time
    assert fetched.start_time.tzinfo is not None
    with pytest.raises(RunClosed):
        api.end_run(run.id)


def test_start_is_running(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """`start_run` gives a RUNNING run; the store makes up a name if there is none."""
    run = exp.start_run()
    assert (client.get_run(run.id).info.status, run.status) == ("RUNNING", RunStatus.RUNNING)
    assert run.name == client.get_run(run.id).info.run_name != ""
    run.end_run()


def test_children(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """Children are made by every form of `parent`, and found by every form too."""
    parent = exp.create_run("parent")
    children = [
        api.create_run(exp, "a", parent=parent),
        api.create_run(exp, "b", parent=parent.id),
        parent.create_child("c", tags={"k": 1}),
    ]
    assert {r.id for r in parent.children} == {c.id for c in children}
    assert {r.id for r in api.find_child_runs(parent.id)} == {c.id for c in children}
    assert {client.get_run(c.id).data.tags["mlflow.parentRunId"] for c in children} == {parent.id}
    assert list(children[0].children) == []
    with pytest.raises(NotFound):
        api.create_run(exp, parent="0" * 32)


VALUES: dict[str, Any] = {
    "text": "adam",
    "empty": "",
    "number_text": "1",
    "bool_text": "true",
    "null_text": "null",
    "quoted": '"adam"',
    "json_text": '{"a": 1}',
    "spaces": "  two  \n lines\t",
    "unicode": "größe 😀 \u202e\x00\x7f",
    "int": 3,
    "big_int": 2**70,
    "float": 0.1,
    "whole_float": 1.0,
    "tiny": 5e-324,
    "nan": math.nan,
    "inf": math.inf,
    "minus_inf": -math.inf,
    "true": True,
    "none": None,
    "list": [1, "a", None, [], {"x": {"y": 1.5}}],
    "empty_dict": {},
    "empty_list": [],
    "moment": dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=dt.timezone.utc),
    "nested": {"deep": {"er": 1, "text": "x"}},
    "slash/and space": {"k:e-y": 1},
}


def same(left: Any, right: Any) -> bool:
    """Equal, of the same type, and NaN equals NaN."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(v, right[k]) for k, v in left.items())
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return type(left) is type(right) and bool(left == right)


@pytest.mark.parametrize("kind", ["params", "tags"])
def test_values_round_trip(api: BaseMlflowApi, run: RunApi, client: MlflowClient, kind: str) -> None:
    """Every value comes back with its type, at once on the handle and from the store; text stays readable."""
    (run.log_params if kind == "params" else run.set_tags)(VALUES)
    for found in (getattr(run, kind), getattr(api.get_run(run.id), kind)):
        assert [k for k, v in VALUES.items() if not same(v, found.get(k))] == []
    stored = getattr(client.get_run(run.id).data, kind)
    assert stored["text"] == "adam"
    assert stored["number_text"] == '"1"'
    assert stored["int"] == "3"
    assert stored["nested.deep.er"] == "1"


@pytest.mark.parametrize("kind", ["params", "tags"])
def test_long_values(api: BaseMlflowApi, run: RunApi, client: MlflowClient, kind: str) -> None:
    """A value longer than the store takes reads back whole, and stands in the store as a preview."""
    long = {"text": "ä" * 20_000, "deep": {"list": list(range(5_000))}}
    (run.log_params if kind == "params" else run.set_tags)(long)
    assert getattr(run, kind)["deep"] == long["deep"]
    assert getattr(api.get_run(run.id), kind).items() >= long.items()
    found = api.find_runs({"exp.id": run.exp.id}).first()
    assert found is not None
    assert getattr(found, kind)["text"] == long["text"]
    assert len(getattr(client.get_run(run.id).data, kind)["text"]) <= 6_000


def test_long_value_as_an_error(api: BaseMlflowApi, run: RunApi, client: MlflowClient) -> None:
    """With `on_long_value="error"` a long value is refused with its key, and nothing of the call is sent."""
    strict = api.model_copy(update={"on_long_value": "error"})
    with strict, pytest.raises(InvalidArgument, match="long"):
        run.using(strict).log_params({"short": 1, "long": "x" * 6_001})
    assert client.get_run(run.id).data.params == {}


def test_clash_of_keys(api: BaseMlflowApi, run: RunApi) -> None:
    """Where `a` and `a.b` clash, the nested one stays flat, and nothing is lost."""
    run.log_params({"a": 1})
    run.log_params({"a": {"b": 2}, "c.d": 3})
    expected = {"a": 1, "a.b": 2, "c": {"d": 3}}
    assert run.params == expected
    assert api.get_run(run).params == expected


def test_raw_keys_of_mlflow(api: BaseMlflowApi, run: RunApi, client: MlflowClient) -> None:
    """Tags under `mlflow.` are strings as they are, both ways."""
    run.set_tag("mlflow.note.content", "1").flush()
    assert client.get_run(run.id).data.tags["mlflow.note.content"] == "1"
    assert run.set_tag("mlflow.runName", "renamed").flush().name == "renamed"
    assert client.get_run(run.id).info.run_name == "renamed"
    client.set_tag(run.id, "mlflow.custom", "true")
    assert api.get_run(run).tags["mlflow"]["note"] == {"content": "1"}
    assert api.get_run(run).tags["mlflow"]["custom"] == "true"


def test_values_of_other_tools(api: BaseMlflowApi, run: RunApi, client: MlflowClient) -> None:
    """What MLflow's own client wrote reads well: JSON as JSON, text as text."""
    client.log_param(run.id, "lr", "0.1")
    client.log_param(run.id, "opt", "Adam(lr=1)")
    client.log_param(run.id, "broken", "{not json")
    assert api.get_run(run).params == {"lr": 0.1, "opt": "Adam(lr=1)", "broken": "{not json"}


def test_metrics(api: BaseMlflowApi, run: RunApi, client: MlflowClient) -> None:
    """Metrics nest, keep every point with step and time, and NaN and infinities as far as the store can."""
    values = {"train": {"loss": 0.5}, "nan": math.nan, "inf": math.inf, "minus": -math.inf, "int": 3}
    assert run.log_metrics(values, step=2, timestamp=1_234_567) is run
    run.log_metric("train.loss", 0.25, step=3)
    api.log_metrics(run.id, {"train": {"acc": 1}})
    for found in (run.update().metrics, api.get_run(run.id).metrics):
        assert found["train"] == {"loss": 0.25, "acc": 1.0}
        assert math.isnan(found["nan"])
        assert (found["inf"], found["minus"]) == (math.inf, -math.inf)
        assert same(found["int"], 3.0)
    points = [(m.value, m.step) for m in client.get_metric_history(run.id, "train.loss")]
    assert points == [(0.5, 2), (0.25, 3)]
    assert client.get_metric_history(run.id, "int")[0].timestamp == 1_234_567
    assert [(m.value, m.step) for m in run.metric_history("train.loss")] == points


def test_many_at_once(api: BaseMlflowApi, run: RunApi) -> None:
    """More params, metrics and tags in one call than a request may carry all arrive."""
    run.log_params({f"p{n}": n for n in range(250)})
    run.set_tags({"t": {f"t{n}": n for n in range(250)}})
    run.log_metrics({f"m{n}": n for n in range(1_500)})
    fetched = api.get_run(run)
    assert fetched.params == {f"p{n}": n for n in range(250)}
    assert fetched.tags["t"] == {f"t{n}": n for n in range(250)}
    assert fetched.metrics == {f"m{n}": float(n) for n in range(1_500)}


def test_params_are_logged_once(api: BaseMlflowApi, run: RunApi, client: MlflowClient) -> None:
    """A param can be logged again with its value, and not with another: nothing of that call is sent."""
    assert run.log_param("a", {"b": 1}) == {"b": 1}
    run.log_params({"a.b": 1})
    with pytest.raises(InvalidArgument, match=r"a\.b"):
        run.log_params({"new": 1, "a": {"b": 2}})
    run.flush()
    assert client.get_run(run.id).data.params == {"a.b": "1"}


def test_tags_change_and_go(api: BaseMlflowApi, run: RunApi, client: MlflowClient) -> None:
    """Tags can be set anew and deleted; deleting one that is absent does nothing."""
    run.set_tags({"a": {"b": 1, "c": 2}}).set_tag("a.b", "new")
    assert run.tags["a"] == {"b": "new", "c": 2}
    assert run.delete_tag("a.c").delete_tag("a.c").tags["a"] == {"b": "new"}
    assert api.set_tags_on_run(run.id, {"d": None}).tags["a"] == {"b": "new"}
    assert "a.c" not in client.get_run(run.id).data.tags


def test_forms_and_chaining(api: BaseMlflowApi, run: RunApi) -> None:
    """Entity, handle and ID are the same to every verb; those of a handle chain."""
    entity = run.model_copy()
    for n, form in enumerate((run, run.id, entity)):
        api.log_params(form, {f"p{n}": n})
        api.log_metrics(form, {f"m{n}": n})
        api.set_tags_on_run(form, {f"t{n}": n})
        assert api.get_run_url(form) == run.url
    chained = run.log_params({"x": 1}).log_metrics({"y": 2}).set_tags({"z": 3}).flush().update()
    assert chained is run
    assert run.params == {"p0": 0, "p1": 1, "p2": 2, "x": 1}
    assert run.metrics == {"m0": 0, "m1": 1, "m2": 2, "y": 2}


def test_url(api: BaseMlflowApi, run: RunApi, place: Place) -> None:
    """The URL names experiment and run; with `exp` given, nothing is asked."""
    page = f"{place.uri}{'/' if place.has_web_page else ''}#/experiments/{run.exp.id}/runs/{run.id}"
    assert run.url == page
    assert api.in_offline_mode.get_run_url(run.id, exp=run.exp.id) == page


def test_find(api: BaseMlflowApi, exp: ExpApi) -> None:
    """Runs are found by their values, in the order asked for, and in one experiment by its handle."""
    made = [exp.create_run(f"r{n}") for n in range(3)]
    for n, run in enumerate(made):
        run.log_params({"n": n}).log_metrics({"loss": 1.0 / (n + 1)})
    assert list(exp.find_runs({"params.n": {"$gte": 1}}, [("metrics.loss", 1)])) == [made[2], made[1]]
    assert list(api.find_runs({"exp.id": exp.id, "metrics.loss": 1.0})) == [made[0]]
    assert {r.id for r in exp.find_runs("metrics.loss < 0.9")} == {made[1].id, made[2].id}


def test_not_found(api: BaseMlflowApi) -> None:
    """An unknown run is NotFound, naming it."""
    with pytest.raises(NotFound, match="0" * 32):
        api.get_run("0" * 32)


def test_step_and_time_are_checked(run: RunApi) -> None:
    """A step or time that is no whole number is refused; whole floats and large steps are taken."""
    for wrong in (1.5, "1", True, 2**63, math.nan):
        with pytest.raises(InvalidArgument, match="step"):
            run.log_metric("m", 1, step=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="64 bits"):
        run.log_metric("m", 1, step=2**63)
    for wrong in (-1, 0.5, "now"):
        with pytest.raises(InvalidArgument, match="timestamp"):
            run.log_metric("m", 1, timestamp=wrong)  # type: ignore[arg-type]
    run.log_metric("m", 1, step=2.0).log_metric("m", 2, step=-5)  # type: ignore[arg-type]
    run.log_metric("m", sys.float_info.max, step=2**40)
    assert {m.step for m in run.metric_history("m")} == {2, -5, 2**40}
