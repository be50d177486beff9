"""Handles of another store, and arguments that are required or have a form of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import MagicMock

import pytest

import withrun
from withrun import MlflowApi, RunApi
from withrun.errors import IllegalPath, InvalidArgument
from withrun.schema import Experiment


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowApi]:
    folder = tmp_path_factory.mktemp("own")
    with MlflowApi(tracking_uri=f"sqlite:///{folder}/a.db", cache_dir=folder / "cache") as made:
        yield made


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowApi]:
    folder = tmp_path_factory.mktemp("other")
    with MlflowApi(tracking_uri=f"sqlite:///{folder}/b.db", cache_dir=folder / "cache") as made:
        yield made


@pytest.fixture(scope="module")
def run(api: MlflowApi) -> RunApi:
    return api.create_run(api.get_or_create_exp("e"))


def test_handles_of_another_store_are_refused(api: MlflowApi, other: MlflowApi, run: RunApi) -> None:
    """A handle whose API is on another store is no name of anything here; nothing is written for it."""
    theirs = other.create_run(other.get_or_create_exp("e"))
    calls: list[Callable[[], Any]] = [
        lambda: api.start_run(theirs.exp),
        lambda: api.create_run(run.exp, parent=theirs),
        lambda: api.resume_run(theirs),
        lambda: api.end_run(theirs),
        lambda: api.log_params(theirs, {"a": 1}),
        lambda: api.set_tags_on_exp(theirs.exp, {"a": 1}),
        lambda: api.log_run_artifact(theirs, __file__),
        lambda: api.log_model_version("m", theirs, __file__),
        lambda: api.log_model_version(other.get_or_create_model("m"), run, __file__),
    ]
    before = [found.id for found in api.find_runs()]
    for call in calls:
        with pytest.raises(InvalidArgument, match=r"of the store .*b\.db.* is on .*a\.db"):
            call()
    assert [found.id for found in api.find_runs()] == before


def test_the_same_store_by_another_instance(api: MlflowApi, run: RunApi) -> None:
    """Handles of another instance on the same store, offline copies and plain entities are taken."""
    twin = api.model_copy()
    assert twin.create_run(run.exp, parent=run).parent_id == run.id
    assert run.using(api.in_offline_mode).api.offline_mode
    assert api.create_run(Experiment(id=run.exp.id, name="e", tags={})).exp.id == run.exp.id


@dataclass
class Looped:
    """Holds itself."""

    inner: Any = None


LOOPED = Looped()
LOOPED.inner = LOOPED

BAD: dict[str, tuple[Callable[[MlflowApi, RunApi], Any], str]] = {
    "no file": (lambda a, r: withrun.log_artifact(None), "local_path=None"),  # type: ignore[arg-type]
    "no folder": (lambda a, r: withrun.log_artifacts(None), "local_dir=None"),  # type: ignore[arg-type]
    "export without target": (lambda a, r: r.export_meta(None), "target=None"),  # type: ignore[arg-type]
    "export to a list": (lambda a, r: r.exp.export_meta([]), "target="),  # type: ignore[arg-type]
    "place nowhere": (lambda a, r: r.place_artifact(None), "target=None"),  # type: ignore[arg-type]
    "no loader": (lambda a, r: r.load_artifact(None), "loader=None"),  # type: ignore[arg-type]
    "location": (
        lambda a, r: withrun.create_experiment("x", artifact_location=3),  # type: ignore[arg-type]
        "artifact_location=3",
    ),
    "uri of a number": (lambda a, r: r.get_artifact_uri(3), "artifact_path=3"),  # type: ignore[arg-type]
    "api": (lambda a, r: r.using("x"), "API instance"),  # type: ignore[arg-type]
    "timeout": (lambda a, r: r.flush("x"), "timeout='x'"),  # type: ignore[arg-type]
    "timeout below 0": (lambda a, r: a.flush(-1), "timeout=-1"),
    "timeout of no number": (lambda a, r: a.flush(float("nan")), "timeout=nan"),
    "refresh": (lambda a, r: a.get_run(r, force_cache_refresh="no"), "force_cache_refresh"),  # type: ignore[arg-type]
    "repo": (lambda a, r: a.create_run(r.exp, repo="not a url\n"), "repo='not a url"),
    "relative repo": (lambda a, r: a.create_run(r.exp, repo="folder"), "repo='folder'"),
    "mock": (lambda a, r: r.log_param("p", MagicMock()), "'p' is nested too deeply"),
    "loop": (lambda a, r: r.log_param("p", LOOPED), "'p' is nested too deeply"),
    "model export": (lambda a, r: a.export_model_version_meta(("m", "1"), []), "target="),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments(api: MlflowApi, run: RunApi, what: str) -> None:
    """An argument of a wrong type or form is refused by name, as InvalidArgument."""
    call, words = BAD[what]
    with withrun.session(api), pytest.raises(InvalidArgument, match=words):
        call(api, run)


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd"])
def test_an_artifacts_uri_stays_in_its_run(run: RunApi, path: str) -> None:
    """`get_artifact_uri` names nothing outside of the run."""
    with pytest.raises(IllegalPath):
        run.get_artifact_uri(path)
    assert run.get_artifact_uri("a/b") == f"{run.repo_url}/a/b"
