"""Logging while the server is away: how much memory grows, and what a call takes.

Each contender in a process of its own, that starts its run on a server which then goes away for good.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmarks.harness import Benchmark, Contender
from tests.faultproxy import Fault, fault_proxy
from tests.servers import clean_env, mlflow_server

MEMORY = """
import os, sys, time

def peak():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) / 1024

def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM begins anew with what is resident now

def measure(log, points):
    log(0)
    print("started", flush=True)
    sys.stdin.readline()
    for step in range(1, 1000):
        log(step)
    forget_peak()
    before = peak()
    start = time.perf_counter()
    for step in range(1000, points):
        log(step)
    taken = (time.perf_counter() - start) / (points - 1000)
    print(peak() - before, taken, flush=True)
    os._exit(0)
"""

WITHRUN = """
import logging, withrun
logging.disable()
api = withrun.get_api(conf={{"tracking_uri": "{url}", "journal_dir": "{folder}"}})
run = api.start_run("0")
measure(lambda step: run.log_metric("loss", 0.5, step), {points})
"""

MLFLOW = """
import logging, os
os.environ["MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS"] = "1"
from mlflow import MlflowClient
logging.disable()
client = MlflowClient("{url}")
run_id = client.create_run("0").info.run_id
measure(lambda step: client.log_metric(run_id, "loss", 0.5, step=step, synchronous=False), {points})
"""


@contextlib.contextmanager
def benchmarks(folder: Path, points: int, mlflow_points: int) -> Iterator[list[Benchmark]]:
    """The benchmarks with so many points for withrun, and fewer for MLflow, whose calls take longer."""
    with mlflow_server(folder / "server") as server:
        codes = {
            f"withrun, {points:,} points": (WITHRUN, points),
            f"mlflow, async, 1 s buffered, {mlflow_points:,}": (MLFLOW, mlflow_points),
        }
        taken: dict[str, float] = {}

        def growth(name: str) -> list[float]:
            grown, taken[name] = _away(server.url, *codes[name], folder)
            return [grown]

        yield [
            Benchmark(
                "metrics while the server is away: growth of memory",
                "MiB",
                [Contender(name, partial(growth, name)) for name in codes],
                rounds=1,
            ),
            Benchmark(
                "metrics while the server is away: mean time of a call",
                "us",
                [Contender(name, lambda name=name: [taken[name]]) for name in codes],  # type: ignore[misc]
                rounds=1,
            ),
        ]


def _away(url: str, code: str, points: int, folder: Path) -> tuple[float, float]:
    with fault_proxy(url) as proxy:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                MEMORY + code.format(url=proxy.url, folder=folder / "journal", points=points),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_env(HOME=str(folder)),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        proxy.always(Fault(reset=True))
        out, _ = process.communicate("go\n")
    growth, taken = (float(word) for word in out.split())
    return growth, taken
