"""Searching cached metadata: the answers are those that the store would have given."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import withrun
from tests.benchmarks import bench_offline_search
from tests.query.test_pushdown import LIMITS, RUN_CONDITIONS, SHARED, SORTINGS, combined
from withrun import BaseMlflowApi
from withrun.query.documents import as_document
from withrun.query.language import parse
from withrun.query.match import compile_query
from withrun.query.sorting import parse_sorting, sort, sort_key

VALUES: tuple[Any, ...] = (
    *("adam", "ADAM", "1", "true", "it's", 'say "x"', "a\nadam", "", " ", "é", "日本", "y" * 9000, "[1]"),
    *(1, 1.0, 0, -0.1, 0.1, 2**53 + 1, True, False, None, float("nan"), float("inf")),
    *([], ["adam", 1], [0.1, None], [{"name": "adam"}], {"name": "adam"}, {"name": {"deep": [1, "x"]}}),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
)


@dataclass(frozen=True)
class Copies:
    """Documents of the runs of a store, read while it could be reached, and APIs on what was cached of it."""

    documents: list[dict[str, Any]]
    offline: dict[str, BaseMlflowApi]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    folder = tmp_path_factory.mktemp("offline")
    conf = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "cache_dir": folder / "cache"}
    with withrun.get_api(conf=conf) as api:
        exps = [api.create_exp(name, {"kind": kind}) for name, kind in (("first", "a"), ("2nd", ["a"]))]
        for number, value in enumerate(VALUES):
            run = exps[number % 2].create_run(f"run-{number}", {"team": VALUES[-1 - number]})
            run.log_params({"opt": value, "lr": 10.0**-number})
            run.log_metrics({"loss": number % 5, "val": {"acc": -number / 7}})
            if number % 3:
                run.end_run(succeeded=number % 3 == 1)
        for run in api.find_runs():
            run.cache_meta()
            run.export_meta(folder / "export")
        documents = [as_document(api.get_run(run.id)) for run in api.find_runs()]
        offline = api.in_offline_mode
    (folder / "mlflow.db").unlink()
    generic = withrun.get_api("generic", conf={"cache_dir": folder / "export"})
    yield Copies(documents, {"offline copy": offline, "generic": generic})
    shutil.rmtree(folder)


@settings(SHARED, max_examples=150)
@given(
    query=combined(RUN_CONDITIONS),
    sorting=SORTINGS,
    limit=LIMITS,
    name=st.sampled_from(["offline copy", "generic"]),
)
def test_cached_runs_are_found_as_in_the_store(
    copies: Copies, query: Any, sorting: Any, limit: int | None, name: str
) -> None:
    """Generated queries on cached metadata find what evaluating every run of the store finds."""
    sorting = [*(sorting or []), ("id", 1)]
    matches = compile_query(parse(query, "runs"))
    expected = sort(
        [document for document in copies.documents if matches(document)],
        sort_key(parse_sorting(sorting, "runs")),
        limit,
    )
    found = copies.offline[name].find_runs(query, sorting, limit=limit)
    assert [run.id for run in found] == [document["id"] for document in expected]


def test_the_benchmark_finds_the_right_runs(tmp_path: Path) -> None:
    """What the benchmark of offline searches times is the right answer, in order, to its last run."""
    bench_offline_search.fill(tmp_path, 300)
    api = withrun.get_api("generic", conf={"cache_dir": tmp_path})
    runs = list(api.find_runs())
    assert len(runs) == 300
    wanted = [run for run in runs if run.metrics["metric-0"] < 0.5 and run.params["optimizer"] == "adam"]
    wanted.sort(key=lambda run: run.metrics["metric-0"])
    found = bench_offline_search.search(api)
    assert len(found) > 50
    assert [run.id for run in found] == [run.id for run in wanted[:100]]
