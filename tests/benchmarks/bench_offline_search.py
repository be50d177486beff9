"""Offline search over 5,000 cached runs, of the offline copy of an API and of the generic plugin."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import withrun
from tests.benchmarks.harness import Benchmark, Contender, each
from withrun.cache.metadata import MetadataCache
from withrun.schema import Experiment, Run, RunStatus

RUNS = 5_000
QUERY: dict[str, Any] = {"metrics.metric-0": {"$lt": 0.5}, "params.optimizer": "adam"}


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    fill(folder, RUNS)
    offline = withrun.get_api(
        conf={
            "tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "cache_dir": folder,
            "offline_mode": True,
        }
    )
    generic = withrun.get_api("generic", conf={"cache_dir": folder})
    yield [
        Benchmark(
            f"{RUNS:,} cached runs: filter, sort, first 100",
            "ms",
            [
                Contender(name, lambda api=api: each(1, lambda _: search(api)))  # type: ignore[misc]
                for name, api in (("offline copy", offline), ("generic plugin", generic))
            ],
        )
    ]


def search(api: withrun.BaseMlflowApi) -> list[withrun.RunApi]:
    """The query of the benchmark."""
    return list(api.find_runs(QUERY, [("metrics.metric-0", 1)], limit=100))


def fill(folder: Path, runs: int) -> None:
    """Cache runs of 10 params and 10 metrics each."""
    rng = random.Random(20261122)
    cache = MetadataCache(folder)
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    experiments = [Experiment(id=str(n), name=f"experiment-{n}") for n in range(5)]
    for number in range(runs):
        params: dict[str, Any] = {f"param-{n}": rng.randrange(1000) for n in range(9)}
        cache.put(
            Run(
                id=f"{number:032x}",
                name=f"run-{number}",
                exp=experiments[number % 5],
                params={"optimizer": rng.choice(("adam", "sgd")), **params},
                metrics={f"metric-{n}": rng.random() for n in range(10)},
                tags={"team": f"team-{number % 7}"},
                status=RunStatus.FINISHED,
                start_time=start + timedelta(seconds=number),
                end_time=start + timedelta(seconds=number + 1),
            )
        )
