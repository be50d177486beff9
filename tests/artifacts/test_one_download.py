"""One model version on S3, asked for by many processes through the public API, some of which are killed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import withrun
from tests.cache.proxy import relay
from tests.s3 import S3Server, s3_server
from tests.servers import MlflowServer, clean_env
from withrun.errors import OfflineError

SIZE = 64 << 20

# What each process does once it is told to go: it prints the hash of the artifact that it got.
GET = """
import hashlib, sys, withrun
api = withrun.get_api(conf={"tracking_uri": sys.argv[1], "cache_dir": sys.argv[2]})
version = api.get_model_version(("big", "@champion"))
print("ready", flush=True)
sys.stdin.readline()
print(version.load_artifact(lambda path: hashlib.sha256(path.read_bytes()).hexdigest()), flush=True)
"""


@dataclass(frozen=True)
class Registry:
    """A server, the endpoint that keeps its artifacts, and the hash of the version's."""

    uri: str
    s3: S3Server
    digest: str


@pytest.fixture(scope="module")
def registry(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A server with a version of 64 MiB in a bucket, which clients reach themselves."""
    folder = tmp_path_factory.mktemp("registry")
    data = os.urandom(1 << 20) * (SIZE >> 20)
    with s3_server(folder) as s3, pytest.MonkeyPatch.context() as patch:
        for name, value in s3.env.items():
            patch.setenv(name, value)
        with withrun.get_api(conf={"tracking_uri": server.url, "cache_dir": folder / "cache"}) as api:
            run = api.create_run(api.get_or_create_exp("big"), repo=s3.bucket("registry"))
            version = run.log_model_version("big", lambda path: path.write_bytes(data), use_cache=False)
            version.set_alias("champion")
        yield Registry(server.url, s3, hashlib.sha256(data).hexdigest())


def start(registry: Registry, cache: Path, endpoint: str) -> subprocess.Popen[str]:
    """A process that is ready to ask for the version, in a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", GET, registry.uri, str(cache)],
        env=clean_env(**{**registry.s3.env, "MLFLOW_S3_ENDPOINT_URL": endpoint}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_eight_processes(registry: Registry, tmp_path: Path) -> None:
    """Eight processes that ask at once for one 64 MiB version download it once; all get the whole of it."""
    with relay(registry.s3.url, b"GET /registry/") as between:
        processes = [start(registry, tmp_path / "cache", between.url) for _ in range(8)]
        try:
            for process in processes:
                go(process)
            outputs = [process.communicate(timeout=120) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert {out for out, _ in outputs} == {registry.digest + "\n"}, outputs[0][1]
    assert SIZE <= between.received < SIZE * 1.1


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_killed(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Killed at a random moment, a pull leaves no hit or a whole one; the next pull gets it whole."""
    chance = random.Random(times)
    for name, value in registry.s3.env.items():
        monkeypatch.setenv(name, value)
    whole = 0
    with relay(registry.s3.url, b"GET", bytes_per_second=150e6) as between:
        for number in range(times):
            cache = tmp_path / str(number)
            process = start(registry, cache, between.url)
            try:
                go(process)
                time.sleep(chance.random() * 1.2)
            finally:
                process.send_signal(signal.SIGKILL)  # rclone, its child, has to end by itself
                process.communicate()
            with withrun.get_api(conf={"tracking_uri": registry.uri, "cache_dir": cache}) as api:
                version = api.get_model_version(("big", "1"), force_cache_refresh=True)
                try:
                    found = api.in_offline_mode.get_model_artifact(version)
                except OfflineError:
                    pass
                else:
                    whole += 1
                    assert digest(found) == registry.digest
                assert digest(api.get_model_artifact(version)) == registry.digest
                api.clean_all_cache()  # 50 copies would fill the disk
    assert whole < times  # else nothing was killed in the middle


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
