"""Delivery from a disk that is full or read-only: nothing is forgotten, nothing is there twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withrun.journal import ExperimentIntent, Journal, LocalIds, Recovered, new_uid, recover
from withrun.providers.mlflow.store import StoreBackend

from .conftest import fill, intent

DYING = """
import os, sys
from pathlib import Path
from withrun.journal import recover
from withrun.providers.mlflow.store import StoreBackend

class Dying(StoreBackend):
    def log_batch(self, *_, **__):
        os.kill(os.getpid(), 9)

recover(Path(sys.argv[1]), sys.argv[2], Dying(sys.argv[2]), threads=1)
"""

STARTING = """
import os, sys
from pathlib import Path
from tests.journal.conftest import fill
from withrun.journal import Journal, RunIntent
from withrun.providers.mlflow.store import StoreBackend
folder, uri = Path(sys.argv[1]), sys.argv[2]
journal = Journal(folder, uri, threads=1, connect=lambda: StoreBackend(uri))
journal.owned.create(RunIntent("a" * 32, "0", "before", 1_700_000_000_000))
fill(folder)
journal.owned.create(RunIntent("b" * 32, "0", "on a full disk", 1_700_000_000_000))
os.kill(os.getpid(), 9)
"""

STARTING_WITHOUT = """
import os, sys
from pathlib import Path
from tests.journal.conftest import fill
from withrun.journal import Journal, RunIntent
from withrun.providers.mlflow.store import StoreBackend
folder, uri = Path(sys.argv[1]), sys.argv[2]
fill(folder)
journal = Journal(folder, uri, threads=1, connect=lambda: StoreBackend(uri))
log = journal.owned.create(RunIntent("a" * 32, "0", "without a journal", 1_700_000_000_000))
(folder / "filler").unlink()
log.metric("x", 1.0, 1)
os.kill(os.getpid(), 9)
"""


def run(code: str, *arguments: object) -> int:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode


@pytest.fixture
def deliver(small: Path, store_uri: str) -> Callable[[], Recovered]:
    """Delivers what was left, as `withrun sync` does."""

    def run() -> Recovered:
        backend = StoreBackend(store_uri)
        try:
            return recover(small, store_uri, backend, threads=1)
        finally:
            backend.close()

    return run


def test_a_run_is_created_once(
    small: Path, store_uri: str, client: Any, deliver: Callable[[], Recovered]
) -> None:
    """Killed after it created a run whose creation found no room to be noted, delivery finds it again."""
    journal = Journal(small, store_uri)
    for name in ("one", "two"):
        journal.owned.create_locally(intent(name)).metric("x", 1.0, 1)
    journal.close()
    fill(small)
    assert run(DYING, small, store_uri) == -signal.SIGKILL
    assert {run.info.run_name for run in client.search_runs(["0"])} == {"one", "two"}
    report = deliver()
    assert (len(report.runs), report.left) == (2, {})
    assert sorted(run.info.run_name for run in client.search_runs(["0"])) == ["one", "two"]


def test_local_ids_are_written_before_anything_is_forgotten(
    small: Path, store_uri: str, client: Any, deliver: Callable[[], Recovered]
) -> None:
    """An experiment's journal stays until there is room for its ID: the runs in it arrive then."""
    local_id = new_uid()
    first = Journal(small, store_uri, mapped=False)  # without a reserve that could be given back
    first.ensure_experiment(ExperimentIntent(local_id, "early"))
    second = Journal(small, store_uri, mapped=False)
    log = second.owned.create_locally(intent(experiment_id=local_id))
    log.metric("x", 1.0, 1)
    for journal in (first, second):
        journal.close()
    fill(small)
    report = deliver()
    assert (report.journals, len(report.left)) == (0, 2)
    assert any("full" in reason and "free some space" in reason for reason in report.left.values())
    (small / "filler").unlink()
    report = deliver()
    assert (report.journals, report.left) == (2, {})
    experiment = client.get_experiment_by_name("early")
    [found] = client.search_runs([experiment.experiment_id])
    local_ids = LocalIds(journal.store_folder)
    assert local_ids.resolve("run", log.uid) == found.info.run_id
    assert local_ids.resolve("experiment", local_id) == experiment.experiment_id


def test_a_reserve_is_given_back(small: Path, store_uri: str, deliver: Callable[[], Recovered]) -> None:
    """On a full disk the unused end of a dead process's segment makes room for what is to be noted."""
    journal = Journal(small, store_uri, mapped=True)
    log = journal.owned.create_locally(intent())
    log.metric("x", 1.0, 1)
    journal.close()
    fill(small)
    assert deliver().left == {}
    assert LocalIds(journal.store_folder).resolve("run", log.uid) is not None


def test_refused_values_wait_for_room(
    small: Path, store_uri: str, client: Any, deliver: Callable[[], Recovered]
) -> None:
    """What the store refuses stays in the journal until there is room to keep it aside."""
    run_id = client.create_run("0").info.run_id
    journal = Journal(small, store_uri, mapped=False)
    log = journal.run(run_id)
    for value in ("1", "2", "3"):
        log.params({"lr": value})
    journal.close()
    fill(small)
    report = deliver()
    assert (report.journals, report.refused, len(report.left)) == (0, 0, 1)
    (small / "filler").unlink()
    report = deliver()
    assert (report.journals, report.refused, report.left) == (1, 2, {})
    assert len(Path(report.kept[0]).read_text().splitlines()) == 2
    assert client.get_run(run_id).data.params == {"lr": "1"}


def test_a_run_started_on_a_full_disk_is_ended(
    small: Path, store_uri: str, client: Any, deliver: Callable[[], Recovered]
) -> None:
    """Though its process could not note that it owned it, and was killed."""
    assert run(STARTING, small, store_uri) == -signal.SIGKILL
    report = deliver()
    assert (len(report.ended), report.left) == (2, {})
    assert {run.info.run_name: run.info.status for run in client.search_runs(["0"])} == {
        "before": "FAILED",
        "on a full disk": "FAILED",
    }


def test_a_run_started_without_a_journal_is_ended(
    small: Path, store_uri: str, client: Any, deliver: Callable[[], Recovered]
) -> None:
    """Where there was no room for a journal, the run is noted with the first one that there is room for."""
    assert run(STARTING_WITHOUT, small, store_uri) == -signal.SIGKILL
    [started] = client.search_runs(["0"])
    assert started.info.status == "RUNNING"
    assert deliver().ended == [started.info.run_id]
    assert client.get_run(started.info.run_id).info.status == "FAILED"


def test_a_read_only_disk(small: Path, store_uri: str, deliver: Callable[[], Recovered]) -> None:
    """Each journal on it is left, with the reason; made writable again, all are delivered."""
    for _ in range(2):
        journal = Journal(small, store_uri)
        journal.owned.create_locally(intent())
        journal.close()
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    report = deliver()
    assert len(report.left) == 2
    assert all("Read-only" in reason for reason in report.left.values())
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    assert (deliver().left, list(small.rglob("lock"))) == ({}, [])
