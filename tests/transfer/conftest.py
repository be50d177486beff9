"""Fixtures of the transfer tests: one real MLflow server with proxied artifacts for all of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests import s3
from tests.servers import MlflowServer, mlflow_server


@pytest.fixture(scope="session")
def proxied_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("proxied")) as server:
        yield server


@pytest.fixture
def http(proxied_server: MlflowServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxied_server.url, trust_env=False) as client:
        yield client


@pytest.fixture
def remote() -> str:
    """A fresh artifact URL on the proxied server."""
    return f"mlflow-artifacts:/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def _s3_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    with s3.s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_server(
    _s3_session: s3.S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> s3.S3Server:
    """A real S3 endpoint, this process' environment set to reach it, and no rclone configuration."""
    for name, value in _s3_session.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("xdg")))
    monkeypatch.delenv("RCLONE_CONFIG", raising=False)
    return _s3_session


@pytest.fixture
def bucket(s3_server: s3.S3Server) -> str:
    """The URL of a fresh, empty bucket."""
    return s3_server.bucket(f"b{uuid.uuid4().hex}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of several sizes and names, a link, and a folder below."""
    root = tmp_path / "source"
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / "a.txt").write_text("alpha")
    (root / "empty").touch()
    (root / "a b+ü&=.bin").write_bytes(bytes(range(256)) * 50)
    (root / "sub" / "large.bin").write_bytes(b"0123456789abcdef" * 200_000)
    (root / "sub" / "deeper" / "x.json").write_text("{}")
    (root / "link.txt").symlink_to("a.txt")
    return root


def contents(root: Path) -> dict[str, bytes]:
    """All files below a folder; fails on anything that is neither file nor folder."""
    found = {}
    for path in root.rglob("*"):
        if not path.is_dir():
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found
