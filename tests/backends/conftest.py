"""Every backend on a real store, and a plain MLflow client on the same store to check what it holds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from tests.servers import MlflowServer, mlflow_server
from withrun.backend import Backend
from withrun.providers.mlflow.grammar import release
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.store import StoreBackend

if TYPE_CHECKING:
    from mlflow import MlflowClient


MLFLOW = release(version("mlflow"))
"""The release under test, on both sides: some of what backends offer, MLflow 2 lacks."""


@dataclass(frozen=True)
class Subject:
    """A backend under test, and MLflow's own view of its store (of the database itself, past any server)."""

    backend: Backend
    client: MlflowClient


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One MLflow server with one worker, for all tests of backends."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session", params=["sqlite", "server"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """Each backend in turn."""
    from mlflow import MlflowClient

    backend: Backend
    if request.param == "sqlite":
        uri = f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/mlflow.db"
        backend = StoreBackend(uri)
        backend.server_info()
    else:
        running: MlflowServer = request.getfixturevalue("server")
        uri = running.store_uri
        backend = RestBackend(running.url)
    yield Subject(backend, MlflowClient(uri, uri))
    backend.close()


@pytest.fixture
def backend(subject: Subject) -> Backend:
    return subject.backend


@pytest.fixture
def client(subject: Subject) -> MlflowClient:
    return subject.client


@pytest.fixture
def name() -> str:
    """A name that nothing has yet."""
    return f"n-{uuid.uuid4().hex}"


@pytest.fixture
def experiment(backend: Backend, name: str) -> str:
    """The ID of a new experiment."""
    return backend.create_experiment(name)


@pytest.fixture
def run(backend: Backend, experiment: str) -> str:
    """The ID of a new run."""
    return backend.create_run(experiment, run_name="a run", start_time=1_000).run_id
