"""Bad input: a clear error before anything is sent, shown by the count of calls that reach the backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import PrivateAttr

from tests.contract.conftest import Place
from withrun import BaseMlflowApi, MlflowApi, RunApi
from withrun.errors import InvalidArgument


class Counted:
    """A backend with a note of each call that reaches it."""

    def __init__(self, backend: Any, calls: list[str]) -> None:
        self._backend = backend
        self.calls = calls

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if callable(value) and name != "close":
            self.calls.append(name)
        return value


class CountedApi(MlflowApi):
    """The API under test, with the calls of all its backends counted, the journal's included."""

    _calls: list[str] = PrivateAttr(default_factory=list)

    def _connect(self) -> Any:
        return Counted(super()._connect(), self._calls)


@pytest.fixture(scope="module")
def counted(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedApi]:
    """An API whose backend's calls are counted."""
    with CountedApi(tracking_uri=place.uri, cache_dir=tmp_path_factory.mktemp("cache")) as made:
        yield made


@pytest.fixture
def bad_run(counted: CountedApi, run: RunApi) -> RunApi:
    """A run behind that API, its own params not logged yet."""
    return run.using(counted)


BAD: dict[str, tuple[Callable[[RunApi, Any], Any], str]] = {
    "illegal key of a param": (lambda r, _: r.log_params({"ok": 1, "a$b": 1}), r"'\$' at position 1"),
    "illegal key of a metric": (lambda r, _: r.log_metric("a,b", 1), "','"),
    "illegal nested key": (lambda r, _: r.set_tags({"a": {"b\n": 1}}), r"\\n"),
    "empty key": (lambda r, _: r.log_param("", 1), "empty"),
    "long key": (lambda r, _: r.log_param("k" * 251, 1), "250"),
    "path as key": (lambda r, _: r.log_metric("../up", 1), "path"),
    "non-string key": (lambda r, _: r.log_params({1: "a"}), "int.*'1'"),
    "nested non-string key": (lambda r, _: r.set_tags({"a": {None: 1}}), "NoneType"),
    "non-string metric": (lambda r, _: r.log_metric(3, 1), "int"),
    "same key twice": (lambda r, _: r.log_params({"a.b": 1, "a": {"b": 1}}), "twice"),
    "metric as text": (lambda r, _: r.log_metric("m", "0.5"), "'0.5'.*no number"),
    "metric as bool": (lambda r, _: r.log_metric("m", True), "bool"),
    "metric as None": (lambda r, _: r.log_metrics({"ok": 1, "m": None}), "'m'.*NoneType"),
    "metric as complex": (lambda r, _: r.log_metric("m", 1j), "complex"),
    "metric as list": (lambda r, _: r.log_metric("m", [1.0]), "list"),
    "metric too large": (lambda r, _: r.log_metric("m", 10**400), "too large"),
    "param that is no JSON value": (lambda r, _: r.log_param("p", object()), "'p'"),
    "param within itself": (lambda r, _: r.log_params(_loop()), "within itself"),
    "params as a list": (lambda r, _: r.log_params([("a", 1)]), "dict.*list"),
    "metrics as None": (lambda r, _: r.log_metrics(None), "dict.*NoneType"),
    "tags as text": (lambda r, _: r.set_tags("a=1"), "dict.*str"),
    "tag to delete": (lambda r, _: r.delete_tag("a$"), r"'\$'"),
    "step": (lambda r, _: r.log_metric("m", 1, step="one"), "step 'one'"),
    "name of a run": (lambda r, a: a.create_run(r.exp, 7), "name=7.*int"),
    "tags of a run": (lambda r, a: a.create_run(r.exp, tags=["a"]), "tags"),
    "falsy tags of a run": (lambda r, a: a.start_run(r.exp, tags=[]), "tags"),
    "illegal tags of a run": (lambda r, a: a.start_run(r.exp, tags={"a!": 1}), "'!'"),
    "repo of a run": (lambda r, a: a.create_run(r.exp, repo=Path("x")), "repo"),
    "nested": (lambda r, a: a.start_run(r.exp, nested="yes"), "nested"),
    "parent": (lambda r, a: a.create_run(r.exp, parent=5), "run.*'5'"),
    "experiment as a number": (lambda r, a: a.get_exp(0), "experiment.*'0'"),
    "run as a number": (lambda r, a: a.get_run(1), "run.*'1'"),
    "run as an experiment": (lambda r, a: a.get_run(r.exp), "run.*ExpApi"),
    "experiment as a run": (lambda r, a: a.get_exp(r), "experiment.*RunApi"),
    "empty ID": (lambda r, a: a.get_run(""), "empty"),
    "model": (lambda r, a: a.get_model(None), "model"),
    "name of an experiment": (lambda r, a: a.create_exp("  "), "visible"),
    "tags of an experiment": (lambda r, a: a.create_exp("x", tags=[1]), "dict"),
    "status": (lambda r, a: a.end_run(r, "DONE"), "FINISHED"),
    "source": (lambda r, _: r.log_artifact(12), "source"),
    "path": (lambda r, _: r.log_artifact(__file__, 3), "path_in_run"),
    "no path to read": (lambda r, _: r.get_artifact(None), "path_in_run"),
    "no path to list": (lambda r, _: r.list_artifacts(None), "path_in_run"),
    "no path to clean": (lambda r, _: r.clean_cached_artifact(None), "path_in_run"),
    "option": (lambda r, _: r.log_artifact(__file__, keep_the_source="no"), "keep_the_source"),
    "dumper without a path": (lambda r, _: r.log_artifact(lambda p: None), "path_in_run"),
    "query": (lambda r, a: a.find_runs({"params.a": {"$gtt": 1}}), r"\$gt"),
    "field of a query": (lambda r, a: a.find_runs({"parms.a": 1}), "params"),
    "sorting": (lambda r, a: a.find_runs({}, [("start_time", 2)]), "sort"),
}


def _loop() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    return loop


@pytest.mark.parametrize("case", BAD)
def test_refused_before_anything_is_sent(counted: CountedApi, bad_run: RunApi, case: str) -> None:
    """Each is an InvalidArgument that says what is wrong; nothing is journaled, and no call is made."""
    call, words = BAD[case]
    counted._calls.clear()
    accepted = bad_run.delivery.accepted
    before = bad_run.params, bad_run.metrics, dict(bad_run.tags)
    with pytest.raises(InvalidArgument) as caught:
        call(bad_run, counted)
    assert re.search(words, str(caught.value), re.IGNORECASE | re.DOTALL), str(caught.value)
    assert counted._calls == []
    assert bad_run.delivery.accepted == accepted
    assert (bad_run.params, bad_run.metrics, dict(bad_run.tags)) == before


def test_contradictory_param(counted: CountedApi, bad_run: RunApi) -> None:
    """A param that contradicts what the handle logged is refused at the call, before anything is sent."""
    bad_run.log_params({"lr": 0.1}).flush()
    counted._calls.clear()
    with pytest.raises(InvalidArgument, match=r"'lr'.*0\.1.*0\.2"):
        bad_run.log_params({"lr": 0.2, "new": 1})
    assert counted._calls == []
    assert bad_run.delivery.accepted == 1
    assert bad_run.params == {"lr": 0.1}


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"cache_dri": "x"}, "cache_dir"),
        ({"offline": True}, "offline_mode"),
        ({"xyzzy": 1}, "tracking_uri"),
        ({"cache_dir": 5}, "cache_dir"),
        ({"offline_mode": "perhaps"}, "offline_mode"),
        ({"client_settings": {"timeout": -1}}, "timeout"),
        ({"client_settings": {"timout": 1}}, "timout"),
        ({"file_transfer": {"use_scheme": "a", "map_scheme": {"b": "c"}}}, "use_scheme"),
        ({"on_long_value": "cut"}, "on_long_value"),
        ({"tracking_uri": 5}, "tracking_uri"),
    ],
)
def test_configuration(place: Place, conf: dict[str, Any], words: str) -> None:
    """A configuration that is not valid names the field, and the nearest valid name of an unknown one."""
    with pytest.raises(InvalidArgument, match=words):
        MlflowApi(**{"tracking_uri": place.uri, **conf})


def test_fields_are_frozen(api: BaseMlflowApi) -> None:
    """An instance never changes its configuration."""
    with pytest.raises(ValueError, match="frozen"):
        api.offline_mode = True
