"""The backends that the one suite runs against. A further one is a further `Place`.

What differs between them is said by the fields of `Place`, never by the name of one, which no test knows.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.s3 import s3_server
from tests.servers import MlflowServer, mlflow_server
from withrun import BaseMlflowApi, ExpApi, GenericMlflowApi, MlflowApi, RunApi

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Place:
    """A backend under test.

    Attributes:
        uri: what an API is given to reach it.
        store: under which a plain MLflow client sees the same store, past any server.
        has_web_page: its URLs are pages of a web interface.
        local_artifacts: artifacts lie on this machine's file system, in reach of the client.
        takes_any_source: `store` registers versions whatever their source, as no server does.
    """

    uri: str
    store: str
    has_web_page: bool
    local_artifacts: bool
    takes_any_source: bool = True


def _sqlite(request: pytest.FixtureRequest) -> Place:
    folder = request.getfixturevalue("tmp_path_factory").mktemp("contract-sqlite")
    uri = f"sqlite:///{folder}/mlflow.db"
    return Place(uri, uri, has_web_page=False, local_artifacts=True)


def _server(request: pytest.FixtureRequest) -> Place:
    running: MlflowServer = request.getfixturevalue("server")
    return Place(running.url, running.store_uri, has_web_page=True, local_artifacts=False)


def _s3(request: pytest.FixtureRequest) -> Place:
    running: MlflowServer = request.getfixturevalue("server_on_s3")
    return Place(running.url, running.store_uri, has_web_page=True, local_artifacts=False)


def _mlflow_2(request: pytest.FixtureRequest) -> Place:
    running: MlflowServer = request.getfixturevalue("server_of_mlflow_2")
    # MLflow's client goes by way of the server too: opening the database, MLflow 3 would migrate it.
    return Place(running.url, running.url, has_web_page=True, local_artifacts=False, takes_any_source=False)


PLACES: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "sqlite": _sqlite,
    "server": _server,
    "s3": _s3,
    "mlflow 2": _mlflow_2,
}
MLFLOW_2 = Path(__file__).parents[2] / ".venv-mlflow2" / "bin" / "python"


@pytest.fixture(scope="package")
def server_on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server whose artifacts lie in a bucket, which clients reach themselves by the usual environment."""
    folder = tmp_path_factory.mktemp("contract-s3")
    with s3_server(folder) as s3, pytest.MonkeyPatch.context() as patch:
        for name, value in s3.env.items():
            patch.setenv(name, value)
        with mlflow_server(folder, artifact_root=f"{s3.bucket('contract')}/runs", env=s3.env) as running:
            yield running


@pytest.fixture(scope="package")
def server_of_mlflow_2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server of MLflow 2, from an environment of its own (`make test-slow` makes it)."""
    if not MLFLOW_2.exists():
        pytest.skip(f"no MLflow 2 to test against: `make test-slow` installs it into {MLFLOW_2.parents[1]}")
    with mlflow_server(tmp_path_factory.mktemp("contract-mlflow-2"), python=str(MLFLOW_2)) as running:
        yield running


@pytest.fixture(
    scope="package",
    params=[pytest.param(n, marks=pytest.mark.slow) if n == "mlflow 2" else n for n in PLACES],
)
def place(request: pytest.FixtureRequest) -> Place:
    """Each backend in turn."""
    return PLACES[request.param](request)


@pytest.fixture(scope="package")
def api(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseMlflowApi]:
    """The API under test."""
    with MlflowApi(tracking_uri=place.uri, cache_dir=tmp_path_factory.mktemp("cache")) as made:
        yield made


@pytest.fixture(scope="package")
def client(place: Place, api: BaseMlflowApi) -> MlflowClient:
    """MLflow's own view of the store."""
    from mlflow import MlflowClient

    api.get_exp("0")  # makes the database, if there is none yet
    return MlflowClient(place.store, place.store)


@pytest.fixture
def name() -> str:
    """A name that nothing has yet."""
    return f"n-{uuid.uuid4().hex}"


@pytest.fixture
def exp(api: BaseMlflowApi, name: str) -> ExpApi:
    """A new experiment."""
    return api.create_exp(name)


@pytest.fixture
def run(exp: ExpApi) -> RunApi:
    """A new run, active nowhere."""
    return exp.create_run("a run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files, to be published."""
    made = tmp_path / "folder"
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "sub" / "b ü.txt").write_text("b")
    return made


@pytest.fixture(params=["offline", "generic"])
def reader(request: pytest.FixtureRequest, api: BaseMlflowApi, tmp_path: Path) -> Reader:
    """What serves metadata and artifacts without a server: an offline copy, and an export."""
    if request.param == "offline":
        return Reader(api.in_offline_mode, None)
    return Reader(GenericMlflowApi(cache_dir=tmp_path / "export"), tmp_path / "export")


@dataclass(frozen=True)
class Reader:
    """An API that is offline; it reads the cache, or the folder `target` that was exported to."""

    api: BaseMlflowApi
    target: Path | None
