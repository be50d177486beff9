"""Ten million metrics while the server is away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.harness import Benchmark
from tests.benchmarks.outage import benchmarks


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[list[Benchmark]]:
    with benchmarks(folder, 10_000_000, 100_000) as made:
        yield made
