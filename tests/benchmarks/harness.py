"""Rounds of contenders that take turns, and the table of what they took."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.servers import clean_env

SCALES = {"s": 1.0, "ms": 1e3, "us": 1e6, "modules": 1.0, "requests": 1.0, "MiB": 1.0}


@dataclass(frozen=True)
class Contender:
    """One way to do a job.

    Attributes:
        name: what the table calls it.
        sample: does the job once or many times, and returns one measurement for each.
    """

    name: str
    sample: Callable[[], Sequence[float]]


@dataclass(frozen=True)
class Benchmark:
    """One job and those that do it; the first contender is withrun, and the others are compared to it."""

    title: str
    unit: str
    contenders: Sequence[Contender]
    rounds: int = 5


def measure(benchmark: Benchmark) -> dict[str, list[float]]:
    """All measurements by contender: one round of each to warm up, then rounds in turn, in changing order."""
    taken: dict[str, list[float]] = {contender.name: [] for contender in benchmark.contenders}
    for contender in benchmark.contenders:
        contender.sample()
    for number in range(benchmark.rounds):
        shift = number % len(benchmark.contenders)
        for contender in [*benchmark.contenders[shift:], *benchmark.contenders[:shift]]:
            taken[contender.name].extend(contender.sample())
    return taken


def report(benchmark: Benchmark, taken: dict[str, list[float]], console: Console) -> None:
    """Print medians, 99th percentiles and maxima, and how often withrun's median goes into each."""
    scale = SCALES[benchmark.unit]
    ours = statistics.median(taken[benchmark.contenders[0].name])
    table = Table(title=benchmark.title, title_justify="left")
    table.add_column("contender")
    unit = benchmark.unit
    for column in (f"median {unit}", f"p99 {unit}", f"max {unit}", "x withrun", "n"):
        table.add_column(column, justify="right")
    for name, values in taken.items():
        median = statistics.median(values)
        factor = f"{median / ours:.2f}" if ours else "-"
        figures = (_number(figure * scale) for figure in (median, p99(values), max(values)))
        table.add_row(name, *figures, factor, str(len(values)))
    console.print(table)


def p99(values: Sequence[float]) -> float:
    """The 99th percentile; the largest of few values."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    """What the figures were taken on."""
    return (
        f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, MLflow {version('mlflow')}"
    )


def each(calls: int, call: Callable[[int], object], *, work: float = 0.0) -> list[float]:
    """Seconds that each of so many calls takes; `call` is given its number.

    Args:
        calls: how many.
        call: what is measured.
        work: seconds that the caller is busy with something else between two calls.
    """
    taken = []
    now = time.perf_counter
    for number in range(calls):
        start = now()
        call(number)
        end = now()
        taken.append(end - start)
        if work:
            until = end + work
            while now() < until:
                pass
    return taken


def in_new_process(code: str, folder: Path) -> tuple[float, str]:
    """Seconds from starting an interpreter on `code` until it has exited, and what it printed."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=clean_env(HOME=str(home)),
        capture_output=True,
        text=True,
        check=False,
    )
    taken = time.perf_counter() - start
    if result.returncode:
        raise RuntimeError(f"a contender failed:\n{result.stderr}")
    return taken, result.stdout


def run_all(benchmarks: Iterator[Benchmark] | Sequence[Benchmark], console: Console) -> None:
    """Measure and report one after another."""
    for benchmark in benchmarks:
        report(benchmark, measure(benchmark), console)
