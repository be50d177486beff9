"""What a caller waits for when it logs, while what was logged before is being delivered.

Every contender that hands its values to a thread is measured while that thread works: it gets a backlog
first, and a little work of the caller's own, as a training loop has, lies between the calls.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import withrun
from tests.benchmarks.harness import Benchmark, Contender, each
from tests.servers import mlflow_server

CALLS = 5_000
BACKLOG = 10_000
SLOW_CALLS = 25
"""Calls to those that take milliseconds."""

BATCH = 1_000
WORK = 20e-6
"""Seconds of the caller's own work between two calls."""


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    with mlflow_server(folder / "server") as server, contextlib.ExitStack() as open_now:
        yield [
            *_on("sqlite", f"sqlite:///{folder}/embedded.db", folder, open_now),
            *_on("1-worker server", server.url, folder, open_now),
        ]


def _on(store: str, uri: str, folder: Path, open_now: contextlib.ExitStack) -> list[Benchmark]:
    api = open_now.enter_context(withrun.get_api(conf={"tracking_uri": uri, "cache_dir": folder / "cache"}))
    exp = api.get_or_create_exp("bench")
    client = MlflowClient(uri)

    def ours(
        call: Callable[[withrun.RunApi, int], object],
        calls: int = CALLS,
        backlog: Callable[[withrun.RunApi], object] = lambda _: None,
    ) -> list[float]:
        with api.start_run(exp) as run:
            call(run, 0)
            backlog(run)
            return each(calls, lambda number: call(run, number), work=WORK)

    def fill(run: withrun.RunApi) -> None:
        for step in range(BACKLOG):
            run.log_metric("before", 0.5, step)

    def theirs(call: Callable[[str, int], object], calls: int = SLOW_CALLS) -> list[float]:
        run_id = client.create_run(exp.id).info.run_id
        taken = each(calls, lambda number: call(run_id, number))
        client.set_terminated(run_id)
        return taken

    def asynchronous(seconds: int | None, calls: int) -> list[float]:
        run_id = client.create_run(exp.id).info.run_id
        pending: list[Any] = []

        def call(step: int) -> None:
            pending.append(client.log_metric(run_id, "loss", 0.5, step=step, synchronous=False))

        with buffering(seconds):
            taken = each(calls, call, work=WORK)
            for operation in pending:
                operation.wait()
        client.set_terminated(run_id)
        return taken

    def metric(run_id: str, step: int) -> None:
        client.log_metric(run_id, "loss", 0.5, step=step)

    def params(run_id: str, number: int) -> None:
        client.log_batch(run_id, params=[Param(f"p{number}.{i}", str(i)) for i in range(20)])

    def metrics(run_id: str, step: int) -> None:
        client.log_batch(run_id, metrics=[Metric(f"m{i}", 0.5, 1, step) for i in range(BATCH)])

    values: dict[str, Any] = {f"m{i}": 0.5 for i in range(BATCH)}
    return [
        Benchmark(
            f"one metric a call, while the drain works, {store}",
            "us",
            [
                Contender(
                    "run.log_metric",
                    lambda: ours(lambda run, step: run.log_metric("loss", 0.5, step), CALLS, fill),
                ),
                Contender(
                    "withrun.log_metric",
                    lambda: ours(lambda _, step: withrun.log_metric("loss", 0.5, step), CALLS, fill),
                ),
                Contender("mlflow, synchronous", lambda: theirs(metric)),
                Contender("mlflow, asynchronous", lambda: asynchronous(None, 400)),
                Contender("mlflow, asynchronous, 1 s buffered", lambda: asynchronous(1, 2_000)),
                Contender("floor: encode, copy into a memory map", lambda: _floor(folder)),
            ],
            rounds=3,
        ),
        Benchmark(
            f"20 params a call, {store}",
            "us",
            [
                Contender(
                    "run.log_params",
                    lambda: ours(
                        lambda run, n: run.log_params({f"p{n}": {str(i): i for i in range(20)}}), SLOW_CALLS
                    ),
                ),
                Contender("MlflowClient.log_batch", lambda: theirs(params)),
            ],
            rounds=3,
        ),
        Benchmark(
            f"{BATCH} metrics a call, {store}",
            "ms",
            [
                Contender(
                    "run.log_metrics", lambda: ours(lambda run, step: run.log_metrics(values, step), 3)
                ),
                Contender("MlflowClient.log_batch", lambda: theirs(metrics, 3)),
            ],
            rounds=3,
        ),
    ]


@contextlib.contextmanager
def buffering(seconds: int | None) -> Iterator[None]:
    """Set MLflow's own switch for a while."""
    name = "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS"
    if seconds is not None:
        os.environ[name] = str(seconds)
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _floor(folder: Path) -> list[float]:
    """The least that keeps a point through kill -9 without a system call, and nothing delivers it."""
    encode, crc32, now = msgspec.msgpack.Encoder().encode, zlib.crc32, time.time
    with (folder / "floor").open("w+b") as file:
        file.truncate(1 << 24)
        with mmap.mmap(file.fileno(), 1 << 24) as mapped:

            def call(step: int) -> None:
                payload = encode((1, 1, "loss", 0.5, int(now() * 1000), step))
                mapped.write(crc32(payload).to_bytes(8, "little") + payload)

            return each(CALLS, call, work=WORK)
