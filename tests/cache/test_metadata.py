"""Metadata: every value keeps its type, names are harmless, searching is quick."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from withrun.cache.metadata import EntitySerializer, MetadataCache
from withrun.errors import CacheError
from withrun.schema import Experiment, Model, ModelVersion, Run, RunStatus

WHEN = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
VALUES = {
    "nested": {"int": 1, "float": 1.0, "bool": True, "none": None, "text": "1", "list": [1, [2.5, "x"]]},
    "when": WHEN,
    "inf": [math.inf, -math.inf],
    "empty": {},
    "surrogate": "\ud800",
    "looks": {"$date": "no date"},
    "looks more": {"$$date": {"$numberDouble": "NaN"}},
    "dollars": {"$other": 1, "$date": 2},
}


def make_run(run_id: str = "r", exp: Experiment | None = None) -> Run:
    return Run(
        id=run_id,
        name="n",
        exp=exp or Experiment(id="1", name="e", tags={"k": [WHEN]}),
        params=VALUES,
        tags=VALUES,
        metrics={"loss": math.inf, "m": {"x": 1.5}},
        status=RunStatus.FAILED,
        start_time=WHEN,
        repo_url="s3://b/x",
    )


def test_round_trip(tmp_path: Path) -> None:
    """Whatever a run holds comes back equal and of the same types."""
    cache = MetadataCache(tmp_path)
    cache.put(make_run())
    back = cache.run("r")
    assert back == make_run()
    assert back is not None
    assert [type(v) for v in back.params["nested"].values()] == [
        type(v)
        for v in VALUES["nested"].values()  # type: ignore[attr-defined]
    ]


def test_nan(tmp_path: Path) -> None:
    """NaN stays NaN, and the file is strict JSON."""
    run = make_run()
    run.metrics = {"n": math.nan}
    data = EntitySerializer().dumps(run)
    assert b": NaN" not in data
    assert math.isnan(EntitySerializer().loads(Run, data).metrics["n"])


def test_relations(tmp_path: Path) -> None:
    """A version brings its model, run and experiment, and shows what is newest of each."""
    cache = MetadataCache(tmp_path)
    cache.put(ModelVersion(version="1", model=Model(name="a/b"), run=make_run(), path_in_run="m"))
    cache.put(Model(name="a/b", tags={"new": 1}))
    cache.put(Experiment(id="1", name="renamed"))
    version = cache.version("a/b", "1")
    assert version is not None
    assert version.run is not None
    assert (version.model.tags, version.run.exp.name) == ({"new": 1}, "renamed")
    assert [v.version for v in cache.versions("a/b")] == ["1"]
    assert [v.version for v in cache.versions()] == ["1"]
    assert [m.name for m in cache.models()] == ["a/b"]
    assert cache.version("a/b", "2") is None
    cache.clean()
    assert list(cache.runs()) == []


@pytest.mark.parametrize("name", ["..", "../../x", "/abs", "a/b", "", "x" * 500, "a\nb", "\0", "con.json"])
def test_hostile_names(tmp_path: Path, name: str) -> None:
    """Any ID or name is kept inside the folder and found again."""
    cache = MetadataCache(tmp_path / "c")
    assert cache.put(make_run(name)).is_relative_to(tmp_path / "c")
    cache.put(Model(name=name))
    assert cache.run(name) is not None
    assert cache.model(name) == Model(name=name)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    """Where a file lies in the place of a folder, the error says what could not be written, and where."""
    (tmp_path / "metadata").write_text("mine")
    (tmp_path / "other").write_text("mine")
    for root in (tmp_path, tmp_path / "other"):
        with pytest.raises(CacheError, match="Can't keep metadata"):
            MetadataCache(root).put(Model(name="m"))
    assert (tmp_path / "metadata").read_text() == "mine"


def test_damaged_file(tmp_path: Path) -> None:
    """A damaged file is an error that names it."""
    cache = MetadataCache(tmp_path)
    file = cache.put(make_run())
    file.write_text("{")
    with pytest.raises(CacheError, match=str(file)):
        cache.run("r")


def test_five_thousand_runs(tmp_path: Path) -> None:
    """5,000 cached runs are read, with their experiment, in under a second."""
    cache = MetadataCache(tmp_path)
    exp = Experiment(id="1", name="e")
    plain = {f"p{i}": i for i in range(10)}
    for index in range(5000):
        file = cache._file("runs", [f"r{index}"])
        file.parent.mkdir(parents=True, exist_ok=True)
        run = Run(
            id=f"r{index}", name="n", exp=exp, params=plain, metrics={"loss": index / 7}, start_time=WHEN
        )
        file.write_bytes(EntitySerializer().dumps(run))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        assert sum(1 for _ in cache.runs(["1"])) == 5000
        times.append(time.perf_counter() - start)
    assert min(times) < 1
