"""The same awkward store, opened in this process and behind a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.query.world import World, populate
from tests.servers import MlflowServer, mlflow_server
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.store import StoreBackend


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A populated database, to be copied."""
    path = tmp_path_factory.mktemp("world") / "mlflow.db"
    populate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def embedded(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A populated SQLite store, opened in this process."""
    copy = shutil.copy(database, tmp_path_factory.mktemp("embedded"))
    backend = StoreBackend(f"sqlite:///{copy}")
    backend.server_info()
    yield World(backend)
    backend.close()


@pytest.fixture(scope="session")
def served(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same store behind a server with one worker."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(database, folder)
    with mlflow_server(folder) as server:
        backend = RestBackend(server.url)
        backend.server_info()
        yield World(backend)
        backend.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server over an empty store."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running
