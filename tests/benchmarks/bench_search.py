"""Searching 50,000 runs on a server: beside MLflow's own search and the bare REST calls.

Makes its store once (`tests.benchmarks.many_runs`), which takes a quarter of a minute and 330 MB. All
contenders end with the same runs in a list: handles, MLflow's entities, or parsed JSON.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

import withrun
from tests.benchmarks.harness import Benchmark, Contender, each
from tests.benchmarks.many_runs import EXPERIMENTS, store_of
from tests.faultproxy import fault_proxy
from tests.servers import clean_env, mlflow_server

TEN_MINUTES = 600


@dataclass(frozen=True)
class Job:
    """One search, in the words of each contender.

    Attributes:
        query: for withrun.
        filter: for MLflow; what it can't say is left to `keep`.
        order: the field to sort by, ascending, and MLflow's words for it.
        limit: of results; None for all.
        keep: what of MLflow's answer, as params, is a match; None: all.
        rounds: how often it is timed.
    """

    query: dict[str, Any]
    filter: str
    order: tuple[str, str] | None = None
    limit: int | None = None
    keep: Callable[[dict[str, str]], bool] | None = None
    rounds: int = 5


JOBS = {
    "filter + sort + first 100": Job(
        {"metrics.metric-0": {"$lt": 0.5}},
        "metrics.`metric-0` < 0.5",
        ("metrics.metric-0", "metrics.`metric-0`"),
        100,
    ),
    "all of a selective metric": Job({"metrics.metric-0": {"$lt": 0.002}}, "metrics.`metric-0` < 0.002"),
    "all of a selective text param": Job({"params.cell": "cell-77"}, "params.cell = 'cell-77'"),
    # MLflow finds one text of the number (`77`, not `77.0` or `7.7e1`); find_runs asks for all of them.
    "all of a number in a param": Job({"params.param-0": 77}, "params.`param-0` = '77'"),
    "not pushable: numbers in params": Job(
        {"params.lr": {"$lt": 0.0001}}, "", keep=lambda params: float(params["lr"]) < 0.0001, rounds=1
    ),
}


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    shutil.copyfile(
        store_of(), folder / "mlflow.db"
    )  # what a server writes into it stays out of the kept one
    with mlflow_server(folder) as server, fault_proxy(server.url) as proxy:
        contenders = {name: make(server.url) for name, make in MAKERS.items()}
        watched = {name: make(proxy.url) for name, make in MAKERS.items()}

        def timed(name: str, job: Job) -> Sequence[float]:
            return each(1, lambda _: contenders[name](job))

        def requests(name: str, job: Job) -> Sequence[float]:
            proxy.requests.clear()
            watched[name](job)
            return [len(proxy.requests)]

        def memory(name: str, job: Job) -> Sequence[float]:
            title = next(title for title, other in JOBS.items() if other is job)
            return [_peak(name, title, server.url)]

        yield [
            Benchmark(
                f"50,000 runs, {title}: {what}",
                unit,
                [Contender(name, partial(sample, name, job)) for name in MAKERS],
                rounds=rounds,
            )
            for title, job in JOBS.items()
            for what, unit, rounds, sample in (
                ("time", "ms", job.rounds, timed),
                ("requests", "requests", 1, requests),
                ("peak memory", "MiB", 1, memory),
            )
        ]


def _withrun(url: str) -> Callable[[Job], list[Any]]:
    api = withrun.get_api(conf={"tracking_uri": url, "client_settings": {"timeout": TEN_MINUTES}})

    def search(job: Job) -> list[Any]:
        sorting = [(job.order[0], 1)] if job.order else None
        return list(api.find_runs(job.query, sorting, limit=job.limit))

    return search


def _mlflow(url: str) -> Callable[[Job], list[Any]]:
    import mlflow

    def search(job: Job) -> list[Any]:
        mlflow.set_tracking_uri(url)
        found: list[Any] = mlflow.search_runs(
            search_all_experiments=True,
            filter_string=job.filter,
            order_by=[f"{job.order[1]} ASC"] if job.order else None,
            max_results=job.limit or 100_000,
            output_format="list",
        )
        return found if job.keep is None else [run for run in found if job.keep(run.data.params)]

    return search


def _rest(url: str) -> Callable[[Job], list[Any]]:
    client = httpx.Client(base_url=f"{url}/api/2.0/mlflow/", timeout=TEN_MINUTES, trust_env=False)

    def search(job: Job) -> list[Any]:
        found: list[Any] = []
        body: dict[str, Any] = {
            "experiment_ids": [str(number) for number in range(EXPERIMENTS + 1)],
            "filter": job.filter,
            "order_by": [f"{job.order[1]} ASC"] if job.order else [],
            "max_results": job.limit or 10_000,
        }
        while True:
            answer = json.loads(client.post("runs/search", json=body).content)
            found += answer.get("runs", [])
            body["page_token"] = answer.get("next_page_token")
            if not body["page_token"] or job.limit:
                break
        if job.keep is None:
            return found
        return [r for r in found if job.keep({p["key"]: p["value"] for p in r["data"]["params"]})]

    return search


MAKERS: dict[str, Callable[[str], Callable[[Job], list[Any]]]] = {
    "find_runs": _withrun,
    "mlflow.search_runs(…, 'list')": _mlflow,
    "bare REST call": _rest,
}


def _peak(name: str, title: str, url: str) -> float:
    """MiB by which a search makes a process of its own grow at most."""
    code = "import sys; from tests.benchmarks.bench_search import grow; grow(*sys.argv[1:])"
    result = subprocess.run(
        [sys.executable, "-c", code, name, title, url],
        env=clean_env(),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout.split()[-1])


def grow(name: str, title: str, url: str) -> None:
    """Search in this process, and print by how many MiB that made it grow at most."""
    search = MAKERS[name](url)
    search(Job({"id": "0" * 32}, f"attributes.run_id = '{'0' * 32}'"))  # imports, connects
    before = _peak_memory()
    search(JOBS[title])
    print(_peak_memory() - before)


def _peak_memory() -> float:
    """The most MiB that this process has had in memory."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux includes the process that started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
