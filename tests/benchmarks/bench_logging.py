"""What a caller waits for when it logs, on an embedded store and on a server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import withrun
from tests.benchmarks.harness import Benchmark, Contender, each
from tests.servers import mlflow_server

CALLS = 40
BATCH = 1000


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    with mlflow_server(folder / "server") as server:
        yield [
            *_on("sqlite", f"sqlite:///{folder}/embedded.db", folder),
            *_on("1-worker server", server.url, folder),
        ]


def _on(store: str, uri: str, folder: Path) -> list[Benchmark]:
    conf = {"tracking_uri": uri, "cache_dir": folder / "cache"}
    api = withrun.get_api(conf=conf)
    exp = api.get_or_create_exp("bench")
    client = MlflowClient(uri)

    def ours(call: Callable[[withrun.RunApi, int], object], calls: int = CALLS) -> list[float]:
        with api.start_run(exp) as run:
            return each(calls, lambda number: call(run, number))

    def theirs(call: Callable[[str, int], object], calls: int = CALLS) -> list[float]:
        run_id = client.create_run(exp.id).info.run_id
        taken = each(calls, lambda number: call(run_id, number))
        client.set_terminated(run_id)
        return taken

    def metric(run_id: str, step: int) -> None:
        client.log_metric(run_id, "loss", 0.5, step=step)

    def one_batch(run_id: str, step: int) -> None:
        client.log_batch(run_id, metrics=[Metric("loss", 0.5, 1, step)])

    def params(run_id: str, number: int) -> None:
        client.log_batch(run_id, params=[Param(f"p{number}.{i}", str(i)) for i in range(20)])

    def metrics(run_id: str, step: int) -> None:
        client.log_batch(run_id, metrics=[Metric(f"m{i}", 0.5, 1, step) for i in range(BATCH)])

    values: dict[str, Any] = {f"m{i}": 0.5 for i in range(BATCH)}
    return [
        Benchmark(
            f"one metric a call, {store}",
            "us",
            [
                Contender(
                    "run.log_metric", lambda: ours(lambda run, step: run.log_metric("loss", 0.5, step))
                ),
                Contender(
                    "withrun.log_metric",
                    lambda: ours(lambda run, step: withrun.log_metric("loss", 0.5, step)),
                ),
                Contender("MlflowClient.log_metric", lambda: theirs(metric)),
                Contender("MlflowClient.log_batch of 1", lambda: theirs(one_batch)),
            ],
        ),
        Benchmark(
            f"20 params a call, {store}",
            "us",
            [
                Contender(
                    "run.log_params",
                    lambda: ours(lambda run, n: run.log_params({f"p{n}": {str(i): i for i in range(20)}})),
                ),
                Contender("MlflowClient.log_batch", lambda: theirs(params)),
            ],
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
