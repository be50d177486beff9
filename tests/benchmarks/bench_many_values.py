"""Two jobs of many values, to the end of the runs: their time on several stores, and their requests.

With a call for each value, and with one for all params, one for all metrics, one for all tags. On the stock
server MLflow's call for each value is left out: it would take a quarter of a minute.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

import withrun
from tests.benchmarks.harness import Benchmark, Contender
from tests.faultproxy import fault_proxy
from tests.servers import mlflow_server

PARAMS = {f"p{number}": number for number in range(200)}
TAGS = {f"t{number}": number for number in range(50)}
METRICS = {f"m{number}": float(number) for number in range(20)}
CHILDREN = 50
FEW_PARAMS = {f"p{number}": number for number in range(5)}
FEW_METRICS = {f"m{number}": float(number) for number in range(5)}
FEW_TAGS = {"a": 1, "b": 2}

BY_VALUE = "mlflow, one call a value"

Job = Callable[[], object]


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    with contextlib.ExitStack() as running:
        one = running.enter_context(mlflow_server(folder / "one"))
        stock = running.enter_context(mlflow_server(folder / "stock", workers=4))
        proxy = running.enter_context(fault_proxy(one.url))
        stores = {
            "sqlite": f"sqlite:///{folder}/embedded.db",
            "1-worker server": one.url,
            "stock server, 4 workers": stock.url,
        }
        benchmarks = []
        for store, uri in stores.items():
            for title, jobs in _jobs(uri, folder, running).items():
                left_out = {BY_VALUE} if uri == stock.url else set()
                contenders = [
                    Contender(name, _timed(job)) for name, job in jobs.items() if name not in left_out
                ]
                benchmarks.append(Benchmark(f"{title}, {store}", "ms", contenders, rounds=3))
        for title, jobs in _jobs(proxy.url, folder, running).items():

            def counted(job: Job) -> Callable[[], list[float]]:
                def sample() -> list[float]:
                    before = len(proxy.requests)
                    job()
                    return [float(len(proxy.requests) - before)]

                return sample

            contenders = [Contender(name, counted(job)) for name, job in jobs.items()]
            benchmarks.append(Benchmark(title, "requests", contenders, rounds=1))
        yield benchmarks


def _timed(job: Job) -> Callable[[], list[float]]:
    def sample() -> list[float]:
        start = time.perf_counter()
        job()
        return [time.perf_counter() - start]

    return sample


def _jobs(uri: str, folder: Path, open_now: contextlib.ExitStack) -> dict[str, dict[str, Job]]:
    """The two jobs, and how each contender does them."""
    api = open_now.enter_context(withrun.get_api(conf={"tracking_uri": uri, "cache_dir": folder / "cache"}))
    client = MlflowClient(uri)
    exp = api.get_exp("0")

    def ours() -> None:
        with api.start_run(exp) as run:
            run.log_params(PARAMS)
            run.set_tags(TAGS)
            run.log_metrics(METRICS)

    def ours_by_value() -> None:
        with api.start_run(exp) as run:
            for key, value in PARAMS.items():
                run.log_param(key, value)
            for key, value in TAGS.items():
                run.set_tag(key, value)
            for key, number in METRICS.items():
                run.log_metric(key, number)

    def our_children() -> None:
        with api.start_run(exp) as parent:
            for number in range(CHILDREN):
                with parent.start_child(f"child-{number}") as child:
                    child.log_params(FEW_PARAMS)
                    child.log_metrics(FEW_METRICS)
                    child.set_tags(FEW_TAGS)

    def by_value(
        run_id: str, params: dict[str, int], metrics: dict[str, float], tags: dict[str, int]
    ) -> None:
        for key, value in params.items():
            client.log_param(run_id, key, value)
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        for key, metric in metrics.items():
            client.log_metric(run_id, key, metric)

    def by_kind(run_id: str, params: dict[str, int], metrics: dict[str, float], tags: dict[str, int]) -> None:
        # What `mlflow.log_params`, `log_metrics` and `set_tags` do.
        client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        client.log_batch(run_id, metrics=[Metric(key, value, 1, 0) for key, value in metrics.items()])
        client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def at_once(run_id: str, params: dict[str, int], metrics: dict[str, float], tags: dict[str, int]) -> None:
        client.log_batch(
            run_id,
            metrics=[Metric(key, value, 1, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, str(value)) for key, value in tags.items()],
        )

    def theirs(log: Callable[..., None]) -> Job:
        def job() -> None:
            run_id = client.create_run("0").info.run_id
            log(run_id, PARAMS, METRICS, TAGS)
            client.set_terminated(run_id)

        return job

    def their_children(log: Callable[..., None]) -> Job:
        def job() -> None:
            parent = client.create_run("0").info.run_id
            for number in range(CHILDREN):
                tags = {"mlflow.parentRunId": parent}
                run_id = client.create_run("0", run_name=f"child-{number}", tags=tags).info.run_id
                log(run_id, FEW_PARAMS, FEW_METRICS, FEW_TAGS)
                client.set_terminated(run_id)
            client.set_terminated(parent)

        return job

    return {
        "200 params, 50 tags, 20 metrics in a run": {
            "withrun, one call a kind": ours,
            "mlflow, one call a kind": theirs(by_kind),
            "floor: MlflowClient.log_batch of all": theirs(at_once),
            "withrun, one call a value": ours_by_value,
            BY_VALUE: theirs(by_value),
        },
        "50 child runs of 5 params, 5 metrics, 2 tags": {
            "withrun, one call a kind": our_children,
            "mlflow, one call a kind": their_children(by_kind),
            "floor: MlflowClient.log_batch of all": their_children(at_once),
        },
    }
