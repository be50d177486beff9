"""A store of 50,000 runs, made once and kept: what the search benchmarks search.

The rows are written by SQL into a database that MLflow migrated, which takes seconds instead of an hour; they
are what MLflow's own client would have left. Everything is random from one seed, so that figures compare.

    python -m tests.benchmarks.many_runs [--store FOLDER] [--runs N]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import platformdirs

from tests.servers import _database_template

RUNS = 50_000
EXPERIMENTS = 5
PARAMS = 10
METRICS = 10
START = 1_700_000_000_000
FOLDER_VARIABLE = "WITHRUN_BENCH_STORE"

OPTIMIZERS = ("adam", "sgd", "rmsprop", "adamw", "lion")


def default_folder() -> Path:
    """Where stores are kept between benchmarks: the variable's folder, else one in the user's cache."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("withrun-bench"))


def store_of(runs: int = RUNS, folder: Path | None = None) -> Path:
    """The database with that many runs; made if there is none."""
    folder = folder or default_folder()
    database = folder / f"runs-{runs}.db"
    if not database.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{database.name}.{os.getpid()}"
        shutil.copyfile(_database_template(sys.executable), unfinished)
        _fill(unfinished, runs)
        unfinished.replace(database)
    return database


def _fill(database: Path, runs: int) -> None:
    rng = random.Random(20261122)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.executemany(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage,"
            " creation_time, last_update_time) VALUES (?, ?, ?, 'active', ?, ?)",
            [
                (n, f"experiment-{n}", f"mlflow-artifacts:/{n}", START, START)
                for n in range(1, EXPERIMENTS + 1)
            ],
        )
        for first in range(0, runs, 1000):
            _insert(connection, rng, range(first, min(first + 1000, runs)))
        connection.commit()
        # As a database keeps itself: without statistics SQLite joins in an order that takes minutes.
        connection.execute("ANALYZE")
        connection.commit()


def _insert(connection: sqlite3.Connection, rng: random.Random, numbers: range) -> None:
    ids = {number: f"{rng.getrandbits(128):032x}" for number in numbers}
    connection.executemany(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
        " start_time, end_time, lifecycle_stage, artifact_uri, experiment_id)"
        " VALUES (?, ?, 'UNKNOWN', '', '', 'bench', 'FINISHED', ?, ?, 'active', ?, ?)",
        [
            (
                run_id,
                f"run-{number}",
                START + number * 1000,
                START + number * 1000 + 500,
                f"mlflow-artifacts:/{1 + number % EXPERIMENTS}/{run_id}/artifacts",
                1 + number % EXPERIMENTS,
            )
            for number, run_id in ids.items()
        ],
    )
    connection.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
        [(key, value, run_id) for run_id in ids.values() for key, value in _params(rng)],
    )
    points = [(f"metric-{n}", rng.random(), START, run_id) for run_id in ids.values() for n in range(METRICS)]
    for table in ("metrics", "latest_metrics"):
        connection.executemany(
            f"INSERT INTO {table} (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, 0, 0)",
            points,
        )
    connection.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
        [
            (key, value, run_id)
            for number, run_id in ids.items()
            for key, value in (
                ("mlflow.runName", f"run-{number}"),
                ("mlflow.user", "bench"),
                ("team", f"team-{number % 7}"),
            )
        ],
    )


def _params(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Ten params: an optimizer, a learning rate, which MLflow compares as text, a rare word, and numbers."""
    yield "optimizer", rng.choice(OPTIMIZERS)
    yield "lr", repr(10 ** rng.uniform(-5, 0))
    yield "cell", f"cell-{rng.randrange(1000)}"
    for number in range(PARAMS - 3):
        yield f"param-{number}", str(rng.randrange(1000))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.many_runs", description=__doc__)
    parser.add_argument("--store", type=Path, default=None, help=f"default: {default_folder()}")
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    print(store_of(arguments.runs, arguments.store))
