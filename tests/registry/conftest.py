"""Both kinds of stores, with versions that MLflow's own client registered in them."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import withrun
from tests.servers import MlflowServer, clean_env

if TYPE_CHECKING:
    from mlflow import MlflowClient

NATIVE = Path(__file__).with_name("native.py")


@dataclass(frozen=True)
class Store:
    """A store: its URI, a plain client on its database, and the versions made by `native.py`."""

    uri: str
    client: MlflowClient
    native: dict[str, tuple[str, str, str]]


@pytest.fixture(scope="session", params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """An embedded store, and a server with proxied artifacts."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("registry")
    if request.param == "sqlite":
        uri = database = f"sqlite:///{folder}/mlflow.db"
        location = (folder / "artifacts").as_uri()
    else:
        running: MlflowServer = request.getfixturevalue("server")
        uri, database, location = running.url, running.store_uri, ""
    answer = subprocess.run(
        [sys.executable, str(NATIVE), uri, location],
        cwd=folder,
        env=clean_env(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert answer.returncode == 0, answer.stderr
    made = json.loads(answer.stdout.splitlines()[-1])
    return Store(uri, MlflowClient(database, database), {name: tuple(key) for name, key in made.items()})


@pytest.fixture
def api(store: Store, tmp_path: Path) -> Iterator[withrun.BaseMlflowApi]:
    """An API on the store, with a cache of its own."""
    with withrun.get_api(conf={"tracking_uri": store.uri, "cache_dir": tmp_path / "cache"}) as made:
        yield made


@pytest.fixture
def run(api: withrun.BaseMlflowApi) -> Iterator[withrun.RunApi]:
    """An open run."""
    with api.start_run(api.get_or_create_exp("registry"), name="r") as opened:
        yield opened


@pytest.fixture
def name() -> str:
    """A model's name that nothing has yet."""
    return f"m-{uuid.uuid4().hex}"
