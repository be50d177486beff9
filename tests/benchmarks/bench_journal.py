"""From the first call until the store has the last value, beside bare calls of `log_batch`."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric as MlflowMetric

import withrun
from tests.benchmarks.bench_logging import buffering
from tests.benchmarks.harness import Benchmark, Contender
from tests.servers import mlflow_server
from withrun.backend import Backend, Metric
from withrun.journal import Journal
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.settings import ClientSettings
from withrun.providers.mlflow.store import StoreBackend

POINTS = 20_000
FEW = 200
"""Points for those who send each by itself."""

BATCH = 1_000


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    with mlflow_server(folder / "server") as server, contextlib.ExitStack() as open_now:
        embedded = f"sqlite:///{folder}/embedded.db"
        yield [
            *_on("sqlite", embedded, lambda: StoreBackend(embedded), folder, open_now),
            *_on(
                "1-worker server",
                server.url,
                lambda: RestBackend(server.url, ClientSettings()),
                folder,
                open_now,
            ),
        ]


def _on(
    store: str, uri: str, connect: Callable[[], Backend], folder: Path, open_now: contextlib.ExitStack
) -> list[Benchmark]:
    """Seconds a metric from the first call until the store has the last."""
    backend = connect()
    client = MlflowClient(uri)
    open_now.callback(backend.close)
    api = open_now.enter_context(withrun.get_api(conf={"tracking_uri": uri, "cache_dir": folder / "cache"}))
    exp = api.get_exp("0")

    def journaled() -> list[float]:
        with api.start_run(exp) as run:
            start = time.perf_counter()
            for step in range(POINTS):
                run.log_metric("loss", step / 7, step)
            run.flush()
            return [(time.perf_counter() - start) / POINTS]

    def bare(send: Callable[[str, list[int]], object], points: int = POINTS) -> list[float]:
        run_id = client.create_run("0").info.run_id
        start = time.perf_counter()
        for first in range(0, points, BATCH):
            send(run_id, list(range(first, min(first + BATCH, points))))
        return [(time.perf_counter() - start) / points]

    def by_backend(run_id: str, steps: list[int]) -> None:
        points = tuple(Metric("loss", step / 7, 1_700_000_000_000 + step, step) for step in steps)
        backend.log_batch(run_id, metrics=points)

    def by_client(run_id: str, steps: list[int]) -> None:
        points = [MlflowMetric("loss", step / 7, 1_700_000_000_000 + step, step) for step in steps]
        client.log_batch(run_id, metrics=points)

    def one_by_one(run_id: str, steps: list[int]) -> None:
        for step in steps:
            client.log_metric(run_id, "loss", step / 7, 1_700_000_000_000 + step, step)

    def asynchronous(run_id: str, steps: list[int]) -> None:
        pending: list[Any] = [
            client.log_metric(run_id, "loss", step / 7, 1_700_000_000_000 + step, step, synchronous=False)
            for step in steps
        ]
        for operation in pending:
            operation.wait()

    def buffered() -> list[float]:
        with buffering(1):
            run_id = client.create_run("0").info.run_id
            start = time.perf_counter()
            asynchronous(run_id, list(range(POINTS)))
            return [(time.perf_counter() - start) / POINTS]

    def own_time() -> list[float]:
        """Seconds of CPU a metric that delivery takes beside the backend's own call."""
        return [_drain_cpu(folder / f"cpu-{uuid.uuid4().hex}")]

    jobs = [
        Benchmark(
            f"metrics until the store has them, by metric, {store}",
            "us",
            [
                Contender("run.log_metric, flush", journaled),
                Contender("floor: Backend.log_batch of 1,000", lambda: bare(by_backend)),
                Contender("MlflowClient.log_batch of 1,000", lambda: bare(by_client)),
                Contender("mlflow, asynchronous, 1 s buffered", buffered),
                Contender("mlflow, asynchronous", lambda: bare(asynchronous, FEW)),
                Contender("mlflow, synchronous", lambda: bare(one_by_one, FEW)),
            ],
        )
    ]
    if store == "sqlite":
        jobs.append(Benchmark("CPU of the drain by metric", "us", [Contender("drain", own_time)]))
    return jobs


class _Sink(StoreBackend):
    """Takes batches and drops them, and notes the time of the thread that brings them."""

    spent = 0.0

    def log_batch(self, *args: object, **kwargs: object) -> None:
        self.spent = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)


def _drain_cpu(folder: Path) -> float:
    journal = Journal(folder, "sqlite://", connect=lambda: sink, threads=1)
    sink = _Sink(f"sqlite:///{folder}.db")
    log = journal.run("abc")
    for step in range(10 * POINTS):
        log.metric("loss", step / 7, 1_700_000_000_000 + step, step)
    log.wait()
    journal.close()
    return sink.spent / (10 * POINTS)
