"""Runs and what is logged to them, through every backend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from tests.backends.conftest import MLFLOW
from withrun.backend import Backend, DatasetInput, KeyValue, Metric
from withrun.errors import InvalidArgument, NotFound, ServerError

if TYPE_CHECKING:
    from mlflow import MlflowClient

UNKNOWN = ["f" * 32, "no run", "", "a/b", "../x", "a\0b", "😀", "x" * 300]


def _dict(items: tuple[KeyValue, ...]) -> dict[str, str]:
    return {item.key: item.value for item in items}


def test_created_is_there(backend: Backend, client: MlflowClient, experiment: str) -> None:
    """A run is created RUNNING with its name, start, user and tags, as the answer and a fetch tell."""
    tags = (KeyValue("mlflow.user", "someone"), KeyValue("empty", ""), KeyValue("t", "😀"))
    record = backend.create_run(experiment, run_name="näme", start_time=1_234, tags=tags)
    found = client.get_run(record.run_id)
    assert (found.info.run_name, found.info.start_time, found.info.status) == ("näme", 1_234, "RUNNING")
    assert found.info.user_id == "someone"
    assert found.data.tags == _dict(tags) | {"mlflow.runName": "näme"}
    assert record.artifact_uri == found.info.artifact_uri
    fetched = backend.get_run(record.run_id)
    assert fetched.end_time is None
    assert _dict(fetched.tags) == _dict(record.tags)
    assert (fetched.run_name, fetched.experiment_id) == (record.run_name, experiment)


@pytest.mark.parametrize("empty", [None, ""])
def test_without_a_name(backend: Backend, experiment: str, empty: str | None) -> None:
    """A run without a name, or with an empty one, gets one from the store."""
    assert backend.create_run(experiment, run_name=empty, start_time=1).run_name


def test_everything_in_one_batch(backend: Backend, client: MlflowClient, run: str) -> None:
    """Metrics, params and tags of one batch arrive, with times and steps, empty and four-byte values."""
    backend.log_batch(
        run,
        metrics=(Metric("loss", 0.5, 10, 1), Metric("loss", 0.25, 20, 2), Metric("a/b c", -1e-300, 5, -3)),
        params=(KeyValue("p", ""), KeyValue("q/r", "😀\n")),
        tags=(KeyValue("t", ""), KeyValue("ü", "x")),
    )
    found = client.get_run(run)
    assert found.data.params == {"p": "", "q/r": "😀\n"}
    assert found.data.metrics == {"loss": 0.25, "a/b c": -1e-300}
    assert {"t": "", "ü": "x"}.items() <= found.data.tags.items()
    record = backend.get_run(run)
    assert _dict(record.params) == found.data.params
    assert set(record.metrics) == {Metric("loss", 0.25, 20, 2), Metric("a/b c", -1e-300, 5, -3)}


def test_no_finite_number(backend: Backend, run: str) -> None:
    """NaN and infinities come back as they were logged: from the run, its history and a search."""
    logged = {"nan": math.nan, "inf": math.inf, "neg": -math.inf, "one": 1.0}
    backend.log_batch(run, metrics=tuple(Metric(key, value, 1, 1) for key, value in logged.items()))
    record = backend.get_run(run)
    (searched,) = backend.search_runs((record.experiment_id,)).items
    for source in (record, searched):
        assert repr(
            {m.key: m.value for m in sorted(source.metrics, key=lambda m: list(logged).index(m.key))}
        ) == (repr(logged))
    for key, value in logged.items():
        (point,) = backend.metric_history(run, key).items
        assert repr(point.value) == repr(value)


def test_replayed_batch(backend: Backend, client: MlflowClient, run: str) -> None:
    """A batch that is sent twice, NaN and infinities included, is there once."""
    metrics = (Metric("m", 1.0, 1, 1), Metric("m", math.nan, 1, 2), Metric("m", math.inf, 1, 3))
    for _ in range(2):
        backend.log_batch(run, metrics=metrics, params=(KeyValue("p", "v"),), tags=(KeyValue("t", "v"),))
    assert len(client.get_metric_history(run, "m")) == 3


def test_history_in_pages(backend: Backend, run: str) -> None:
    """All points of a metric come, each once, in pages of the size asked for."""
    logged = [Metric("m", float(i), 100 + i, i) for i in range(10)]
    backend.log_batch(run, metrics=tuple(logged))
    found: list[Metric] = []
    token = ""
    while True:
        page = backend.metric_history(run, "m", max_results=4, page_token=token)
        found += page.items
        if not (token := page.next_token):
            break
        assert len(page.items) == 4
    assert found == logged
    assert backend.metric_history(run, "never logged").items == ()


def test_changed_param_is_refused(backend: Backend, client: MlflowClient, run: str) -> None:
    """A param logged again with another value is refused as a 4xx that says which, and stays as it was."""
    backend.log_batch(run, params=(KeyValue("p", "old"),))
    with pytest.raises(ServerError, match="'p'") as caught:
        backend.log_batch(run, params=(KeyValue("p", "new"),))
    assert caught.value.status == 400
    assert caught.value.code == "INVALID_PARAMETER_VALUE"
    assert client.get_run(run).data.params == {"p": "old"}


def test_illegal_key_is_refused(backend: Backend, run: str) -> None:
    """A key that the store can't keep is refused as a 4xx in the store's words."""
    with pytest.raises(ServerError, match="a:\\*b") as caught:
        backend.log_batch(run, metrics=(Metric("a:*b", 1.0),))
    assert caught.value.status == 400


def test_lone_surrogate(backend: Backend, run: str) -> None:
    """Text that is no Unicode is refused before it is sent, by every backend alike."""
    with pytest.raises(InvalidArgument, match="surrogate"):
        backend.log_batch(run, tags=(KeyValue("t", "a\ud800"),))


@pytest.mark.parametrize("status", ["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"])
def test_update(backend: Backend, client: MlflowClient, run: str, status: str) -> None:
    """Status and end time change, and a name that is not given, or empty, stays."""
    backend.update_run(run, status=status, end_time=5_000)
    backend.update_run(run, run_name="")
    found = client.get_run(run).info
    assert (found.status, found.end_time, found.run_name) == (status, 5_000, "a run")
    record = backend.get_run(run)
    assert (record.status, record.end_time) == (status, 5_000)


def test_rename(backend: Backend, client: MlflowClient, run: str) -> None:
    """A new name replaces the old one and nothing else."""
    backend.update_run(run, run_name="new 😀")
    found = client.get_run(run)
    assert (found.info.run_name, found.info.status) == ("new 😀", "RUNNING")
    assert found.data.tags["mlflow.runName"] == "new 😀"


def test_tags(backend: Backend, client: MlflowClient, run: str) -> None:
    """A tag is deleted, and one that is absent counts as deleted."""
    backend.log_batch(run, tags=(KeyValue("a", "1"), KeyValue("b", "2")))
    backend.delete_tag(run, "a")
    backend.delete_tag(run, "a")
    assert client.get_run(run).data.tags == {"b": "2", "mlflow.runName": "a run"}


def test_deleted_run(backend: Backend, client: MlflowClient, run: str) -> None:
    """A deleted run can be fetched, refuses what is logged to it, and comes back when restored."""
    backend.delete_run(run)
    record = backend.get_run(run)
    assert record.lifecycle_stage == "deleted"
    assert backend.search_runs((record.experiment_id,)).items == ()
    assert len(backend.search_runs((record.experiment_id,), view_type="ALL").items) == 1
    with pytest.raises(ServerError) as caught:
        backend.log_batch(run, tags=(KeyValue("a", "1"),))
    assert caught.value.status == 400
    backend.restore_run(run)
    assert client.get_run(run).info.lifecycle_stage == "active"


def test_search(backend: Backend, experiment: str, name: str) -> None:
    """A search filters, orders and pages over several experiments, and carries whole runs."""
    other = backend.create_experiment(f"{name}-other")
    for i in range(6):
        run_id = backend.create_run((experiment, other)[i % 2], run_name=f"r{i}", start_time=i).run_id
        backend.log_batch(run_id, metrics=(Metric("m", float(i)),), params=(KeyValue("parity", str(i % 2)),))
    found, token = [], ""
    while True:
        page = backend.search_runs(
            (experiment, other),
            "metrics.m > 0",
            max_results=2,
            order_by=("metrics.m DESC",),
            page_token=token,
        )
        found += page.items
        if not (token := page.next_token):
            break
    assert [record.run_name for record in found] == ["r5", "r4", "r3", "r2", "r1"]
    assert found[0].metrics == (Metric("m", 5.0),)
    assert [r.run_name for r in backend.search_runs((other,), "params.parity = '0'").items] == []
    assert backend.search_runs(()).items == ()


def test_search_of_missing_keys(backend: Backend, run: str) -> None:
    """Where the grammar says that null checks work, they do."""
    experiment = backend.get_run(run).experiment_id
    assert backend.grammar.null_checks == (MLFLOW >= (3, 11))
    if not backend.grammar.null_checks:
        with pytest.raises(ServerError):
            backend.search_runs((experiment,), "params.absent IS NULL")
        return
    assert len(backend.search_runs((experiment,), "params.absent IS NULL").items) == 1
    assert len(backend.search_runs((experiment,), "tags.absent IS NOT NULL").items) == 0


def test_largest_page(backend: Backend, experiment: str) -> None:
    """The grammar's page sizes are the largest that the store takes."""
    largest = backend.grammar.max_results
    backend.search_runs((experiment,), max_results=largest["runs"])
    backend.search_experiments(max_results=largest["experiments"])
    backend.search_models(max_results=largest["models"])
    backend.search_versions(max_results=largest["versions"])
    with pytest.raises(ServerError) as caught:
        backend.search_runs((experiment,), max_results=largest["runs"] + 1)
    assert caught.value.status == 400


def test_bad_filter(backend: Backend, experiment: str) -> None:
    """A filter that the store can't read is refused as a 4xx."""
    with pytest.raises(ServerError) as caught:
        backend.search_runs((experiment,), "metrics.m >")
    assert caught.value.status == 400


def test_inputs(backend: Backend, client: MlflowClient, run: str) -> None:
    """A dataset is recorded with its texts and tags; recording it twice changes nothing."""
    dataset = DatasetInput(
        "digits",
        "abc",
        "local",
        '{"uri": "/x"}',
        "{}",
        '{"rows": 1}',
        (KeyValue("mlflow.data.context", "train"),),
    )
    for _ in range(2):
        backend.log_inputs(run, (dataset,))
    (found,) = client.get_run(run).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("digits", "abc")
    assert (found.dataset.schema, found.dataset.profile) == ("{}", '{"rows": 1}')
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "train")]


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_unknown_id(backend: Backend, unknown: str) -> None:
    """Every call on an ID that names no run, malformed or not, is NotFound and says what was asked."""
    calls = (
        lambda: backend.get_run(unknown),
        lambda: backend.update_run(unknown, status="FAILED"),
        lambda: backend.delete_run(unknown),
        lambda: backend.restore_run(unknown),
        lambda: backend.log_batch(unknown, tags=(KeyValue("a", "b"),)),
        lambda: backend.log_batch(unknown, metrics=(Metric("a", 1.0),)),
        lambda: backend.delete_tag(unknown, "a"),
        lambda: backend.log_inputs(unknown, (DatasetInput("d", "1", "local", "{}"),)),
    )
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert repr(unknown) in str(caught.value)
