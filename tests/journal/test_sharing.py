"""One journal for many: leases of a process, and forks beside a busy drain."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.servers import MlflowServer
from withrun.journal import lease
from withrun.providers.mlflow.store import StoreBackend

from .conftest import intent, rest


def test_the_last_lease_closes_the_journal(tmp_path: Path, store_uri: str, client: Any) -> None:
    """Users share one journal; it goes on until the last has closed, once each, and then leaves nothing."""

    def hold() -> Any:
        return lease(tmp_path / "journal", store_uri, connect=lambda: StoreBackend(store_uri), threads=1)

    first, second = hold(), hold()
    assert first.journal is second.journal
    log = first.journal.owned.create(intent())
    log.metric("x", 1.0, 1)
    assert first.close()
    assert client.get_run(log.run_id).data.metrics == {"x": 1.0}
    assert first.close()  # again: counts once
    log.metric("y", 1.0, 1)
    third = hold()
    assert third.journal is second.journal
    assert second.close()
    assert third.close()
    assert client.get_run(log.run_id).data.metrics == {"x": 1.0, "y": 1.0}
    assert list(tmp_path.glob("journal/*/*/lock")) == []
    fourth = hold()
    assert fourth.journal is not first.journal
    assert fourth.close()


def test_leases_are_counted_across_threads(tmp_path: Path) -> None:
    """Eight threads that take and close leases all the time never log to a closed journal."""
    errors: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for step in range(100):
                held = lease(tmp_path / "journal", "https://nowhere.test")
                held.journal.run(f"run-{worker}").metric("x", 1.0, 1, step)
                held.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_users_with_other_credentials_share_nothing(tmp_path: Path) -> None:
    """Leases with different identities, or with and without delivery, have journals of their own."""
    uri = "https://nowhere.test"
    leases = [
        lease(tmp_path, uri, identity="a"),
        lease(tmp_path, uri, identity="b"),
        lease(tmp_path, uri, identity="a", connect=lambda: rest(uri)),
    ]
    assert len({id(held.journal) for held in leases}) == 3
    for held in leases:
        held.close()


FORKING = """
import os, sys, time, traceback, uuid
from pathlib import Path
from withrun.journal import Journal, RunIntent
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.settings import ClientSettings
from withrun.providers.mlflow.store import StoreBackend

folder, uri = Path(sys.argv[1]), sys.argv[2]
remote = uri.startswith("http")
connect = lambda: RestBackend(uri, ClientSettings()) if remote else StoreBackend(uri)
journal = Journal(folder, uri, connect=connect, threads=4 if remote else 1)

def start():
    log = journal.owned.create(RunIntent(uuid.uuid4().hex, "0", "run", 1))
    print(log.run_id, flush=True)
    return log

log, children = start(), []
for step in range(3_000):
    log.metric("x", 1.0, 1_700_000_000_000 + step, step)
    time.sleep(0.0002)
    if step % 1_000 == 500:
        child = os.fork()
        if child == 0:
            try:
                own = start()
                for inner in range(300):
                    own.metric("x", 1.0, 1_700_000_000_000 + inner, inner)
                own.status("FINISHED", 2)
                os._exit(0 if journal.close() else 1)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(2)
        children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(0 if codes == [0] * 3 and journal.close() else f"children left with {codes}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("through", ["sqlite", "server"])
def test_forks_beside_a_busy_drain(
    through: str, tmp_path: Path, store_uri: str, server: MlflowServer
) -> None:
    """Children that are forked while the drain sends deliver their own runs, the parent all of its."""
    from mlflow import MlflowClient

    uri = store_uri if through == "sqlite" else server.url
    command = [sys.executable, "-W", "ignore", "-c", FORKING, tmp_path / "journal", uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    parent, *children = done.stdout.split()
    assert len(set(children)) == 3
    client = MlflowClient(uri)
    assert [p.step for p in client.get_metric_history(parent, "x")] == list(range(3_000))
    for child in children:
        assert [p.step for p in client.get_metric_history(child, "x")] == list(range(300))
        assert client.get_run(child).info.status == "FINISHED"
    assert list(tmp_path.glob("journal/*/*/lock")) == []
