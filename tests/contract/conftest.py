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

import withrun
from tests.servers import MlflowServer
from withrun import BaseMlflowApi, ExpApi, GenericMlflowApi, MlflowApi, RunApi
from withrun.context import snapshot

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
    """

    uri: str
    store: str
    has_web_page: bool
    local_artifacts: bool


def _sqlite(request: pytest.FixtureRequest) -> Place:
    folder = request.getfixturevalue("tmp_path_factory").mktemp("contract-sqlite")
    uri = f"sqlite:///{folder}/mlflow.db"
    return Place(uri, uri, has_web_page=False, local_artifacts=True)


def _server(request: pytest.FixtureRequest) -> Place:
    running: MlflowServer = request.getfixturevalue("server")
    return Place(running.url, running.store_uri, has_web_page=True, local_artifacts=False)


PLACES: dict[str, Callable[[pytest.FixtureRequest], Place]] = {"sqlite": _sqlite, "server": _server}


@pytest.fixture(scope="session", params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    """Each backend in turn."""
    return PLACES[request.param](request)


@pytest.fixture(scope="session")
def api(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseMlflowApi]:
    """The API under test."""
    with MlflowApi(tracking_uri=place.uri, cache_dir=tmp_path_factory.mktemp("cache")) as made:
        yield made


@pytest.fixture(scope="session")
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


@pytest.fixture(autouse=True)
def empty_context() -> Iterator[None]:
    """What a test leaves open is ended and forgotten."""
    before = snapshot()
    yield
    while withrun.active_run() is not None:
        withrun.end_run()
    before.restore()
