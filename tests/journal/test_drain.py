"""Delivery: packing, refusals, waiting, outages; seen by a plain MLflow client."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests.faultproxy import Fault, FaultProxy, fault_proxy
from tests.servers import MlflowServer
from withrun.errors import JournalError, ServerUnreachable
from withrun.journal import Journal
from withrun.journal.introductions import RunRef
from withrun.journal.pack import Batch, Window
from withrun.journal.record import Kind, encode
from withrun.providers.mlflow.store import StoreBackend

from .conftest import intent, now

MakeJournal = Callable[..., Journal]


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as running:
        yield running


def history(client: Any, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def test_a_whole_run_arrives(store_uri: str, client: Any, open_journal: MakeJournal) -> None:
    """Params, metrics, tags and the end of a run are on the store once `wait` returns."""
    journal = open_journal(store_uri)
    log = journal.owned.create(intent("fit", tags={"team": "x"}))
    log.params({f"p{i}": str(i) for i in range(250)})
    for step in range(2_500):
        log.metric("loss", step / 8, 1_700_000_000_000 + step, step)
    log.metrics({"nan": math.nan, "inf": math.inf}, 5, 1)
    log.metric("nan", math.nan, 5, 1)
    log.tags({"a": "1", "b": "2"})
    log.tags({"a": "3"})
    log.delete_tag("b")
    log.delete_tag("never-there")
    log.status("FINISHED", 1_800_000_000_000)
    assert log.wait(exit_timeout=30)
    assert log.delivery == (250 + 2_500 + 3 + 3 + 2 + 1, 250 + 2_500 + 3 + 3 + 2 + 1, 0, 0)
    run = client.get_run(log.run_id)
    assert run.info.run_name == "fit"
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1_800_000_000_000)
    assert run.data.params == {f"p{i}": str(i) for i in range(250)}
    assert history(client, log.run_id, "loss") == [(step, step / 8) for step in range(2_500)]
    assert len(client.get_metric_history(log.run_id, "nan")) == 1
    assert run.data.tags["a"] == "3"
    assert run.data.tags["team"] == "x"
    assert "b" not in run.data.tags


def test_requests_of_one_run(proxy: FaultProxy, open_journal: MakeJournal) -> None:
    """200 params, 50 tags and 20 metrics take at most six requests, creation and end included."""
    journal = open_journal(proxy.url)
    log = journal.owned.create(intent())
    for i in range(200):
        log.params({f"p{i}": str(i)})
    for i in range(50):
        log.tags({f"t{i}": str(i)})
    for i in range(20):
        log.metric(f"m{i}", 1.0, now())
    log.status("FINISHED", now())
    assert log.wait(exit_timeout=30)
    assert len(proxy.requests) <= 6


def test_requests_of_fifty_children(proxy: FaultProxy, open_journal: MakeJournal) -> None:
    """50 child runs of 5 params, 5 metrics and 2 tags take at most 160 requests."""
    journal = open_journal(proxy.url)
    for i in range(50):
        log = journal.owned.create(intent(f"child-{i}"))
        for key in range(5):
            log.params({f"p{key}": "1"})
            log.metric(f"m{key}", 1.0, now())
        log.tags({"a": "1"})
        log.tags({"b": "1"})
        log.status("FINISHED", now())
        assert log.wait(exit_timeout=30)
    assert len(proxy.requests) <= 160


def test_packing_keeps_the_limits_and_the_order() -> None:
    """No batch exceeds what a request takes; the deletion of a tag parts what surrounds it."""
    window = Window()
    payloads = [encode((Kind.METRIC, 1, f"m{i}", 1.0, i, 0)) for i in range(2_500)]
    payloads += [encode((Kind.PARAMS, 1, 0, {f"p{i}": "1"})) for i in range(250)]
    payloads += [encode((Kind.TAGS, 1, 0, {f"t{i}": "1" for i in range(150)}))]
    payloads += [encode((Kind.DELETE_TAG, 1, 0, "t1")), encode((Kind.TAGS, 1, 0, {"t1": "2"}))]
    payloads += [encode((Kind.PARAMS, 1, 0, {f"big{i}": "x" * 6_000 for i in range(100)}))]
    payloads += [encode((Kind.TAGS, 1, 0, {f"big{i}": "x" * 8_000 for i in range(100)}))]
    for number, wide in enumerate("漢😀\x01"):  # three, four and six bytes in JSON
        payloads += [encode((Kind.PARAMS, 1, 0, {f"{wide}{i}": wide * 6_000 for i in range(100)}))]
        payloads += [encode((Kind.TAGS, 1, 0, {f"wide{number}-{i}": wide * 8_000 for i in range(100)}))]
    window.add(payloads, {1: RunRef("abc")})
    steps = window.runs[1]
    batches = [step for step in steps if isinstance(step, Batch)]
    for batch in batches:
        assert len(batch.metrics) <= 1_000
        assert len(batch.params) <= 100
        assert len(batch.tags) <= 100
        assert batch.values <= 1_000
        values = [{"key": key, "value": text} for key, text in (batch.params | batch.tags).items()]
        assert len(msgspec.json.encode(values)) < 1_000_000
        assert batch.size < 1_000_000
    assert sum(batch.count for batch in batches) == 2_500 + 250 + 150 + 1 + 200 + 600
    deletion = next(i for i, step in enumerate(steps) if not isinstance(step, Batch))
    assert any("t1" in step.tags for step in steps[:deletion] if isinstance(step, Batch))
    assert any(step.tags.get("t1") == "2" for step in steps[deletion:] if isinstance(step, Batch))


def test_repeated_params_travel_once_and_contradictions_apart() -> None:
    """MLflow refuses a batch with a repeated param key, so equal ones are merged and others kept apart."""
    window = Window()
    payloads = [encode((Kind.PARAMS, 1, 0, {"lr": value})) for value in ("1", "1", "2")]
    window.add(payloads, {1: RunRef("abc")})
    assert [(batch.params, batch.count) for batch in window.runs[1] if isinstance(batch, Batch)] == [
        ({"lr": "1"}, 2),
        ({"lr": "2"}, 1),
    ]


@pytest.mark.parametrize("through", ["sqlite", "server"])
def test_one_bad_record_is_set_aside(
    through: str,
    store_uri: str,
    server: MlflowServer,
    open_journal: MakeJournal,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two values that the server refuses are reported once each, and all others go through."""
    from mlflow import MlflowClient

    uri = store_uri if through == "sqlite" else server.url
    client = MlflowClient(uri)
    journal = open_journal(uri)
    log = journal.owned.create(intent())
    log.params({"lr": "0.1"})
    assert log.wait(exit_timeout=30)
    log.params({f"p{i}": "1" for i in range(30)} | {"lr": "0.2"})
    log.tags({"bad key \x01": "x", "good": "1"})
    for step in range(1_200):
        log.metric("loss", 1.0, step, step)
    with caplog.at_level(logging.ERROR):
        assert log.wait(exit_timeout=30)
    assert log.delivery == (1 + 31 + 2 + 1_200, 1 + 30 + 1 + 1_200, 0, 2)
    run = client.get_run(log.run_id)
    assert run.data.params == {"lr": "0.1"} | {f"p{i}": "1" for i in range(30)}
    assert run.data.tags["good"] == "1"
    assert len(history(client, log.run_id, "loss")) == 1_200
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert any("log_param('lr', '0.2')" in error for error in errors)
    kept = next((journal.store_folder / "refused").iterdir()).read_text().splitlines()
    assert sorted(json.loads(line)["call"] for line in kept) == sorted(r.call for r in log.refusals)


def test_a_deleted_run_does_not_hold_up_others(
    store_uri: str, client: Any, open_journal: MakeJournal, caplog: pytest.LogCaptureFixture
) -> None:
    """What is logged to a run that was deleted meanwhile is refused in one go; other runs are delivered."""
    journal = open_journal(store_uri)
    gone, other = journal.owned.create(intent()), journal.owned.create(intent())
    client.delete_run(gone.run_id)
    for step in range(3_000):
        gone.metric("x", 1.0, 1, step)
        other.metric("x", 1.0, 1, step)
    assert journal.flush(exit_timeout=30)
    assert gone.delivery == (3_000, 0, 0, 3_000)
    assert other.delivery == (3_000, 3_000, 0, 0)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) <= 3


@pytest.mark.slow
class TestFaults:
    """A proxy that misbehaves stands before a real server."""

    @pytest.mark.parametrize(
        "fault",
        [
            Fault(status=500),
            Fault(status=503),
            Fault(status=429, headers={"Retry-After": "1"}),
            Fault(reset=True),
            Fault(lose_answer=True),
            Fault(cut_body=True),
            Fault(delay=0.3),
        ],
        ids=["500", "503", "429", "reset", "lost answer", "cut body", "latency"],
    )
    def test_nothing_is_lost_and_nothing_is_there_twice(
        self, fault: Fault, proxy: FaultProxy, server_client: Any, open_journal: MakeJournal
    ) -> None:
        """After some failures of writing calls, each value is there once, and there is one run."""
        journal = open_journal(proxy.url)
        wanted = intent()
        proxy.times(2, fault, path="runs/create")
        log = journal.owned.create(wanted, timeout=15)
        proxy.times(4, fault, path="runs/")
        for step in range(1_500):
            started = time.perf_counter()
            log.metric("loss", step / 7, 1_700_000_000_000 + step, step)
            assert time.perf_counter() - started < 0.05
        log.params({"lr": "1"})
        log.status("FINISHED", 1_800_000_000_000)
        assert log.wait(exit_timeout=30)
        found = server_client.search_runs(["0"], f"tags.`withrun.uid` = '{wanted.uid}'")
        assert [run.info.run_id for run in found] == [log.run_id]
        assert found[0].info.status == "FINISHED"
        assert found[0].data.params == {"lr": "1"}
        assert history(server_client, log.run_id, "loss") == [(step, step / 7) for step in range(1_500)]

    def test_an_outage(self, proxy: FaultProxy, server_client: Any, open_journal: MakeJournal) -> None:
        """Waiting gives up after `exit_timeout` without progress; when the server is back all arrives."""
        journal = open_journal(proxy.url)
        log = journal.owned.create(intent())
        proxy.always(Fault(reset=True))
        for step in range(3_000):
            log.metric("loss", 1.0, 1_700_000_000_000 + step, step)
        started = time.monotonic()
        assert not log.wait(exit_timeout=0.7)
        assert 0.6 < time.monotonic() - started < 5
        assert isinstance(journal.trouble, ServerUnreachable)
        assert log.delivery.pending == 3_000
        proxy.always(None)
        assert log.wait(exit_timeout=30)
        assert journal.trouble is None
        assert len(history(server_client, log.run_id, "loss")) == 3_000

    def test_a_start_without_the_server(
        self, proxy: FaultProxy, server_client: Any, open_journal: MakeJournal
    ) -> None:
        """Starting raises ServerUnreachable and leaves no run behind, even if the server had applied it."""
        journal = open_journal(proxy.url)
        wanted = intent()
        proxy.always(Fault(lose_answer=True))
        with pytest.raises(ServerUnreachable, match="on_unreachable"):
            journal.owned.create(wanted, timeout=1.0)
        proxy.always(None)
        later = journal.owned.create(intent())
        later.metric("x", 1.0, 1)
        assert later.wait(exit_timeout=30)
        assert journal.flush(exit_timeout=30)
        assert server_client.search_runs(["0"], f"tags.`withrun.uid` = '{wanted.uid}'") == []

    def test_going_on_locally(self, proxy: FaultProxy, server_client: Any, open_journal: MakeJournal) -> None:
        """A run that starts in an outage, and its child, get server IDs later, and exist once."""
        journal = open_journal(proxy.url)
        wanted = intent("parent")
        proxy.always(Fault(lose_answer=True))
        parent = journal.owned.create(wanted, timeout=1.0, on_unreachable="offline")
        child = journal.owned.create_locally(intent("child", tags={"mlflow.parentRunId": parent.run_id}))
        for log in (parent, child):
            log.metric("x", 1.0, 1)
            log.status("FINISHED", now())
        assert parent.run_id == wanted.uid
        assert parent.server_id is None
        proxy.always(None)
        assert journal.flush(exit_timeout=30)
        assert parent.server_id is not None
        found = server_client.search_runs(["0"], f"tags.`withrun.uid` = '{wanted.uid}'")
        assert [run.info.run_id for run in found] == [parent.server_id]
        assert server_client.get_run(child.server_id).data.tags["mlflow.parentRunId"] == parent.server_id
        assert journal.local_ids.resolve("run", wanted.uid) == parent.server_id


def test_a_bug_is_raised_and_not_waited_for(store_uri: str, open_journal: MakeJournal) -> None:
    """A bug in delivery surfaces in whoever waits, at once; the records are kept."""

    class Broken(StoreBackend):
        def log_batch(self, *args: Any, **kwargs: Any) -> None:
            raise ZeroDivisionError("a bug")

    journal = open_journal()
    journal._connect = lambda: Broken(store_uri)
    log = journal.run("abc")
    log.metric("x", 1.0, 1)
    with pytest.raises(JournalError, match="ZeroDivisionError"):
        log.wait()
    log.metric("x", 2.0, 2)
    assert log.delivery.pending == 2


def test_delivery_goes_on_after_a_failure_that_nobody_expected(
    store_uri: str, open_journal: MakeJournal, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivery is tried again, goes on where it failed, and counts each value once."""
    monkeypatch.setattr("withrun.journal.drain.FIRST_PAUSE", 0.1)
    broken = [True]

    class Flaky(StoreBackend):
        def delete_tag(self, *args: Any, **kwargs: Any) -> None:
            if broken[0]:
                raise ZeroDivisionError("a bug")
            super().delete_tag(*args, **kwargs)

    journal = open_journal()
    journal._connect = lambda: Flaky(store_uri)
    log = journal.owned.create(intent())
    log.metrics({"a": 1.0, "b": 2.0}, 1, 1)
    log.tags({"t": "1"})
    log.delete_tag("t")
    log.params({"p": "1"})
    with pytest.raises(JournalError, match="ZeroDivisionError"):
        log.wait()
    time.sleep(0.5)  # some attempts more
    assert log.delivery == (5, 3, 2, 0)
    broken[0] = False
    until = time.monotonic() + 10
    while log.delivery.pending and time.monotonic() < until:
        time.sleep(0.05)
    assert journal.flush(exit_timeout=10)
    assert log.delivery == (5, 5, 0, 0)
    run = client.get_run(log.run_id)
    assert (len(run.data.metrics), run.data.params) == (2, {"p": "1"})
    assert "t" not in run.data.tags


def test_delivered_segments_are_deleted(store_uri: str, open_journal: MakeJournal) -> None:
    """What the store has is not kept; a journal that is delivered leaves nothing when closed."""
    journal = open_journal(store_uri)
    log = journal.owned.create(intent())
    for step in range(20_000):
        log.metric("loss", 1.0, 1_700_000_000_000 + step, step)
    assert log.wait(exit_timeout=60)
    assert journal.flush(exit_timeout=10)
    assert len(list(journal.store_folder.rglob("*.seg"))) == 1
    assert journal.close()
    assert list(journal.store_folder.rglob("*.seg")) == []


def test_accounts_outlive_a_dropped_handle(store_uri: str, open_journal: MakeJournal) -> None:
    """A handle made anew for a run that still has records pending waits for these too."""
    journal = open_journal(store_uri)
    log = journal.owned.create(intent())
    run_id = log.run_id
    for step in range(5_000):
        log.metric("loss", 1.0, step, step)
    del log
    again = journal.run(run_id)
    assert again.delivery.accepted == 5_000
    assert again.wait(exit_timeout=30)
