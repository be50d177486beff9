"""What all tests share: an environment that says nothing, and one MLflow server for those that need one."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

import withrun
from tests.servers import MlflowServer, clean_env, mlflow_server
from withrun.context import snapshot


def pytest_configure(config: pytest.Config) -> None:
    """Take the caller's settings out of the environment, and keep caches away from the user's home."""
    # A worker of pytest-xdist ignores Ctrl-C, and so would the programs that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    clean = clean_env()
    for name in set(os.environ) - set(clean):
        del os.environ[name]
    os.environ.update(clean)
    home = tempfile.mkdtemp(prefix="withrun-home-")
    os.environ.update({"XDG_CACHE_HOME": f"{home}/cache", "XDG_STATE_HOME": f"{home}/state"})


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One MLflow server with one worker and proxied artifacts, for all tests that change nothing of it."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(autouse=True)
def empty_context() -> Iterator[None]:
    """Nothing is active before a test; what a test leaves open is ended and forgotten."""
    before = snapshot()
    assert withrun.active_run() is None, "an earlier test left a run active"
    yield
    while withrun.active_run() is not None:
        withrun.end_run()
    before.restore()
