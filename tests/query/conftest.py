"""The same awkward store, opened in this process and behind a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.query.world import World, populate
from tests.servers import mlflow_server
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.store import StoreBackend


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A populated SQLite store, opened in this process."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('world')}/mlflow.db"
    backend = StoreBackend(uri)
    backend.server_info()
    populate(uri)
    yield World(backend)
    backend.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A populated SQLite store behind a server with one worker."""
    with mlflow_server(tmp_path_factory.mktemp("served")) as server:
        populate(server.store_uri)
        backend = RestBackend(server.url)
        backend.server_info()
        yield World(backend)
        backend.close()
