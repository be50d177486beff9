"""Recovery in the background of another program's life; what arrives is seen by a plain MLflow client."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port, mlflow_server
from withrun.backend import Backend
from withrun.journal import Journal, waiting
from withrun.journal.background import BackgroundRecovery
from withrun.journal.folder import JournalFolder
from withrun.providers.mlflow.store import StoreBackend

from .conftest import intent, now, rest

LEAVE = """
import os, sys, time, uuid
from pathlib import Path
from withrun.journal import Journal, RunIntent
journal = Journal(Path(sys.argv[1]), sys.argv[2])
for number in range(int(sys.argv[3])):
    log = journal.owned.create_locally(RunIntent(uuid.uuid4().hex, "0", f"left-{number}", 1_700_000_000_000))
    log.params({"number": str(number)})
    for step in range(100):
        log.metric("loss", step / 7, 1_700_000_000_000 + step, step)
    if number != 1:
        log.status("FINISHED", 1_700_000_100_000)
os.kill(os.getpid(), 9)
"""


def leave(folder: Path, uri: str, runs: int = 2) -> None:
    """Have a process log without a server, and kill it."""
    done = subprocess.run([sys.executable, "-c", LEAVE, folder, uri, str(runs)], check=False)
    assert done.returncode == -signal.SIGKILL


class Connections:
    """Makes backends, and tells how many are open."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.made = 0
        self.open = 0

    def __call__(self) -> Backend:
        backend = rest(self.uri) if self.uri.startswith("http") else StoreBackend(self.uri)
        self.made += 1
        self.open += 1
        close = backend.close

        def closed() -> None:
            self.open -= 1
            close()

        backend.close = closed  # type: ignore[method-assign]
        return backend


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Any]:
    made: list[BackgroundRecovery] = []

    def begin(uri: str, connect: Any) -> BackgroundRecovery:
        recovery = BackgroundRecovery(tmp_path / "journal", uri, connect, threads=1)
        made.append(recovery)
        recovery.start()
        return recovery

    yield begin
    for recovery in made:
        recovery.close()


def recovery_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "withrun-recovery"]


def wait_until_held(folder: Path, uri: str) -> None:
    """Until the recovery has taken the journal; looking takes it for a moment, too."""
    deadline = time.monotonic() + 10
    while not waiting(folder, uri)[0].alive and time.monotonic() < deadline:
        time.sleep(0.01)


def names(client: Any) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in client.search_runs(["0"])}


def test_what_a_killed_process_left_arrives(tmp_path: Path, store_uri: str, client: Any, begun: Any) -> None:
    """Its runs are on the store with all points, the unfinished one FAILED, and the backend is closed."""
    leave(tmp_path / "journal", store_uri)
    connections = Connections(store_uri)
    recovery = begun(store_uri, connections)
    assert recovery.wait(60)
    assert names(client) == {"left-0": "FINISHED", "left-1": "FAILED"}
    for run in client.search_runs(["0"]):
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 100
    assert (connections.made, connections.open) == (1, 0)
    assert len(recovery.report.runs) == 2
    assert waiting(tmp_path / "journal", store_uri) == []
    assert recovery_threads() == []


def test_nothing_is_started_for_nothing(tmp_path: Path, store_uri: str, begun: Any) -> None:
    """Without journals, or with this process's own alone, there is neither a thread nor a backend."""
    connections = Connections(store_uri)
    assert begun(store_uri, connections).wait(0)
    own = Journal(tmp_path / "journal", store_uri)
    own.owned.create_locally(intent())
    assert begun(store_uri, connections).wait(0)
    assert (recovery_threads(), connections.made) == ([], 0)
    own.close()
    assert begun(store_uri, connections).wait(60)
    assert connections.made == 1


def test_journals_of_living_processes_are_left_alone(
    tmp_path: Path, store_uri: str, client: Any, begun: Any
) -> None:
    """While its process lives a journal is neither delivered nor changed, and no backend is made for it."""
    code = LEAVE.replace("os.kill(os.getpid(), 9)", "print(flush=True); sys.stdin.read()")
    command = [sys.executable, "-c", code, tmp_path / "journal", store_uri, "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        connections = Connections(store_uri)
        assert begun(store_uri, connections).wait(30)
        assert connections.made == 0
        [alive] = waiting(tmp_path / "journal", store_uri)
        assert (alive.alive, alive.runs) == (True, 1)
        process.kill()
    assert begun(store_uri, connections).wait(60)
    assert names(client) == {"left-0": "FINISHED"}


@pytest.mark.slow
def test_an_absent_server_is_waited_for(tmp_path: Path, begun: Any) -> None:
    """A server that comes up a while after the start gets everything."""
    from mlflow import MlflowClient

    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    leave(tmp_path / "journal", uri, 1)
    connections = Connections(uri)
    recovery = begun(uri, connections)
    assert not recovery.wait(1.0)
    assert waiting(tmp_path / "journal", uri)[0].alive
    with mlflow_server(tmp_path / "server", port=port) as server:
        assert recovery.wait(90)
        assert names(MlflowClient(server.store_uri)) == {"left-0": "FINISHED"}


def test_several_share_one_thread(tmp_path: Path, begun: Any) -> None:
    """Two users of a store have one thread; it ends with the last of them, and the journal is free again."""
    uri = f"http://127.0.0.1:{free_port()}"
    leave(tmp_path / "journal", uri, 1)
    connections = Connections(uri)
    first, second = begun(uri, connections), begun(uri, connections)
    wait_until_held(tmp_path / "journal", uri)
    assert len(recovery_threads()) == 1
    assert first.close()
    assert len(recovery_threads()) == 1
    assert second.close()
    assert recovery_threads() == []
    assert (connections.made, connections.open) == (1, 0)
    [left] = waiting(tmp_path / "journal", uri)
    assert (left.alive, left.runs, left.records > 100) == (False, 1, True)


def test_a_forked_child_has_no_part_in_it(tmp_path: Path, begun: Any) -> None:
    """The child waits for nothing, holds no lock of its parent's, and can recover the same store itself."""
    uri = f"http://127.0.0.1:{free_port()}"
    leave(tmp_path / "journal", uri, 1)
    recovery = begun(uri, Connections(uri))
    wait_until_held(tmp_path / "journal", uri)
    told, tell = os.pipe()
    go, let_go = os.pipe()
    child = os.fork()
    if not child:
        verdict = b"failed"
        try:
            os.close(let_go)
            ok = recovery.wait(0) and recovery_threads() == []
            os.write(tell, b"ready")
            os.read(go, 1)  # the parent has stopped recovering by now
            folder = JournalFolder.take(waiting(tmp_path / "journal", uri)[0].path)
            verdict = b"taken" if ok and folder is not None else b"held"
            os.write(tell, verdict)
        finally:
            os._exit(0)
    assert os.read(told, 5) == b"ready"
    assert not recovery.wait(0)
    assert recovery.close()
    os.write(let_go, b".")
    assert os.read(told, 10) == b"taken"
    os.waitpid(child, 0)
    for descriptor in (told, tell, go, let_go):
        os.close(descriptor)


def test_a_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path: Path) -> None:
    """Killed while its recovery held a journal, a process leaves it free though a forked child lives on."""
    uri = f"http://127.0.0.1:{free_port()}"
    leave(tmp_path / "journal", uri, 1)
    code = """
import os, sys, time
from pathlib import Path
from withrun.journal import waiting
from withrun.journal.background import BackgroundRecovery
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.settings import ClientSettings
folder, uri = Path(sys.argv[1]), sys.argv[2]
BackgroundRecovery(folder, uri, lambda: RestBackend(uri, ClientSettings(retries=0))).start()
while not waiting(folder, uri)[0].alive:
    time.sleep(0.01)
if not (child := os.fork()):
    try:
        time.sleep(60)
    finally:
        os._exit(0)
print(child, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code, tmp_path / "journal", uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            deadline = time.monotonic() + 10  # the child lets go as soon as it runs at all
            while waiting(tmp_path / "journal", uri)[0].alive and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not waiting(tmp_path / "journal", uri)[0].alive
        finally:
            os.kill(child, signal.SIGKILL)


def test_exit_does_not_wait_for_an_absent_server(tmp_path: Path) -> None:
    """A program that ends while its recovery waits for a server ends at once, and the journal is kept."""
    uri = f"http://127.0.0.1:{free_port()}"
    leave(tmp_path / "journal", uri, 1)
    code = """
import sys
from pathlib import Path
from withrun.journal.background import BackgroundRecovery
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.settings import ClientSettings
folder, uri = Path(sys.argv[1]), sys.argv[2]
recovery = BackgroundRecovery(folder, uri, lambda: RestBackend(uri, ClientSettings(retries=0)))
recovery.start()
recovery.wait(1)
"""
    started = time.monotonic()
    command = [sys.executable, "-c", code, tmp_path / "journal", uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert time.monotonic() - started < 15
    [left] = waiting(tmp_path / "journal", uri)
    assert (left.alive, left.runs) == (False, 1)


def test_a_failure_says_what_is_kept(
    tmp_path: Path, store_uri: str, begun: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a backend can't even be made, one error names the folder, and the journal is free for others."""
    leave(tmp_path / "journal", store_uri, 1)

    def connect() -> Backend:
        raise RuntimeError("no such driver")

    with caplog.at_level(logging.ERROR, "withrun.journal"):
        assert begun(store_uri, connect).wait(30)
    [record] = caplog.records
    assert str(tmp_path / "journal") in record.getMessage()
    assert "kept" in record.getMessage()
    assert not waiting(tmp_path / "journal", store_uri)[0].alive


def test_values_of_a_run_that_another_journal_starts(
    tmp_path: Path, store_uri: str, client: Any, begun: Any
) -> None:
    """Though the older journal logs to a run that the newer one starts, both arrive in one recovery."""
    older, newer = Journal(tmp_path / "journal", store_uri), Journal(tmp_path / "journal", store_uri)
    older.owned.create_locally(intent("older"))
    time.sleep(0.01)
    log = newer.owned.create_locally(intent("newer"))
    log.params({"from": "newer"})
    older.run(log.uid, uid=log.uid).metric("loss", 1.0, now(), 1)
    older.close()
    newer.close()
    recovery = begun(store_uri, Connections(store_uri))
    assert recovery.wait(60)
    assert recovery.report.left == {}
    run = client.get_run(recovery.report.runs[log.uid])
    assert (run.data.params, run.data.metrics) == ({"from": "newer"}, {"loss": 1.0})
