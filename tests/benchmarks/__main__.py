"""Run all benchmarks that are quick, or those named."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path

from rich.console import Console

from tests.benchmarks.harness import machine, run_all

ON_DEMAND = {"outage_long", "search"}
"""Benchmarks that take minutes, and so are run if they are named or with --full."""


def main() -> None:
    names = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all that are quick"
    )
    parser.add_argument("--full", action="store_true", help=f"also {', '.join(sorted(ON_DEMAND))}")
    arguments = parser.parse_args()
    chosen = arguments.names or [name for name in names if arguments.full or name not in ON_DEMAND]
    for name in chosen:
        if name not in names:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(names)}")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = (
        "true"  # MLflow's client would print between tables
    )
    console = Console(width=100)
    console.print(machine())
    for name in chosen:
        console.rule(name)
        module = importlib.import_module(f"tests.benchmarks.bench_{name}")
        with (
            tempfile.TemporaryDirectory(prefix="withrun-bench-") as folder,
            module.prepared(Path(folder)) as jobs,
        ):
            run_all(jobs, console)


if __name__ == "__main__":
    main()
