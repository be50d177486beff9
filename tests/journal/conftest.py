"""What the journal's tests share: a database per test, and plain clients to see what it holds."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import MlflowServer, _database_template, mlflow_server
from withrun.journal import Journal, Recovered, RunIntent, recover
from withrun.journal.record import frame
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.settings import ClientSettings
from withrun.providers.mlflow.store import StoreBackend


def intent(name: str = "run", **changes: Any) -> RunIntent:
    """A run to be created in experiment 0."""
    fields = {"uid": uuid.uuid4().hex, "experiment_id": "0", "name": name, "start_time": now()} | changes
    return RunIntent(**fields)


def now() -> int:
    return int(time.time() * 1000)


@pytest.fixture
def store_uri(tmp_path: Path) -> str:
    """A fresh sqlite store."""
    database = tmp_path / "mlflow.db"
    shutil.copyfile(_database_template(sys.executable), database)
    return f"sqlite:///{database}"


@pytest.fixture
def client(store_uri: str) -> Any:
    """A plain MLflow client of the fresh store."""
    from mlflow import MlflowClient

    return MlflowClient(store_uri)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One real server for all of the journal's tests."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server_client(server: MlflowServer) -> Any:
    """A plain MLflow client of the server."""
    from mlflow import MlflowClient

    return MlflowClient(server.url)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting takes root, and this machine's consent")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    """Take all room that is left: the last page of each ledger below a folder, then all others."""
    for ledger in folder.rglob("runs.log"):
        with ledger.open("ab") as file:
            while left := -file.tell() % 4096:
                file.write(frame((4, "x" * (left - 13 if left < 200 else 100), None)))
                file.flush()
    with (folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def rest(url: str, **settings: Any) -> RestBackend:
    """A backend that gives up at once: trying again is the journal's business."""
    return RestBackend(
        url, ClientSettings(**({"retries": 0, "timeout": 10.0, "connect_timeout": 2.0} | settings))
    )


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[Callable[..., Journal]]:
    """Makes journals, and closes them when the test is over."""
    made: list[Journal] = []

    def make(uri: str | None = None, **options: Any) -> Journal:
        if uri is None:
            journal = Journal(tmp_path / "journal", "https://nowhere.test", **options)
        elif uri.startswith("http"):
            journal = Journal(tmp_path / "journal", uri, connect=lambda: rest(uri), **options)
        else:
            journal = Journal(
                tmp_path / "journal", uri, connect=lambda: StoreBackend(uri), **({"threads": 1} | options)
            )
        made.append(journal)
        return journal

    yield make
    for journal in made:
        journal.close(exit_timeout=0.5)


@pytest.fixture
def deliver(tmp_path: Path, store_uri: str) -> Callable[[], Recovered]:
    """Delivers what was left, as `withrun sync` does."""

    def run() -> Recovered:
        backend = StoreBackend(store_uri)
        try:
            return recover(tmp_path / "journal", store_uri, backend, threads=1)
        finally:
            backend.close()

    return run
