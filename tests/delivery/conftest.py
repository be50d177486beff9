"""What these tests share: APIs with a journal of their own, plain clients, a proxy that misbehaves."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faultproxy import FaultProxy, fault_proxy
from tests.servers import MlflowServer
from withrun import MlflowApi

MakeApi = Callable[..., MlflowApi]


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[FaultProxy]:
    """A proxy before the server, without faults as yet."""
    with fault_proxy(server.url) as running:
        yield running


@pytest.fixture
def client(server: MlflowServer) -> Any:
    """MLflow's own view of the server's database, past proxy and server."""
    from mlflow import MlflowClient

    return MlflowClient(server.store_uri, server.store_uri)


@pytest.fixture
def exp_id(server: MlflowServer) -> str:
    """A new experiment of the server."""
    from mlflow import MlflowClient

    made: str = MlflowClient(server.url).create_experiment(f"e-{uuid.uuid4().hex}")
    return made


@pytest.fixture
def open_api(tmp_path: Path) -> Iterator[MakeApi]:
    """Makes APIs whose journals are this test's alone; closes them when it is over."""
    made: list[MlflowApi] = []

    def make(uri: str, **conf: Any) -> MlflowApi:
        settings = {"timeout": 10.0, "connect_timeout": 2.0, "retries": 0}
        fields: dict[str, Any] = {"journal_dir": tmp_path / "journal", "cache_dir": tmp_path / "cache"}
        if uri.startswith("http"):
            fields["client_settings"] = settings
        api = MlflowApi(tracking_uri=uri, **(fields | conf))
        made.append(api)
        return api

    yield make
    for api in made:
        if not api.is_closed:
            api.close()


def runs_tagged(client: Any, exp_id: str, key: str) -> dict[str, list[Any]]:
    """The runs of an experiment by the value of one of their tags."""
    found: dict[str, list[Any]] = {}
    token = None
    while True:
        page = client.search_runs([exp_id], max_results=1000, page_token=token)
        for run in page:
            found.setdefault(run.data.tags.get(key, ""), []).append(run)
        token = page.token
        if not token:
            return found


def steps(client: Any, run_id: str, key: str) -> list[int]:
    """The steps of a metric's points, in the order of time."""
    points = client.get_metric_history(run_id, key)
    return [point.step for point in sorted(points, key=lambda point: (point.timestamp, point.step))]


def journals(folder: Path) -> list[Path]:
    """The journals that lie below a journal folder; one that was being made at a kill holds nothing yet."""
    return [path.parent for path in folder.rglob("lock") if not path.parent.name.startswith(".")]
