"""Queries by what was logged: long values, values of all types, and texts that a store half sees."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import withrun
from withrun import BaseMlflowApi, ExpApi

LONG = "B" * 9000
CFG = {"depth": 1, "prompt": LONG}
LOOK_ALIKE = f'x… [withrun: 9999 characters, whole in "withrun/values/{"a" * 64}.txt"]'


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('logged')}/mlflow.db"


@pytest.fixture(scope="module")
def api(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseMlflowApi]:
    cache = tmp_path_factory.mktemp("cache")
    with withrun.get_api(conf={"tracking_uri": uri, "cache_dir": cache}) as made:
        yield made


@pytest.fixture
def exp(api: BaseMlflowApi) -> ExpApi:
    return api.create_exp(f"exp-{uuid.uuid4().hex}")


def logged(exp: ExpApi, name: str, params: dict[str, Any], tags: dict[str, Any] | None = None) -> None:
    """A run with those params and tags."""
    with exp.start_run(name) as run:
        run.log_params(params)
        run.set_tags(tags or {})


def names(exp: ExpApi, query: Any, sorting: Any = None) -> list[str]:
    return [run.name for run in exp.find_runs(query, sorting or [("name", 1)])]


def lose_long_values(exp: ExpApi, name: str) -> None:
    """Remove the artifacts of a run, as a clean-up of the storage might."""
    run = exp.find_runs({"name": name}).first()
    assert run is not None
    shutil.rmtree(Path(run.repo_url.removeprefix("file://")))


def test_long_values_inside_documents_are_compared_whole(api: BaseMlflowApi, exp: ExpApi) -> None:
    """A document is equal, unequal and sorted by all that is in it, long values too, offline as online."""
    logged(exp, "same", {"cfg": CFG}, {"mlflow.note": {"content": LONG}})
    logged(exp, "other", {"cfg": {**CFG, "prompt": LONG[:-1] + "A"}})
    for run in exp.find_runs():
        run.cache_meta()
    offline = api.in_offline_mode.get_exp(exp.id)
    for query in (
        {"params.cfg": CFG},
        {"params.cfg": {"$in": [CFG, 1]}},
        {"params": {"cfg": CFG}},
        {"params.cfg": {"$gt": {**CFG, "prompt": LONG[:-1] + "A"}}},
        {"tags.mlflow.note": {"content": LONG}},
    ):
        assert names(exp, query) == ["same"], query
        assert names(offline, query) == ["same"], query
    assert names(exp, {"params.cfg": {"$ne": CFG}}) == ["other"]
    assert names(exp, None, [("params.cfg", 1)]) == ["other", "same"]
    assert names(exp, None, [("params.cfg", -1)]) == ["same", "other"]


def test_a_document_that_differs_elsewhere_needs_no_long_value(
    exp: ExpApi, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is fetched where short values or lengths tell that documents differ."""
    logged(exp, "r", {"cfg": CFG})
    lose_long_values(exp, "r")
    with caplog.at_level(logging.WARNING, "withrun"):
        for other in ({**CFG, "depth": 2}, {"depth": 1}, {**CFG, "prompt": "B"}, {**CFG, "prompt": {"a": 1}}):
            assert names(exp, {"params.cfg": other}) == []
    assert not caplog.records


def test_patterns_find_long_values_under_mlflows_keys(exp: ExpApi) -> None:
    """A pattern that is not anchored finds what is deep in a long text, under `mlflow.` keys too."""
    text = "x" * 9000 + " It overfits"
    logged(exp, "r", {"mlflow.custom": text}, {"mlflow.note.content": text, "note": text})
    for key in ("params.mlflow.custom", "tags.mlflow.note.content", "tags.note"):
        for pattern in ({"$regex": "overfits"}, {"$regex": "it OVER", "$options": "i"}, {"$regex": "^x+ It"}):
            assert names(exp, {key: pattern}) == ["r"]


def test_what_is_gone_is_compared_as_its_preview(exp: ExpApi, caplog: pytest.LogCaptureFixture) -> None:
    """A run that lost a long value breaks no search: it counts by its preview, and a warning says so."""
    logged(exp, "old", {"note": "A" * 7000, "other": "C" * 7000})
    logged(exp, "new", {"note": "short END"})
    lose_long_values(exp, "old")
    with caplog.at_level(logging.WARNING, "withrun"):
        assert names(exp, {"params.note": {"$regex": "END$"}}) == ["new"]
    assert [record.message for record in caplog.records if "7000 characters" in record.message]
    assert names(exp, {"params.note": {"$regex": "^A+… .withrun: 7000"}}) == ["old"]
    assert names(exp, {"params.note": "A" * 7000}) == []
    assert names(exp, None, [("params.note", 1)]) == ["old", "new"]
    preview = str(exp.find_runs({"name": "old"}).first().params["note"])  # type: ignore[union-attr]
    assert names(exp, {"params.note": preview}) == ["old"]


def test_only_the_long_value_that_decides_is_fetched(exp: ExpApi, caplog: pytest.LogCaptureFixture) -> None:
    """A condition on one long value leaves the run's others where they are."""
    logged(exp, "r", {"decides": "A" * 7000, "lost": "C" * 7500})
    run = exp.find_runs({"name": "r"}).first()
    assert run is not None
    for path in Path(run.repo_url.removeprefix("file://")).rglob("*.txt"):
        if path.read_text()[0] == "C":
            path.chmod(0o600)
            path.unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "withrun"):
        assert names(exp, {"params.decides": {"$regex": "nowhere"}}) == []
    assert not caplog.records


def test_a_text_that_reads_like_a_preview_is_a_text(api: BaseMlflowApi, uri: str) -> None:
    """In tags of experiments and models, beside which nothing is kept, such a text is searched as it is."""
    client = MlflowClient(uri, uri)
    name = uuid.uuid4().hex
    exp_id = client.create_experiment(name, tags={"note": LOOK_ALIKE})
    run_id = client.create_run(exp_id).info.run_id
    client.create_registered_model(name, tags={"note": LOOK_ALIKE})
    for query, expected in ({"$regex": "y"}, 0), ({"$regex": "9999"}, 1), (LOOK_ALIKE, 1), ("x" * 9999, 0):
        assert len(list(api.find_exps({"tags.note": query, "name": name}))) == expected
        assert len(list(api.find_models({"tags.note": query, "name": name}))) == expected
        found = list(api.find_runs({"exp.tags.note": query, "exp.name": name}))
        assert [run.id for run in found] == [run_id][:expected]
        assert len(list(api.find_runs({"exp.tags.note": query, "exp.id": exp_id}))) == expected


def test_an_empty_document_is_below_all_others(exp: ExpApi) -> None:
    """`$gt: {}` finds every document, those kept as rows too."""
    logged(exp, "filled", {"model": {"depth": 3}})
    logged(exp, "empty", {"model": {}})
    logged(exp, "text", {"model": "tree"})
    assert names(exp, {"params.model": {"$gt": {}}}) == ["filled"]
    assert names(exp, {"params.model": {"$gte": {}}}) == ["empty", "filled"]
    assert names(exp, {"params.model": {"$lte": {}}}) == names(exp, {"params.model": {}}) == ["empty"]


def test_a_nul_in_a_text_hides_nothing(exp: ExpApi, uri: str) -> None:
    """Texts with U+0000 are found by equality and by their beginning; under `mlflow.` by any pattern."""
    client = MlflowClient(uri)
    run_id = client.create_run(exp.id, tags={"k": "a\0b", "mlflow.k": "a\0b"}, run_name="a\0b").info.run_id
    for query in (
        {"tags.k": "a\0b"},
        {"tags.k": {"$in": ["a\0b", "c"]}},
        {"tags.k": {"$regex": "^a\0b"}},
        {"tags.k": {"$regex": "^a.b$"}},
        {"name": "a\0b"},
        {"tags.mlflow.k": "a\0b"},
        {"tags.mlflow.k": {"$regex": "b$"}},
    ):
        assert [run.id for run in exp.find_runs(query)] == [run_id], query


def test_values_are_found_by_what_was_logged(exp: ExpApi) -> None:
    """Each value that `log_param` takes finds the run that logged it; a date is its midnight too."""
    numpy = pytest.importorskip("numpy")
    pandas = pytest.importorskip("pandas")
    day = dt.date(2026, 1, 31)
    moment = dt.datetime(2026, 1, 31, 12, 0, 0, 5)
    values = {
        "date": day,
        "decimal": Decimal("0.1"),
        "uuid": uuid.UUID(int=7),
        "path": Path("a/b"),
        "time": dt.time(12, 30),
        "set": {1, 2},
        "array": numpy.arange(3),
        "nanoseconds": numpy.datetime64(moment, "ns"),
        "timestamp": pandas.Timestamp(moment),
    }
    logged(exp, "values", values)
    logged(exp, "moments", {"date": dt.datetime(2026, 1, 31), "decimal": 0.1, "nanoseconds": moment})
    for key, value in values.items():
        expected = ["moments", "values"] if key in ("date", "decimal", "nanoseconds") else ["values"]
        assert names(exp, {f"params.{key}": value}) == expected, key
        assert names(exp, {f"params.{key}": {"$in": [value, 5]}}) == expected, key
        assert "values" not in names(exp, {f"params.{key}": {"$ne": value}}), key
        if key not in ("set", "array"):
            assert names(exp, {f"params.{key}": {"$all": [value]}}) == expected, key
    assert names(exp, {"params": {"date": day}}) == []
    assert names(exp, {"params.date": {"$gte": day, "$lte": day}}) == ["moments", "values"]
    assert names(exp, {"params.date": {"$lt": day}}) == []
    assert names(exp, {"params.decimal": {"$lt": Decimal("0.5")}}) == ["moments"]
    for listed in (range(3), numpy.arange(3), {0, 1}, {1: "a"}.keys()):
        assert names(exp, {"params.set": {"$in": listed}}) == ["values"]


def test_times_of_numpy_and_pandas_are_times(exp: ExpApi) -> None:
    """A time is compared as a time in whatever unit numpy counts it, and as a pandas Timestamp."""
    numpy = pytest.importorskip("numpy")
    pandas = pytest.importorskip("pandas")
    logged(exp, "r", {})
    for unit in ("D", "s", "us", "ns"):
        assert names(exp, {"start_time": {"$gt": numpy.datetime64("2020-01-01", unit)}}) == ["r"]
        assert names(exp, {"start_time": {"$lt": numpy.datetime64("2020-01-01", unit)}}) == []
    assert names(exp, {"start_time": {"$gt": pandas.Timestamp("2020-01-01", tz="UTC")}}) == ["r"]
    assert names(exp, {"end_time": pandas.NaT}) == []


def test_a_frame_keeps_empty_documents(exp: ExpApi) -> None:
    """An empty dict that was logged has its cell; groups without a key have no column."""
    logged(exp, "r", {"empty": {}, "opt": {"extra": {}, "lr": 1}})
    frame = exp.find_runs().to_frame()
    assert frame["params.empty"][0] == frame["params.opt.extra"][0] == {}
    assert frame["params.opt.lr"][0] == 1
    assert not {"params", "metrics", "exp.tags"} & set(frame.columns)
