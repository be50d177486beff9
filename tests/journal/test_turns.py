"""What several journals hold of one run arrives in the order of logging; seen by a plain MLflow client."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from withrun.journal import Journal, new_uid, recover
from withrun.journal.disk import OwnerLock
from withrun.journal.folder import JournalFolder, journals_in
from withrun.journal.recovery import Recovered
from withrun.providers.mlflow.store import StoreBackend

from .conftest import intent, now

POINTS = 3000


class Slow(StoreBackend):
    """A store that takes its time for each batch."""

    def log_batch(self, *args: Any, **fields: Any) -> None:
        time.sleep(0.2)
        super().log_batch(*args, **fields)


@pytest.fixture
def run_id(client: Any) -> str:
    """A run that others have created."""
    made: str = client.create_run("0").info.run_id
    return made


@pytest.fixture
def deliver(tmp_path: Path, store_uri: str) -> Callable[..., Recovered]:
    def run(backend_of: Callable[[str], StoreBackend] = StoreBackend, **options: Any) -> Recovered:
        backend = backend_of(store_uri)
        try:
            return recover(tmp_path / "journal", store_uri, backend, threads=1, **options)
        finally:
            backend.close()

    return run


@pytest.fixture
def log(tmp_path: Path, store_uri: str) -> Callable[..., Path]:
    """Logs to a run in a journal of its own, which is let go of then; where that is."""

    def run(run_id: str, stage: str, status: str, points: int = 0) -> Path:
        journal = Journal(tmp_path / "journal", store_uri)
        log = journal.run(run_id)
        for step in range(points):
            log.metric("m", float(step), now(), step)
        log.tags({"stage": stage})
        log.status(status, now())
        journal.close()
        return journals_in(journal.store_folder)[-1]

    return run


@pytest.fixture
def old(log: Callable[..., Path], run_id: str) -> Path:
    """The journal of a process that has logged to the run and is gone."""
    return log(run_id, "old", "FINISHED", POINTS)


def check_new(client: Any, run_id: str, status: str = "FAILED") -> None:
    """All of the older journal is there, and what the younger one says counts."""
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["stage"]) == (status, "new")
    assert len(client.get_metric_history(run_id, "m")) == POINTS


def test_two_recoveries_at_once(
    log: Callable[..., Path], old: Path, run_id: str, deliver: Callable[..., Recovered], client: Any
) -> None:
    """Of two recoveries one does not overtake what the other is delivering: it waits, and nothing is left."""
    log(run_id, "new", "FAILED")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(deliver, Slow)
        while not OwnerLock.is_held(old / "lock"):
            time.sleep(0.01)
        second = pool.submit(deliver)
        reports = [first.result(), second.result()]
    assert [report.left for report in reports] == [{}, {}]
    assert sum(report.journals for report in reports) == 2
    check_new(client, run_id)


def test_what_another_holds_is_left_to_it(
    log: Callable[..., Path], old: Path, run_id: str, deliver: Callable[..., Recovered], client: Any
) -> None:
    """If the older journal is not delivered further, the younger one is left whole, and told why."""
    log(run_id, "new", "FAILED")
    held = JournalFolder.take(old)
    assert held is not None
    report = deliver(patience=0.5)
    [reason] = report.left.values()
    assert f"run {run_id}" in reason
    assert old.name in reason
    assert "stage" not in client.get_run(run_id).data.tags
    held.release()
    assert deliver().left == {}
    check_new(client, run_id)


def test_a_live_journal_waits_its_turn(
    old: Path, run_id: str, open_journal: Callable[..., Journal], store_uri: str, client: Any
) -> None:
    """While another process delivers what is older, that run alone waits; then it goes on by itself."""
    held = JournalFolder.take(old)
    assert held is not None
    live = open_journal(store_uri)
    waits, other = live.run(run_id), live.owned.create(intent("other"))
    waits.tags({"stage": "new"})
    other.tags({"stage": "new"})
    assert other.wait(timeout=10)
    assert not waits.wait(timeout=0.5)
    assert old.name in str(live.held_up)
    assert "stage" not in client.get_run(run_id).data.tags
    held.release()
    assert live.flush(30)
    check_new(client, run_id, "FINISHED")


def test_taken_back(
    log: Callable[..., Path], open_journal: Callable[..., Journal], store_uri: str, client: Any
) -> None:
    """Who started a run, and takes it back from a process that is gone, comes after that, too."""
    live = open_journal(store_uri)
    mine = live.owned.create(intent("mine"))
    held = JournalFolder.take(log(mine.run_id, "old", "FINISHED", POINTS))
    assert held is not None
    live.owned.take_over(mine)
    mine.tags({"stage": "new"})
    assert not mine.wait(timeout=0.3)
    held.release()
    assert live.flush(30)
    check_new(client, mine.run_id, "FINISHED")


def test_a_living_process_is_not_waited_for(
    open_journal: Callable[..., Journal], run_id: str, tmp_path: Path, store_uri: str
) -> None:
    """Two processes that log to one run at the same time don't hold up one another."""
    beside = Journal(tmp_path / "journal", store_uri)
    beside.run(run_id).tags({"stage": "beside"})
    live = open_journal(store_uri)
    live.run(run_id).tags({"stage": "live"})
    assert live.flush(10)
    beside.close()


def test_by_the_time_of_logging(
    log: Callable[..., Path],
    run_id: str,
    tmp_path: Path,
    store_uri: str,
    deliver: Callable[..., Recovered],
    client: Any,
) -> None:
    """A process that began before, and took the run up after the other was gone, has the last word."""
    long_lived = Journal(tmp_path / "journal", store_uri)
    assert long_lived.owner
    log(run_id, "old", "FINISHED", POINTS)
    log_here = long_lived.run(run_id)
    log_here.tags({"stage": "new"})
    log_here.status("FAILED", now())
    long_lived.close()
    assert deliver().left == {}
    check_new(client, run_id)


def test_a_start_behind_a_turn(
    tmp_path: Path, store_uri: str, run_id: str, deliver: Callable[..., Recovered], client: Any
) -> None:
    """A journal that needs a start in a younger one, which comes after it for another run, is delivered."""
    uid = new_uid()
    first = Journal(tmp_path / "journal", store_uri)
    first.owned.create_locally(intent("child", tags={"mlflow.parentRunId": uid})).status("FINISHED", now())
    first.run(run_id).tags({"stage": "old"})
    first.close()
    second = Journal(tmp_path / "journal", store_uri)
    second.run(run_id).tags({"stage": "new"})
    second.owned.create_locally(intent("parent", uid=uid)).status("FINISHED", now())
    second.close()
    report = deliver()
    assert (report.journals, report.left) == (2, {})
    runs = {run.info.run_name: run for run in client.search_runs(["0"])}
    assert runs["child"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    assert client.get_run(run_id).data.tags["stage"] == "new"


KILLED = """
import os, sys
from pathlib import Path
from withrun.journal import Journal, RunIntent
from withrun.providers.mlflow.store import StoreBackend
journal = Journal(Path(sys.argv[1]), sys.argv[2], threads=1, connect=lambda: StoreBackend(sys.argv[2]))
log = journal.owned.create(RunIntent("a" * 32, "0", "run", 1_700_000_000_000))
print(log.run_id, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def orphan(tmp_path: Path, store_uri: str) -> str:
    """A run whose process was killed."""
    command = [sys.executable, "-c", KILLED, tmp_path / "journal", store_uri]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.parametrize("lives", [True, False], ids=["lives", "waits"])
def test_who_took_a_run_over_answers_for_its_end(
    lives: bool, orphan: str, tmp_path: Path, store_uri: str, deliver: Callable[..., Recovered], client: Any
) -> None:
    """Taken over in a journal that lives, or waits, a run is not ended for the process that had it before."""
    journal = Journal(tmp_path / "journal", store_uri)
    log = journal.run(orphan)
    owner = journal.owned.take_over(log)
    log.tags({"withrun.owner": owner, "stage": "new"})
    if not lives:
        log.status("FINISHED", 7)
        journal.close()
    report = deliver()
    assert report.ended == []
    if lives:
        assert client.get_run(orphan).info.status == "RUNNING"
        journal.close()
        assert deliver().ended == [orphan]  # let go of without an end
    assert client.get_run(orphan).info.status == ("FAILED" if lives else "FINISHED")
    assert client.get_run(orphan).data.tags["stage"] == "new"


def test_given_back(
    orphan: str, tmp_path: Path, store_uri: str, deliver: Callable[..., Recovered], client: Any
) -> None:
    """A run that could not be taken over after all is ended for the process that had it."""
    journal = Journal(tmp_path / "journal", store_uri)
    log = journal.run(orphan)
    journal.owned.take_over(log)
    journal.owned.give_back(log)
    assert deliver().ended == [orphan]
    journal.close()
