"""What the tests of offline runs share: stores, APIs whose journals are a test's own, plain clients."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import MlflowServer, _database_template
from withrun import MlflowApi

MakeApi = Callable[..., MlflowApi]


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An embedded store of the test's own, and a server with proxied artifacts."""
    if request.param == "server":
        running: MlflowServer = request.getfixturevalue("server")
        return running.url
    database = tmp_path / "mlflow.db"
    shutil.copyfile(_database_template(sys.executable), database)
    return f"sqlite:///{database}"


@pytest.fixture
def client(uri: str) -> Any:
    """A plain MLflow client of the store."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


@pytest.fixture
def open_api(tmp_path: Path) -> Iterator[MakeApi]:
    """Makes APIs with one cache folder, and so one journal folder; closes them when the test is over."""
    made: list[MlflowApi] = []

    def make(uri: str, **conf: Any) -> MlflowApi:
        api = MlflowApi(tracking_uri=uri, **({"cache_dir": tmp_path / "cache"} | conf))
        made.append(api)
        return api

    yield make
    for api in made:
        if not api.is_closed:
            api.close()
