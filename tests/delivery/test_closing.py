"""APIs that are closed, dropped, or forked while in use; exit_timeout=0; on a database of the test's own."""

from __future__ import annotations

import contextvars
import gc
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faultproxy import Fault, FaultProxy
from tests.servers import _database_template
from withrun import MlflowApi, RunApi
from withrun.errors import WithrunError
from withrun.journal import registry

from .conftest import MakeApi

pytestmark = pytest.mark.slow


@pytest.fixture
def uri(tmp_path: Path) -> str:
    database = tmp_path / "mlflow.db"
    shutil.copyfile(_database_template(sys.executable), database)
    return f"sqlite:///{database}"


WRITES: dict[str, Callable[[RunApi], object]] = {
    "log_metric": lambda run: run.log_metric("m", 2.0),
    "a new metric": lambda run: run.log_metric("new", 2.0),
    "log_metrics": lambda run: run.log_metrics({"m": 3.0}),
    "log_param": lambda run: run.log_param("p", 1),
    "set_tag": lambda run: run.set_tag("t", 1),
    "delete_tag": lambda run: run.delete_tag("t"),
    "flush": lambda run: run.flush(5),
    "update": lambda run: run.update(),
    "by ID": lambda run: run.api.log_metrics(run.id, {"m": 4.0}),
    "start_run": lambda run: run.api.start_run("0"),
    "api.flush": lambda run: run.api.flush(5),
}


def test_a_closed_api_takes_nothing(open_api: MakeApi, uri: str) -> None:
    """All verbs and waits of a closed API say that it is closed, also while another uses its journal."""
    first, second = open_api(uri), open_api(uri)
    kept = second.start_run("0")
    run = first.start_run("0")
    for step in range(3):
        run.log_metric("m", 1.0, step)
    run.end_run()
    delivery = run.delivery
    first.close()
    for write in WRITES.values():
        with pytest.raises(WithrunError, match="was closed"):
            write(run)
    assert run.delivery == delivery
    kept.log_metric("m", 1.0)
    kept.end_run()
    assert kept.delivery.pending == 0


def test_dropped_apis_let_go(open_api: MakeApi, uri: str, tmp_path: Path) -> None:
    """APIs that were dropped without closing are freed, and keep no later one from stopping the drain."""

    def use() -> None:
        api = MlflowApi(tracking_uri=uri, journal_dir=tmp_path / "journal", cache_dir=tmp_path / "cache")
        with api.start_run("0") as run:
            run.log_metric("m", 1.0)

    for _ in range(3):
        contextvars.copy_context().run(use)
    gc.collect()
    last = open_api(uri)
    last.start_run("0").end_run()
    [users] = [users for key, users in registry._users.items() if str(tmp_path) in key[0]]
    assert len(users) == 1
    last.close()
    assert "withrun-drain" not in {thread.name for thread in threading.enumerate()}


def test_a_fork_while_the_journal_is_taken(open_api: MakeApi, uri: str) -> None:
    """A child forked while another thread is taking the journal can log."""
    api = open_api(uri)
    lock = api.services.writes._lock
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)
            api.start_run("0").end_run()
            os._exit(0)
        finally:
            os._exit(1)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


def test_no_patience_is_enough_for_a_healthy_store(
    open_api: MakeApi, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With exit_timeout=0 what a healthy store takes is there when a run is left, and nothing warns."""
    api = open_api(uri, exit_timeout=0)
    for _ in range(3):
        with api.start_run("0") as run:
            run.log_metric("m", 1.0)
        assert run.delivery.pending == 0
    api.start_run("0").log_metric("m", 1.0)
    api.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_an_api_leaves_to_others_is_told(
    open_api: MakeApi, proxy: FaultProxy, exp_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An API that is closed while the server is away says what is kept, though another uses its journal."""
    first, second = (open_api(proxy.url, exit_timeout=0.5) for _ in range(2))
    for api in (first, second):
        with api.start_run(exp_id):
            pass
    run = first.start_run(exp_id)
    run.flush(10)
    handle = second.get_run(run.id)
    proxy.always(Fault(reset=True))
    handle.log_metric("m", 1.0)
    caplog.clear()
    second.close()
    assert "are not on the server" in caplog.text
    proxy.always(None)
    first.flush(30)
