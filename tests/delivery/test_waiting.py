"""What waits for delivery, what reads see, and what is told of refusals; seen by a plain MLflow client."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faultproxy import Fault, FaultProxy
from tests.servers import MlflowServer, _database_template, free_port
from withrun import MlflowApi
from withrun.errors import InvalidArgument, Refused, ServerUnreachable

from .conftest import MakeApi, steps


@pytest.fixture
def api(server: MlflowServer, open_api: MakeApi) -> MlflowApi:
    return open_api(server.url)


def test_synchronous_verbs_return_once_the_store_has_it(api: MlflowApi, client: Any, exp_id: str) -> None:
    """With `synchronous=True` a plain client sees the value the moment the call returns."""
    with api.start_run(exp_id) as run:
        run.log_param("a", 1, synchronous=True)
        assert client.get_run(run.id).data.params == {"a": "1"}
        run.log_params({"b": {"c": 2}}, synchronous=True)
        assert client.get_run(run.id).data.params["b.c"] == "2"
        run.log_metric("m", 0.5, 3, synchronous=True)
        assert steps(client, run.id, "m") == [3]
        run.log_metrics({"m": 0.25}, step=4, synchronous=True)
        assert steps(client, run.id, "m") == [3, 4]
        run.set_tag("t", "x", synchronous=True)
        assert client.get_run(run.id).data.tags["t"] == "x"
        assert run.delivery.pending == 0


def test_flush_of_a_run_and_of_all(api: MlflowApi, client: Any, exp_id: str) -> None:
    """`run.flush()` waits for one run, `api.flush()` for all, and for nothing when all is delivered."""
    first, second = api.start_run(exp_id), api.start_run(exp_id)
    for step in range(2_500):
        first.log_metric("m", 1.0, step)
        second.log_metric("m", 1.0, step)
    first.flush()
    assert steps(client, first.id, "m") == list(range(2_500))
    api.flush(timeout=30)
    assert steps(client, second.id, "m") == list(range(2_500))
    assert (first.delivery.pending, second.delivery.pending) == (0, 0)
    api.flush(timeout=0)


def test_flush_gives_up_in_time(proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str) -> None:
    """While the server is away `flush(timeout)` raises TimeoutError; what is pending arrives later."""
    api = open_api(proxy.url)
    run = api.start_run(exp_id)
    proxy.always(Fault(reset=True))
    run.log_metric("m", 1.0)
    for flush in (run.flush, api.flush):
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="nothing is lost"):
            flush(0.3)
        assert 0.25 < time.monotonic() - started < 3
    assert run.delivery.pending == 1
    proxy.always(None)
    api.flush(timeout=30)
    assert steps(client, run.id, "m") == [0]


def test_a_synchronous_verb_without_the_server(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """It raises ServerUnreachable after `exit_timeout`; the value is kept, and arrives."""
    api = open_api(proxy.url, exit_timeout=0.5)
    run = api.start_run(exp_id)
    proxy.always(Fault(status=503))
    with pytest.raises(ServerUnreachable, match="nothing is lost"):
        run.log_metric("m", 1.0, synchronous=True)
    proxy.always(None)
    run.flush(30)
    assert steps(client, run.id, "m") == [0]


def contradict(api: MlflowApi, client: Any, exp_id: str) -> Any:
    """A run that another client gave a param, among whose values one contradicts that."""
    run = api.start_run(exp_id)
    client.log_param(run.id, "lr", "0.1")
    run.log_params({f"p{i}": i for i in range(30)} | {"lr": 0.2})
    run.log_metrics({f"m{i}": 1.0 for i in range(30)})
    run.set_tags({"a": "x", "b": "y"})
    return run


def test_flush_raises_what_was_refused_once(
    api: MlflowApi, client: Any, exp_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused value is logged as an error, raised by the next flush, counted; all else goes through."""
    run = contradict(api, client, exp_id)
    with caplog.at_level(logging.ERROR), pytest.raises(Refused) as caught:
        run.flush()
    [refusal] = caught.value.refusals
    assert refusal.run_id == run.id
    assert refusal.call == "log_param('lr', '0.2')"
    assert "lr" in refusal.reason
    assert [record for record in caplog.records if "log_param('lr', '0.2')" in record.getMessage()]
    # 63 values, and the tag that says whose run it is.
    accepted = run.delivery.accepted
    assert run.delivery == (accepted, accepted - 1, 0, 1)
    run.flush()
    api.flush()
    data = client.get_run(run.id).data
    assert data.params == {"lr": "0.1"} | {f"p{i}": str(i) for i in range(30)}
    assert data.metrics == {f"m{i}": 1.0 for i in range(30)}
    assert (data.tags["a"], data.tags["b"]) == ("x", "y")
    assert list(api.journal_dir.rglob("refused/*.jsonl"))  # type: ignore[union-attr]


def test_api_flush_raises_for_all_runs(api: MlflowApi, client: Any, exp_id: str) -> None:
    """Refusals of several runs come together in one error, in which each is named."""
    runs = [contradict(api, client, exp_id) for _ in range(3)]
    with pytest.raises(Refused) as caught:
        api.flush()
    assert {refusal.run_id for refusal in caught.value.refusals} == {run.id for run in runs}
    assert all(run.id in str(caught.value) for run in runs)


def test_a_synchronous_verb_raises_what_was_refused(api: MlflowApi, client: Any, exp_id: str) -> None:
    """The call itself raises, and the handle goes on to be used."""
    with api.start_run(exp_id) as run:
        client.log_param(run.id, "lr", "0.1")
        with pytest.raises(Refused, match="lr"):
            run.log_param("lr", 0.2, synchronous=True)
        run.log_param("other", 1, synchronous=True)
    assert client.get_run(run.id).data.params == {"lr": "0.1", "other": "1"}


def test_leaving_raises_refusals_if_strict(
    server: MlflowServer, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """Leaving a block raises what was refused with `strict=True` alone; the run is FINISHED either way."""
    for strict in (False, True):
        api = open_api(server.url, strict=strict)
        with pytest.raises(Refused) if strict else contextlib.nullcontext(), api.start_run(exp_id) as run:
            client.log_param(run.id, "lr", "0.1")
            run.log_param("lr", 0.2)
        assert client.get_run(run.id).info.status == "FINISHED"
        assert run.delivery.refused == 1


def test_a_strict_block_that_fails_raises_its_own_error(
    server: MlflowServer, open_api: MakeApi, client: Any, exp_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The block's exception is never hidden by a refusal."""
    api = open_api(server.url, strict=True)
    with pytest.raises(ZeroDivisionError), api.start_run(exp_id) as run:  # noqa: PT012
        client.log_param(run.id, "lr", "0.1")
        run.log_param("lr", 0.2)
        raise ZeroDivisionError
    assert client.get_run(run.id).info.status == "FAILED"
    assert any("lr" in record.getMessage() for record in caplog.records)


def test_a_param_that_contradicts_raises_at_the_call(api: MlflowApi, client: Any, exp_id: str) -> None:
    """This handle's own contradiction is refused at once, and nothing of that call is logged."""
    with api.start_run(exp_id) as run:
        run.log_param("lr", 0.1)
        with pytest.raises(InvalidArgument, match="lr"):
            run.log_params({"new": 1, "lr": 0.2})
        run.log_param("lr", 0.1)
    assert client.get_run(run.id).data.params == {"lr": "0.1"}


def test_a_param_of_two_handles(api: MlflowApi, client: Any, exp_id: str) -> None:
    """Two handles that give a param two values: the first stays, one is refused, all else goes through."""
    run = api.start_run(exp_id)
    other = api.get_run(run.id)
    run.log_params({"lr": 1, "a": 1})
    other.log_params({"lr": 2, "b": 2})
    other.log_metric("m", 1.0)
    run.set_tag("t", "x")
    with pytest.raises(Refused) as caught:
        api.flush()
    assert [refusal.call for refusal in caught.value.refusals] == ["log_param('lr', '2')"]
    data = client.get_run(run.id).data
    assert data.params == {"lr": "1", "a": "1", "b": "2"}
    assert (data.metrics, data.tags["t"]) == ({"m": 1.0}, "x")
    assert run.delivery.refused == other.delivery.refused == 1


def test_delivery_counts(proxy: FaultProxy, open_api: MakeApi, exp_id: str) -> None:
    """Accepted, delivered and pending add up at every moment, and to what was logged in the end."""
    api = open_api(proxy.url)
    run = api.start_run(exp_id)
    before = run.delivery.accepted
    proxy.always(Fault(reset=True))
    run.log_params({f"p{i}": i for i in range(7)})
    run.log_metrics({f"m{i}": i for i in range(5)})
    run.log_metric("m0", 1.0, 1)
    run.set_tags({"a": 1, "b": 2})
    run.delete_tag("a")
    logged = 7 + 5 + 1 + 2 + 1
    assert run.delivery.accepted == before + logged
    assert run.delivery.pending >= logged
    proxy.always(None)
    while run.delivery.pending:
        accepted, delivered, pending, refused = run.delivery
        assert (accepted, refused) == (before + logged, 0)
        assert delivered + pending == accepted
        time.sleep(0.01)
    run.end_run()
    assert run.delivery == (before + logged + 1, before + logged + 1, 0, 0)


Read = Callable[[MlflowApi, str, str], Any]

READS: dict[str, Read] = {
    "get_run": lambda api, run_id, _: api.get_run(run_id),
    "find_runs": lambda api, _, exp_id: next(iter(api.find_runs({"exp.id": exp_id, "tags.t": {"$gte": 41}}))),
    "update": lambda api, run_id, _: api.run_handle(run_id).update(),
}


@pytest.mark.parametrize("through", ["server", "sqlite"])
def test_reads_see_own_writes(
    through: str, server: MlflowServer, open_api: MakeApi, exp_id: str, tmp_path: Any
) -> None:
    """What was logged a moment ago is in what the API reads, without any flush."""
    if through == "sqlite":
        shutil.copyfile(_database_template(sys.executable), tmp_path / "mlflow.db")
        api = open_api(f"sqlite:///{tmp_path}/mlflow.db")
        exp_id = "0"
    else:
        api = open_api(server.url)
    with api.start_run(exp_id) as run:
        for turn, read in enumerate(READS):
            for number in range(42):
                run.log_metric("m", number / 2 + turn, number + 42 * turn)
                run.set_tag("t", number + turn / 2)
            run.log_param(read, turn)
            seen = READS[read](api, run.id, exp_id)
            assert seen.metrics["m"] == 20.5 + turn
            assert seen.params == dict(zip(list(READS)[: turn + 1], range(turn + 1), strict=True))
            assert seen.tags["t"] == 41 + turn / 2
        run.log_metric("m", math.inf, 126)
        history = run.metric_history("m")
        assert [point.step for point in history] == list(range(127))
        assert history[-1].value > 1e300


def test_a_read_of_what_cannot_be_delivered(proxy: FaultProxy, open_api: MakeApi, exp_id: str) -> None:
    """Where reads go through and writes don't, a read says so in place of showing old values."""
    api = open_api(proxy.url, connect_timeout=0.5)
    run = api.start_run(exp_id)
    proxy.plan = lambda method, path: Fault(status=503) if "log-batch" in path else None
    run.log_param("a", 1)
    with pytest.raises(ServerUnreachable, match="nothing is lost"):
        api.get_run(run.id)
    proxy.always(None)
    assert api.get_run(run.id).params == {"a": 1}


@pytest.mark.slow
def test_the_reason_is_the_server(open_api: MakeApi, caplog: pytest.LogCaptureFixture) -> None:
    """With the server away, that is the reason, also for what waits for an earlier program's experiment."""
    away = f"http://127.0.0.1:{free_port()}"
    conf: dict[str, Any] = {"on_unreachable": "offline", "connect_timeout": 0.3, "exit_timeout": 0.4}
    for _ in range(2):
        with open_api(away, **conf) as api, api.start_run(api.get_or_create_exp("e")) as run:
            run.log_metric("m", 1.0)
            with pytest.raises(TimeoutError, match="could not be reached"):
                run.flush(timeout=2)
    kept = [record.getMessage() for record in caplog.records if "kept in" in record.getMessage()]
    assert len(kept) == 2
    assert all("could not be reached" in message and "in use" not in message for message in kept)
