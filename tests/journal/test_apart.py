"""Runs whose start another journal holds wait by themselves: all others of the journal go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withrun.journal import Journal, apart, new_uid, recover, waiting
from withrun.providers.mlflow.store import StoreBackend

from .conftest import intent, now


@pytest.fixture
def held(tmp_path: Path, store_uri: str) -> tuple[Journal, str]:
    """An offline journal, in use, and the run that it starts."""
    journal = Journal(tmp_path / "journal", store_uri)
    uid = new_uid()
    journal.owned.create_locally(intent("held", uid=uid))
    return journal, uid


def log_around(live: Journal, uid: str) -> None:
    """Log in turns to that run, to a child of it, and to one that needs neither; three windows at least."""
    waits = live.run(uid, uid=uid)
    child = live.owned.create_locally(intent("child", uid=new_uid(), tags={"mlflow.parentRunId": uid}))
    other = live.owned.create_locally(intent("other", uid=new_uid()))
    for step in range(3):
        for log in (waits, child, other):
            log.metric("m", float(step), now(), step)
            log.tags({"step": str(step)})
        assert other.wait(timeout=10)
        assert live.flush(10, apart=False)
    for log in (child, other):
        log.status("FINISHED", now())
    assert other.wait(timeout=10)
    assert waits.delivery.pending == 6
    assert child.delivery.pending == 8
    assert live.trouble is None
    assert uid in str(live.held_up)


def check(client: Any, uid: str) -> None:
    """All of it is there, in order, once."""
    runs = {run.info.run_name: run for run in client.search_runs(["0"])}
    assert set(runs) == {"held", "child", "other"}
    assert runs["child"].data.tags["mlflow.parentRunId"] == runs["held"].info.run_id
    assert runs["held"].data.tags["withrun.uid"] == uid
    for run in runs.values():
        points = client.get_metric_history(run.info.run_id, "m")
        assert sorted(point.step for point in points) == [0, 1, 2]
        assert run.data.tags["step"] == "2"
    assert {runs[name].info.status for name in ("child", "other")} == {"FINISHED"}


def test_others_go_on_and_it_follows(
    open_journal: Callable[..., Journal], held: tuple[Journal, str], store_uri: str, client: Any
) -> None:
    """While another journal is held only its run and that run's child wait; let go of, it brings them on."""
    offline, uid = held
    live = open_journal(store_uri)
    log_around(live, uid)
    assert [run.info.run_name for run in client.search_runs(["0"])] == ["other"]
    offline.run(uid, uid=uid).status("FINISHED", now())
    offline.close()
    assert live.flush(20)
    assert live.run(uid, uid=uid).delivery.pending == 0
    assert live.held_up is None
    check(client, uid)
    assert live.close()
    assert waiting(live.store_folder.parent, store_uri) == []


def test_what_waits_outlives_the_journal(
    open_journal: Callable[..., Journal],
    held: tuple[Journal, str],
    store_uri: str,
    client: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Closed while the other is still held, a journal says what it keeps, and recovery delivers it once."""
    offline, uid = held
    live = open_journal(store_uri)
    log_around(live, uid)
    started = time.monotonic()
    assert not live.close(exit_timeout=30)
    assert time.monotonic() - started < 10
    assert "about 14 logged values" in caplog.text
    assert uid in caplog.text
    offline.close()
    backend = StoreBackend(store_uri)
    try:
        report = recover(live.store_folder.parent, store_uri, backend, threads=1)
    finally:
        backend.close()
    assert (report.left, report.refused) == ({}, 0)
    check(client, uid)


def test_a_wait_without_limit_ends(
    open_journal: Callable[..., Journal],
    held: tuple[Journal, str],
    store_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who would wait for ever for what nobody delivers is told so after a while."""
    monkeypatch.setattr(apart, "STUCK", 0.5)
    live = open_journal(store_uri)
    log = live.run(held[1], uid=held[1])
    log.params({"a": "1"})
    assert not live.flush()
    assert not log.wait()
    held[0].close()
