"""What was logged offline can be delivered by others while the process that logged it lives on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withrun import MlflowApi
from withrun.journal import idle, recover, waiting
from withrun.providers.mlflow.store import StoreBackend
from withrun.services.delivery import publisher_factory
from withrun.transfer.file_transfer import FileTransfer

from .conftest import MakeApi


@pytest.fixture(params=["sqlite"])
def uri(uri: str) -> str:
    """One kind of store is enough: it is not asked while something is logged."""
    return uri


def held(api: MlflowApi) -> int:
    """How many journals are in use."""
    assert api.journal_dir is not None
    return sum(journal.alive for journal in waiting(api.journal_dir, api.store_uri))


def sync(api: MlflowApi, uri: str) -> None:
    """Deliver what is not in use, which is all."""
    assert api.journal_dir is not None
    backend = StoreBackend(uri)
    try:
        publisher = publisher_factory(FileTransfer())(backend)
        report = recover(api.journal_dir, api.store_uri, backend, publisher=publisher, threads=1)
    finally:
        backend.close()
    assert (report.left, report.refused, held(api)) == ({}, 0, 0)
    assert waiting(api.journal_dir, api.store_uri) == []


def test_nothing_is_held_between_runs(open_api: MakeApi, uri: str, client: Any, tmp_path: Path) -> None:
    """When a call returns, and no run is open, all that it journaled is free to be delivered, in order."""
    api = open_api(uri, offline_mode=True)
    exp = api.get_or_create_exp("x")
    assert held(api) == 0
    api.create_run(exp, name="declared")
    assert held(api) == 0
    with api.start_run(exp, name="run") as run:
        run.log_metric("m", 1.0)
        api.flush()
        assert held(api) == 1
    assert held(api) == 0
    note = tmp_path / "note.txt"
    note.write_text("late")
    calls: list[Callable[[], object]] = [
        lambda: run.log_metric("late", 1.0),
        lambda: run.log_param("late", 1),
        lambda: run.log_artifact(note),
        *(lambda n=n: run.set_tag("n", n) for n in range(4)),
    ]
    for call in calls:
        call()
        assert held(api) == 0
    sync(api, uri)
    runs = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    found = {run.info.run_name: run for run in runs}
    assert found["declared"].info.status == "SCHEDULED"
    assert found["run"].info.status == "FINISHED"
    assert found["run"].data.metrics == {"m": 1.0, "late": 1.0}
    assert (found["run"].data.params, found["run"].data.tags["n"]) == ({"late": "1"}, "3")
    assert [entry.path for entry in client.list_artifacts(found["run"].info.run_id)] == ["note.txt"]


def test_a_loop_on_a_run_that_is_over(
    open_api: MakeApi, uri: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes a few journals, not one a record, and when it pauses, or flushes, all is let go of."""
    monkeypatch.setattr(idle, "_PAUSE", 0.2)
    api = open_api(uri, offline_mode=True)
    with api.start_run(api.get_or_create_exp("x")) as run:
        pass
    for step in range(200):
        run.log_metric("m", 1.0, step)
    assert api.journal_dir is not None
    assert held(api) == 1
    assert len(waiting(api.journal_dir, api.store_uri)) < 15
    deadline = time.monotonic() + 20
    while held(api):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.log_metric("m", 1.0, 200)
    run.set_tag("t", 1)
    assert held(api) == 1
    api.flush()
    assert held(api) == 0
    sync(api, uri)
    [found] = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    points = client.get_metric_history(found.info.run_id, "m")
    assert sorted(point.step for point in points) == list(range(201))
