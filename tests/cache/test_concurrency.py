"""Many at once, and killed at any moment: one download, and never half an artifact."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.cache.proxy import relay
from tests.servers import MlflowServer, clean_env, mlflow_server
from withrun.cache.artifacts import ArtifactCache
from withrun.schema import Experiment, Run
from withrun.services.artifacts import ArtifactService, of_run
from withrun.transfer.file_transfer import FileTransfer

BIG = 64 << 20

# What a child process does: get an artifact through the relay and print what it got.
CHILD = """
import hashlib, sys
from pathlib import Path
import httpx
from withrun.cache.artifacts import ArtifactCache
from withrun.schema import Experiment, Run
from withrun.services.artifacts import ArtifactService, of_run
from withrun.transfer.file_transfer import FileTransfer

cache, url, path = sys.argv[1:]
with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
    service = ArtifactService(transfer=FileTransfer(prog_bar=False), cache=ArtifactCache(Path(cache)),
                              http=lambda: http, temp_artifacts_dir=Path(cache) / "temp")
    exp = Experiment(id="0", name="d")
    run = Run(id="r1", name="r", exp=exp, repo_url="mlflow-artifacts:/0/r1/artifacts")
    print("ready", flush=True)
    sys.stdin.readline()
    got = service.get(of_run(run, path))
    files = [got] if got.is_file() else sorted(p for p in got.rglob("*") if p.is_file())
    print(hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest(), flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server with one big file and a folder of twenty in run r1."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        root = Path(running.artifacts) / "0" / "r1" / "artifacts"
        (root / "folder").mkdir(parents=True)
        (root / "big.bin").write_bytes(os.urandom(BIG))
        for index in range(20):
            (root / "folder" / f"{index:02}.bin").write_bytes(os.urandom(200_000))
        yield running


def expected(server: MlflowServer, path: str) -> str:
    at = Path(server.artifacts) / "0" / "r1" / "artifacts" / path
    files = [at] if at.is_file() else sorted(at.iterdir())
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


def child(cache: Path, url: str, path: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cache), url, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_env(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def service_on(cache: Path, http: httpx.Client) -> ArtifactService:
    return ArtifactService(
        transfer=FileTransfer(prog_bar=False),
        cache=ArtifactCache(cache),
        http=lambda: http,
        temp_artifacts_dir=cache / "temp",
    )


REMOTE = Run(id="r1", name="r", exp=Experiment(id="0", name="d"), repo_url="mlflow-artifacts:/0/r1/artifacts")


def test_eight_processes_make_one_download(server: MlflowServer, tmp_path: Path) -> None:
    """Eight processes that ask at once for one 64 MiB file download it once, and all get the whole of it."""
    with relay(server.url, b"artifacts/big.bin") as between:
        children = [child(tmp_path, between.url, "big.bin") for _ in range(8)]
        for process in children:
            go(process)
        outputs = [process.communicate(timeout=120) for process in children]
        assert {out for out, _ in outputs} == {expected(server, "big.bin") + "\n"}, outputs[0][1]
        assert BIG <= between.received < BIG * 1.1


def test_threads_make_one_download(server: MlflowServer, tmp_path: Path) -> None:
    """Sixteen threads of one process share one download of a folder too."""
    with (
        relay(server.url, b"artifacts/folder/00.bin") as between,
        httpx.Client(base_url=between.url, trust_env=False) as http,
    ):
        service = service_on(tmp_path, http)
        with ThreadPoolExecutor(16) as pool:
            got = set(pool.map(lambda _: service.get(of_run(REMOTE, "folder")), range(16)))
        assert len(got) == 1
        assert len(list(got.pop().iterdir())) == 20
        assert between.requests == 1
        seen = between.received
        service.get(of_run(REMOTE, "folder/07.bin"))
        assert between.received == seen


@pytest.mark.parametrize(
    "times", [pytest.param(6, id="few"), pytest.param(50, marks=pytest.mark.slow, id="many")]
)
def test_killed_at_any_moment(server: MlflowServer, tmp_path: Path, times: int) -> None:
    """However a pull is killed, what reads as a hit is whole, and the next one completes it."""
    chance = random.Random(times)
    whole = {path: expected(server, path) for path in ("big.bin", "folder")}
    hits = 0
    with relay(server.url, b"GET", bytes_per_second=150e6) as between:
        for index in range(times):
            cache, path = tmp_path / str(index), chance.choice(("big.bin", "folder"))
            process = child(cache, between.url, path)
            go(process)
            time.sleep(chance.random() * (0.9 if path == "big.bin" else 0.3))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            found = ArtifactCache(cache).find(of_run(REMOTE, path).key)
            if found is not None:
                hits += 1
                files = [found] if found.is_file() else sorted(found.iterdir())
                assert hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest() == whole[path]
            with httpx.Client(base_url=server.url, trust_env=False) as http:
                got = service_on(cache, http).get(of_run(REMOTE, path))
            files = [got] if got.is_file() else sorted(got.iterdir())
            assert hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest() == whole[path]
    assert hits < times  # else nothing was killed in the middle
