"""APIs on real stores with experiments of their own, and a context that is empty before and after a test."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.servers import MlflowServer
from withrun import BaseMlflowApi, ExpApi, MlflowApi

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An embedded store."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('sessions')}/mlflow.db"
    MlflowApi(tracking_uri=uri).get_or_create_exp("made so that the database is there")
    return uri


@pytest.fixture(scope="session")
def api(sqlite_uri: str) -> BaseMlflowApi:
    """An API on the embedded store."""
    return MlflowApi(tracking_uri=sqlite_uri)


@pytest.fixture(scope="session")
def other_api(server: MlflowServer) -> BaseMlflowApi:
    """An API on another store: a server's."""
    return MlflowApi(tracking_uri=server.url)


@pytest.fixture(scope="session")
def client(sqlite_uri: str) -> MlflowClient:
    """MLflow's own view of the embedded store."""
    from mlflow import MlflowClient

    return MlflowClient(sqlite_uri, sqlite_uri)


@pytest.fixture(scope="session")
def other_client(server: MlflowServer) -> MlflowClient:
    """MLflow's own view of the server's database, past the server."""
    from mlflow import MlflowClient

    return MlflowClient(server.store_uri, server.store_uri)


@pytest.fixture
def exp(api: BaseMlflowApi) -> ExpApi:
    """A new experiment of the embedded store."""
    return api.create_exp(f"e-{uuid.uuid4().hex}")


@pytest.fixture
def other_exp(other_api: BaseMlflowApi) -> ExpApi:
    """A new experiment of the server."""
    return other_api.create_exp(f"e-{uuid.uuid4().hex}")
