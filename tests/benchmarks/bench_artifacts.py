"""Artifacts to and from a server that proxies them and an S3 endpoint, beside MLflow's own client.

500 files of 2 kB in a folder, and one file of 256 MiB: uploaded, read for the first time, and again.
MLflow's client has no cache: for it every access is a download. withrun's upload, as it is configured by
default, keeps a copy in the cache; the line without shows the upload alone. Its cache hashes what is large,
and writes it through to the disk, when it has returned: that is waited for before it is the other's turn,
and not counted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import withrun
from tests.benchmarks.harness import Benchmark, Contender, each
from tests.s3 import s3_server
from tests.servers import MlflowServer, mlflow_server
from withrun.cache.settling import wait_until_settled

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILES, SMALL, LARGE = 500, 2_000, 256 << 20
ROUNDS = 5


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    many = folder / "many"
    many.mkdir()
    for number in range(FILES):
        (many / f"{number:03}").write_bytes(os.urandom(SMALL))
    one = folder / "one.bin"
    with one.open("wb") as file:
        for _ in range(LARGE >> 20):
            file.write(os.urandom(1 << 20))
    with contextlib.ExitStack() as stack:
        s3 = stack.enter_context(s3_server(folder / "s3"))
        stack.callback(os.environ.update, dict(os.environ))
        stack.callback(os.environ.clear)
        os.environ.update(s3.env)
        proxied = stack.enter_context(mlflow_server(folder / "proxied"))
        root = f"{s3.bucket('bench')}/runs"
        direct = stack.enter_context(mlflow_server(folder / "direct", artifact_root=root, env=s3.env))
        jobs: list[Benchmark] = []
        for route, server in (("proxied", proxied), ("S3", direct)):
            for title, source in ((f"{FILES} files of 2 kB", many), ("one file of 256 MiB", one)):
                work = stack.enter_context(_Work(server, source, folder / f"{route}-{source.stem}"))
                jobs += work.benchmarks(f"{route}: {title}")
        yield jobs


class _Work:
    """One artifact on one server, by both clients."""

    def __init__(self, server: MlflowServer, source: Path, folder: Path) -> None:
        self._source, self._folder, self._server = source, folder, server
        self._path = f"mine{source.suffix}"

    def __enter__(self) -> _Work:
        from mlflow import MlflowClient

        self._client: MlflowClient = MlflowClient(self._server.url, self._server.url)
        self._api = withrun.get_api(
            conf={
                "tracking_uri": self._server.url,
                "cache_dir": self._folder / "cache",
                "file_transfer": withrun.FileTransfer(prog_bar=False),
            }
        )
        self._exp = self._api.get_or_create_exp("bench")
        self._run = self._exp.create_run("read")
        self._run.log_artifact(self._source, self._path, use_cache=False)
        self._upload_by_mlflow(self._run.id)
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()
        shutil.rmtree(self._folder)

    def benchmarks(self, title: str) -> list[Benchmark]:
        peer = Contender("mlflow: download_artifacts", self._download_by_mlflow)
        return [
            Benchmark(
                f"{title}: upload",
                "ms",
                [
                    Contender("withrun: log_artifact, no copy kept", lambda: self._upload(use_cache=False)),
                    Contender("withrun: log_artifact, cached too", lambda: self._upload(use_cache=True)),
                    Contender("mlflow: log_artifact(s)", lambda: [self._timed(self._upload_by_mlflow)]),
                ],
                ROUNDS,
            ),
            Benchmark(
                f"{title}: first access",
                "ms",
                [Contender("withrun: get_run_artifact, a miss", self._miss), peer],
                ROUNDS,
            ),
            Benchmark(
                f"{title}: second access",
                "us",
                [Contender("withrun: get_run_artifact, a hit", self._hits), peer],
                ROUNDS,
            ),
        ]

    def _upload(self, *, use_cache: bool) -> list[float]:
        run = self._exp.create_run("written")
        taken = each(1, lambda _: run.log_artifact(self._source, self._path, use_cache=use_cache))
        wait_until_settled()
        return taken

    def _upload_by_mlflow(self, run_id: str) -> None:
        if self._source.is_dir():
            self._client.log_artifacts(run_id, str(self._source), "theirs")
        else:
            self._client.log_artifact(run_id, str(self._source), "theirs")

    def _timed(self, upload: Callable[[str], None]) -> float:
        run_id = self._exp.create_run("written").id
        start = time.perf_counter()
        upload(run_id)
        return time.perf_counter() - start

    def _miss(self) -> list[float]:
        self._api.clean_cached_run_artifact(self._run, self._path)
        taken = each(1, lambda _: self._run.get_artifact(self._path))
        wait_until_settled()
        return taken

    def _hits(self) -> list[float]:
        self._run.get_artifact(self._path)
        return each(1000, lambda _: self._run.get_artifact(self._path))

    def _download_by_mlflow(self) -> list[float]:
        target = self._folder / "download"
        target.mkdir(parents=True)
        taken = each(1, lambda _: self._client.download_artifacts(self._run.id, "theirs", str(target)))
        shutil.rmtree(target)
        return taken
