"""Searching through the public API, on an embedded store and through a server."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import withrun
from withrun import BaseMlflowApi, ExpApi, RunStatus
from withrun.errors import InvalidArgument, OfflineError
from withrun.query.plan import Plan


@pytest.fixture(scope="module", params=["sqlite", "server"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseMlflowApi]:
    folder = tmp_path_factory.mktemp("api")
    uri = f"sqlite:///{folder}/mlflow.db"
    if request.param == "server":
        uri = request.getfixturevalue("server").url
    with withrun.get_api(conf={"tracking_uri": uri, "cache_dir": folder / "cache"}) as made:
        yield made


@pytest.fixture(scope="module")
def exp(api: BaseMlflowApi) -> ExpApi:
    """An experiment of six runs, the first of which is the parent of the last; all are ended but one."""
    exp = api.create_exp(f"exp-{uuid.uuid4().hex}", {"team": "x"})
    parent = None
    for number in range(6):
        run = exp.create_run(f"run-{number}", parent=parent if number == 5 else None)
        parent = parent or run
        run.log_params({"model": {"depth": number, "kind": "tree"}, "lr": 10.0**-number})
        run.log_metrics({"loss": number / 10})
        if number:
            run.end_run(succeeded=number % 2 == 0)
    return exp


@pytest.fixture(scope="module")
def model(api: BaseMlflowApi, exp: ExpApi) -> withrun.ModelApi:
    """A registered model of three versions, made by two runs."""
    made = api.create_model(f"model-{uuid.uuid4().hex}", {"team": "x"})
    runs = list(exp.find_runs(sorting=[("name", 1)]))
    for number, run in enumerate((runs[1], runs[1], runs[2])):
        made.log_version(run, _write, f"artifact-{number}", tags={"number": number})
    return made


def _write(path: Path) -> None:
    path.write_text("artifact")


def names(found: Any) -> list[str]:
    return [one.name for one in found]


def test_every_finder_takes_query_sorting_and_limit(
    api: BaseMlflowApi, exp: ExpApi, model: withrun.ModelApi
) -> None:
    """All finders, those of handles too, filter, sort and stop at the limit."""
    run = next(exp.find_runs({"name": "run-1"}))
    assert names(exp.find_runs({"metrics.loss": {"$gt": 0.15}}, [("metrics.loss", -1)], limit=2)) == [
        "run-5",
        "run-4",
    ]
    assert names(api.find_runs({"exp": exp}, [("params.model.depth", -1)], limit=1)) == ["run-5"]
    assert names(api.find_exps({"name": exp.name}, [("name", 1)], limit=1)) == [exp.name]
    assert names(api.find_models({"name": model.name}, [("name", 1)], limit=1)) == [model.name]
    found = api.find_model_versions({"model": model}, [("tags.number", -1)], limit=2)
    assert [version.version for version in found] == ["3", "2"]
    assert [v.version for v in model.find_versions({"tags.number": {"$gte": 1}}, [("version", 1)])] == [
        "2",
        "3",
    ]
    assert [v.version for v in run.find_model_versions(sorting=[("version", 1)], limit=1)] == ["1"]
    assert [v.version for v in api.find_model_versions({"run.metrics.loss": 0.2, "model": model})] == ["3"]
    parent = next(exp.find_runs({"name": "run-0"}))
    assert names(parent.children) == names(api.find_child_runs(parent, limit=1)) == ["run-5"]
    assert list(api.find_child_runs(parent, limit=0)) == []


def test_a_query_nested_too_deeply_is_refused_by_every_finder(api: BaseMlflowApi) -> None:
    """A query within itself, or of 1,000 levels, is an error like any other mistake."""
    itself: dict[str, Any] = {}
    itself["$and"] = [itself]
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"$and": [deep]}
    for finder in (api.find_runs, api.find_exps, api.find_models, api.find_model_versions, api.explain):
        for query in (itself, deep):
            with pytest.raises(InvalidArgument, match="nested"):
                finder(query)
        with pytest.raises(InvalidArgument, match="sorting"):
            finder(None, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [-1, 1.5, True, "1"])
def test_a_wrong_limit_is_refused_by_every_finder(api: BaseMlflowApi, limit: Any) -> None:
    """A limit that is no whole number from 0 is an error where it is given, not when results are read."""
    for finder in (api.find_runs, api.find_exps, api.find_models, api.find_model_versions):
        with pytest.raises(InvalidArgument, match="limit"):
            finder(limit=limit)


def test_first_and_limit_of_results(exp: ExpApi) -> None:
    """`first()` is a handle or None; `limit(n)` narrows a search that stays what it was."""
    found = exp.find_runs(sorting=[("metrics.loss", 1)])
    first = found.first()
    assert isinstance(first, withrun.RunApi)
    assert first.name == "run-0"
    assert first.exp.name == exp.name
    assert names(found.limit(2)) == ["run-0", "run-1"]
    assert len(names(found)) == 6
    assert exp.find_runs({"name": "no such"}).first() is None


def test_a_frame_of_runs_has_nested_params_as_columns(exp: ExpApi) -> None:
    """`to_frame` has a row a run and a typed column for each nested key."""
    frame = exp.find_runs(sorting=[("metrics.loss", 1)]).to_frame()
    assert list(frame["params.model.depth"]) == [0, 1, 2, 3, 4, 5]
    assert list(frame["metrics.loss"]) == [n / 10 for n in range(6)]
    assert set(frame["exp.id"]) == {exp.id}
    assert len(exp.find_runs(limit=2).to_frame()) == 2
    assert exp.find_runs({"name": "none"}).to_frame().empty


def test_filter_strings_are_taken_wherever_a_query_is(
    api: BaseMlflowApi, exp: ExpApi, model: withrun.ModelApi
) -> None:
    """MLflow's own grammar passes through every finder, and handles narrow it to what they are."""
    run = next(exp.find_runs("attributes.run_name = 'run-1'"))
    other = api.create_exp(f"other-{uuid.uuid4().hex}").create_run("run-1")
    assert other in list(api.find_runs("attributes.run_name = 'run-1'"))
    assert names(exp.find_runs("metrics.loss < 0.25", [("metrics.loss", -1)], limit=2)) == ["run-2", "run-1"]
    assert len(names(exp.find_runs(""))) == 6
    assert names(api.find_exps(f"name = '{exp.name}'")) == [exp.name]
    assert names(api.find_models(f"name = '{model.name}'")) == [model.name]
    assert len(list(api.find_model_versions(f"name = '{model.name}'"))) == 3
    assert [v.version for v in model.find_versions("version_number > 2")] == ["3"]
    assert [v.version for v in run.find_model_versions("version_number > 1")] == ["2"]
    for ask in (api.in_offline_mode.find_runs, api.in_offline_mode.explain):
        with pytest.raises(OfflineError, match="filter string"):
            ask("metrics.loss < 1")
    assert "to the store" not in str(api.in_offline_mode.explain({"metrics.loss": 1}))


def test_without_an_experiment_all_active_ones_are_searched(api: BaseMlflowApi, exp: ExpApi) -> None:
    """Runs of every active experiment are found; deleted runs, and those of deleted experiments, are not."""
    tag = uuid.uuid4().hex
    second = api.create_exp(f"second-{tag}")
    kept, gone = (second.create_run(tags={"mark": tag}) for _ in range(2))
    there = exp.create_run(tags={"mark": tag})
    api.services.runs.delete(gone.id)
    assert {run.id for run in api.find_runs({"tags.mark": tag})} == {kept.id, there.id}
    api.services.experiments.delete(second.id)
    assert {run.id for run in api.find_runs({"tags.mark": tag})} == {there.id}
    assert list(second.find_runs()) == []
    assert list(api.find_exps({"id": second.id})) == []
    api.services.runs.delete(there.id)


def test_a_blank_query_is_everything(api: BaseMlflowApi, exp: ExpApi, tmp_path: Path) -> None:
    """An empty filter string says what no query says, online and offline, and a handle still narrows it."""
    other = api.create_exp(f"other-{uuid.uuid4().hex}").create_run()
    for run in (other, *exp.find_runs()):
        run.cache_meta()
    offline = api.in_offline_mode
    for blank in ("", "  \n", None, {}):
        assert other in list(api.find_runs(blank))
        assert other in list(offline.find_runs(blank))
        assert len(list(exp.find_runs(blank))) == len(list(offline.get_exp(exp.id).find_runs(blank))) == 6


def test_a_restored_run_of_a_deleted_experiment_is_found(api: BaseMlflowApi) -> None:
    """A run counts by its own state, as in MLflow: however many experiments are named, or none."""
    gone = api.create_exp(f"gone-{uuid.uuid4().hex}", {"kind": "gone"})
    run, _ = gone.create_run("back"), gone.create_run("deleted with it")
    api.services.experiments.delete(gone.id)
    assert list(api.find_runs({"exp.id": gone.id})) == []
    api.services.runs.restore(run.id)
    for query in (
        {"exp.id": gone.id},
        {"exp.id": {"$in": [gone.id, "0"]}},
        {"exp.id": {"$in": [gone.id, "0", "901", "902", "903", "904", "905"]}},
        {"exp.id": {"$in": [gone.id, "x"]}},
        {"exp.name": gone.name},
        {"id": run.id},
        f"attributes.run_id = '{run.id}'",
    ):
        assert names(api.find_runs(query)) == ["back"], query
    assert list(api.find_exps({"name": gone.name})) == []


def test_a_filter_string_that_the_store_refuses_is_an_invalid_argument(
    api: BaseMlflowApi, exp: ExpApi
) -> None:
    """What MLflow can't parse is told as a mistake of the caller's, with MLflow's own words."""
    for search in (
        lambda: api.find_runs("foo.bar > 1"),
        lambda: exp.find_runs("metrics.loss <"),
        lambda: api.find_exps("nonsense = 'x'"),
        lambda: api.find_models("nonsense = 'x'"),
        lambda: api.find_model_versions("nonsense = 'x'"),
    ):
        with pytest.raises(InvalidArgument, match="filter string"):
            list(search())


def test_a_status_is_a_name_or_a_run_status(exp: ExpApi) -> None:
    """Statuses compare as enumeration members and as names, and sort by name."""
    expected = {"run-1", "run-3", "run-5"}
    for value in (
        RunStatus.FAILED,
        "FAILED",
        {"$in": [RunStatus.FAILED]},
        {"$nin": ["SCHEDULED", "FINISHED"]},
    ):
        assert set(names(exp.find_runs({"status": value}))) == expected
    assert exp.find_runs(sorting=[("status", -1)]).first().status is RunStatus.SCHEDULED  # type: ignore[union-attr]


def test_a_time_that_no_calendar_holds_is_the_first_or_last_one(
    api: BaseMlflowApi, caplog: pytest.LogCaptureFixture
) -> None:
    """A run of such a time, which MLflow takes, is found, read and sorted like others, with a warning."""
    exp = api.create_exp(f"odd-{uuid.uuid4().hex}")
    backend = api.services.backend
    fine = exp.create_run("fine")
    odd = backend.create_run(exp.id, run_name="odd", start_time=10**18)
    backend.update_run(odd.run_id, status="FINISHED", end_time=10**15)
    early = backend.create_run(exp.id, run_name="early", start_time=-(10**18))
    last, first = (moment.replace(tzinfo=dt.timezone.utc) for moment in (dt.datetime.max, dt.datetime.min))
    assert (api.get_run(odd.run_id).start_time, api.get_run(odd.run_id).end_time) == (last, last)
    assert api.get_run(early.run_id).start_time == first
    assert set(names(exp.find_runs({"status": {"$ne": "FAILED"}}))) == {"odd", "early", fine.name}
    assert names(exp.find_runs({"start_time": {"$gt": dt.datetime(9999, 1, 1)}})) == ["odd"]
    assert names(exp.find_runs({"start_time": {"$lt": dt.datetime(2020, 1, 1)}})) == ["early"]
    merged = {"$or": [{"status": status} for status in ("FINISHED", "RUNNING", "SCHEDULED")]}
    for query in (None, merged):
        assert names(exp.find_runs(query, [("start_time", -1)])) == ["odd", "fine", "early"]
        assert names(exp.find_runs(query, [("start_time", 1)])) == ["early", "fine", "odd"]
    assert len(exp.find_runs().to_frame()) == 3
    assert len([one for one in caplog.records if "no calendar" in one.getMessage()]) == 3


def test_naive_datetimes_mean_local_time(exp: ExpApi) -> None:
    """A naive datetime in a query is the moment that it names on this machine's clock."""
    run = next(exp.find_runs({"name": "run-1"}))
    assert run.start_time is not None
    local = run.start_time.astimezone().replace(tzinfo=None)
    assert "run-1" in names(exp.find_runs({"start_time": {"$gte": local, "$lte": local}}))
    assert names(exp.find_runs({"start_time": {"$lt": local - dt.timedelta(hours=1)}})) == []
    assert "run-1" in names(exp.find_runs({"start_time": local}))


@pytest.mark.parametrize(
    "query",
    [
        lambda exp: {"exp": exp},
        lambda exp: {"exp": exp.id},
        lambda exp: {"exp.id": exp},
        lambda exp: {"exp": {"$in": [exp, "no-such"]}},
        lambda exp: {"exp": {"$eq": exp}},
        lambda exp: {"exp": {"$in": {exp}, "$ne": "no-such"}},
        lambda exp: {"exp": {"$not": {"$ne": exp}}},
        lambda exp: {"exp.name": exp.name},
        lambda exp: {"exp.tags.team": "x", "exp": exp},
    ],
)
def test_an_experiment_is_named_by_itself_or_its_id(
    api: BaseMlflowApi, exp: ExpApi, query: Callable[[ExpApi], Any]
) -> None:
    """Where an experiment is compared, a handle, an entity and an identifier say the same."""
    assert len(list(api.find_runs(query(exp)))) == 6


def test_runs_and_models_are_named_by_themselves(
    api: BaseMlflowApi, exp: ExpApi, model: withrun.ModelApi
) -> None:
    """Versions are found by handles on runs and models; a field that runs lack is an error with a way out."""
    run = next(exp.find_runs({"name": "run-1"}))
    assert [v.version for v in api.find_model_versions({"run": run}, [("version", 1)])] == ["1", "2"]
    assert [v.version for v in api.find_model_versions({"run": run.id, "model": model.name}, limit=1)]
    assert len(list(api.find_model_versions({"model": {"$in": [model]}}))) == 3
    with pytest.raises(InvalidArgument, match="find_child_runs"):
        api.find_runs({"parent": run})
    with pytest.raises(InvalidArgument, match="RunApi"):
        api.find_runs({"id": run})


def test_explain_says_what_goes_where(api: BaseMlflowApi) -> None:
    """`explain` gives the plan of a finder: what the store is asked, what is left, and why."""
    plan = api.explain({"params.lr": {"$lt": 0.1}, "status": "FAILED"}, [("start_time", -1)])
    assert isinstance(plan, Plan)
    for part in ("attributes.status = 'FAILED'", "values are stored as text", "start_time down  store"):
        assert part in str(plan)
    assert "name = 'x'" in str(api.explain({"name": "x"}, kind="models"))
    assert "a filter string passes" in str(api.explain("metrics.loss < 1"))
    assert "no server is asked" in str(api.in_offline_mode.explain({"name": "x"}))
    with pytest.raises(InvalidArgument, match="models"):
        api.explain(kind="model")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="metrics"):
        api.explain({"metric.loss": 1})
