"""Multipart uploads to an MLflow server that keeps its artifacts on S3: real parts, by real signed URLs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.cache.proxy import relay
from tests.s3 import s3_server
from tests.servers import MlflowServer, mlflow_server

from withrun.transfer.file_transfer import FileTransfer

pytest.importorskip("boto3", reason="the server signs URLs with it")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MlflowServer, Path]]:
    """A server that keeps artifacts in a bucket, and the folder behind that bucket."""
    folder = tmp_path_factory.mktemp("multipart")
    with s3_server(folder) as s3:
        bucket = s3.bucket("kept")
        with mlflow_server(folder / "mlflow", destination=f"{bucket}/root", env=s3.env) as running:
            yield running, s3.root / "kept" / "root"


def make_file(at: Path, size: int) -> str:
    """Write random bytes; return their hash."""
    digest = hashlib.sha256()
    with at.open("wb") as file:
        for start in range(0, size, 1 << 20):
            chunk = os.urandom(min(1 << 20, size - start))
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


@pytest.mark.parametrize(
    ("threshold", "part", "size"),
    [
        pytest.param(5 << 20, 5 << 20, (12 << 20) + 7, id="three parts"),
        pytest.param(5 << 20, 6 << 20, 5 << 20, id="one part"),
        pytest.param(500 << 20, 100 << 20, (500 << 20) + 1, id="six of 100 MiB", marks=pytest.mark.slow),
    ],
)
def test_parts_go_to_the_storage(
    server: tuple[MlflowServer, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threshold: int,
    part: int,
    size: int,
) -> None:
    """A large file arrives whole, in parts that don't pass through the server, and is read back by it."""
    monkeypatch.setattr("withrun.transfer.multipart.THRESHOLD", threshold)
    monkeypatch.setattr("withrun.transfer.multipart.PART", part)
    running, bucket = server
    folder = tmp_path / "d"
    (folder / "sub dir").mkdir(parents=True)
    whole = make_file(folder / "sub dir" / "large é.bin", size)
    (folder / "small").write_text("small")
    url = f"mlflow-artifacts:/{tmp_path.name}"
    transfer = FileTransfer(prog_bar=False)
    with (
        relay(running.url, b"PUT") as between,
        httpx.Client(base_url=between.url, timeout=60, trust_env=False) as http,
    ):
        transfer.push(folder, url, http=http)
        assert between.requests == 1  # the small file
        transfer.pull(url, tmp_path / "back", http=http)
    stored = bucket / tmp_path.name / "sub dir" / "large é.bin"
    assert hash_of(stored) == hash_of(tmp_path / "back" / "sub dir" / "large é.bin") == whole
    assert (tmp_path / "back" / "small").read_text() == "small"
