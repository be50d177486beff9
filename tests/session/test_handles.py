"""Runs as handles: they stay active until they end or are replaced; the module's own start and end."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import withrun
from withrun import BaseMlflowApi, ExpApi, MlflowApi, RunApi, context
from withrun.errors import InvalidArgument, NoActiveRun, NotFound, RunAlreadyActive
from withrun.services.translation import DataTranslation

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_earlier_handle_is_active_again(exp: ExpApi, client: MlflowClient) -> None:
    """A second handle becomes the active run; when it ends, the first is active again if it is still open."""
    first = exp.start_run("first")
    second = exp.start_run("second")
    assert withrun.active_run() is second
    second.end_run()
    assert withrun.active_run() is first
    third = exp.start_run("third")
    first.end_run(succeeded=False)
    assert withrun.active_run() is third
    third.end_run()
    assert withrun.active_run() is None
    assert [client.get_run(r.id).info.status for r in (first, second, third)] == [
        "FAILED",
        "FINISHED",
        "FINISHED",
    ]


def test_handle_ended_by_id(api: BaseMlflowApi, exp: ExpApi) -> None:
    """Ending a run by its ID, or by another handle, ends the one that is active."""
    run = exp.start_run()
    api.end_run(run.id, "KILLED")
    assert run.status == "KILLED"
    assert withrun.active_run() is None
    run = exp.start_run()
    api.get_run(run).end_run()
    assert run.status == "FINISHED"
    assert withrun.active_run() is None


def test_start_run_of_the_module_refuses_while_a_run_is_active(api: BaseMlflowApi, exp: ExpApi) -> None:
    """`withrun.start_run()` refuses beside an open handle too, as MLflow does; children start if told."""
    with withrun.session(api):
        withrun.set_experiment(experiment_id=exp.id)
        run = withrun.start_run(run_name="first", tags={"team": "x"}, description="what it is")
        with pytest.raises(RunAlreadyActive, match="end_run"):
            withrun.start_run()
        child = withrun.start_run(nested=True)
        assert (child.parent_id, child.exp.id) == (run.id, exp.id)
        withrun.end_run("KILLED")
        assert child.update().status == "KILLED"
        with withrun.start_run(parent_run_id=run.id) as second:
            assert second.parent_id == run.id
        with pytest.raises(RunAlreadyActive, match=run.id):
            withrun.start_run(run_id=run.id)
        withrun.end_run()
        with withrun.start_run(run_id=run.id) as resumed:
            assert resumed == run
        assert withrun.last_active_run() == run
    fetched = api.get_run(run)
    assert fetched.tags["team"] == "x"
    assert fetched.tags["mlflow"]["note"]["content"] == "what it is"
    assert fetched.name == "first"


def test_module_child_goes_to_the_api_of_its_parent(api: BaseMlflowApi, exp: ExpApi) -> None:
    """Outside any session, `withrun.start_run(nested=True)` starts a child of the active run, beside it."""
    with exp.start_run() as parent, withrun.start_run(nested=True) as child:
        assert child.api is parent.api
        assert (child.parent_id, child.exp.id) == (parent.id, exp.id)


def test_end_run_with_nothing_active() -> None:
    """`withrun.end_run()` with nothing active does nothing."""
    withrun.end_run()


@pytest.mark.parametrize(
    "verb",
    [
        lambda: withrun.log_param("a", 1),
        lambda: withrun.log_params({"a": 1}),
        lambda: withrun.log_metric("a", 1),
        lambda: withrun.log_metrics({"a": 1}),
        lambda: withrun.set_tag("a", 1),
        lambda: withrun.set_tags({"a": 1}),
        lambda: withrun.delete_tag("a"),
        lambda: withrun.log_artifact("x"),
        lambda: withrun.log_artifacts("."),
        lambda: withrun.get_artifact_uri(),
        lambda: withrun.log_model_version("m", "x"),
    ],
)
def test_verbs_need_an_active_run(verb: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an active run a verb says so and how to get one, starts none, and makes no store."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoActiveRun) as caught:
        verb()  # type: ignore[operator]
    assert "start_run" in str(caught.value)
    assert "bind" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_last_active_run(exp: ExpApi) -> None:
    """The last active run is the active one, or the one that was active last in this context."""
    with exp.start_run() as run:
        assert withrun.last_active_run() is run
    assert withrun.last_active_run() is run
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(withrun.last_active_run()))
    thread.start()
    thread.join()
    assert seen == [None]


def test_last_active_run_of_a_session(api: BaseMlflowApi, exp: ExpApi, other_exp: ExpApi) -> None:
    """Inside a session, the last active run is that of its API, whatever ran on others since."""
    with exp.start_run() as run:
        pass
    with other_exp.start_run() as other:
        pass
    with withrun.session(api):
        assert withrun.last_active_run() is run
    with withrun.session(other_exp.api):
        assert withrun.last_active_run() is other
    with withrun.session(api.model_copy()):
        assert withrun.last_active_run() is None
    assert withrun.last_active_run() is other


def test_active_run_decides_the_api_of_the_module(
    exp: ExpApi, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside an active run, `withrun.start_run` works on its API, and never makes the environment's."""
    monkeypatch.setenv("WITHRUN_CONF_TRACKING_URI", "http://127.0.0.1:9")  # nothing answers there
    with exp.start_run() as run:
        earlier = run.create_child()
        with pytest.raises(RunAlreadyActive):
            withrun.start_run()
        with withrun.start_run(parent_run_id=run.id) as child:
            assert (child.parent_id, child.exp.id) == (run.id, exp.id)
        with withrun.start_run(run_id=earlier.id, nested=True) as resumed:
            assert resumed == earlier
        assert context.session_frame() is None
    assert client.get_run(earlier.id).info.status == "FINISHED"


@pytest.mark.parametrize(("error", "status"), [(None, "FINISHED"), (KeyError(), "FAILED")], ids=repr)
def test_closing_an_api_ends_its_handles(
    sqlite_uri: str, exp: ExpApi, client: MlflowClient, error: Exception | None, status: str
) -> None:
    """Closing an API ends all handles still open, FAILED after an exception, though one can't be ended."""
    with contextlib.suppress(KeyError), MlflowApi(tracking_uri=sqlite_uri) as own:
        runs = [own.start_run(exp.id) for _ in range(3)]
        if error is not None:
            client.delete_run(runs[1].id)  # it can't be updated then
            raise error
    assert [client.get_run(runs[i].id).info.status for i in (0, 2)] == [status, status]
    assert withrun.active_run() is None


def test_closing_an_api_inside_its_block_is_refused(
    sqlite_uri: str, exp: ExpApi, client: MlflowClient
) -> None:
    """An API whose run is open as a block is not closed: the block ends by it."""
    own = MlflowApi(tracking_uri=sqlite_uri)
    with own.start_run(exp.id) as run:
        with pytest.raises(RunAlreadyActive, match="leave the block"):
            own.close()
        run.log_param("still", "works")
    own.close()
    assert client.get_run(run.id).info.status == "FINISHED"


def test_session_chooses_the_api(
    api: BaseMlflowApi, other_api: BaseMlflowApi, exp: ExpApi, other_exp: ExpApi
) -> None:
    """Inside `session(api)` the verbs see that API's runs alone; leaving brings back the outer one."""
    with exp.start_run() as run, withrun.session(other_api):
        assert withrun.active_run() is None
        with pytest.raises(NoActiveRun):
            withrun.log_param("a", 1)
        withrun.set_experiment(experiment_id=other_exp.id)
        with withrun.start_run() as other:
            assert other.api is other_api
            assert other.exp.id == other_exp.id
            with withrun.session(api):
                assert withrun.active_run() is run
            assert withrun.active_run() is other
        assert withrun.active_run() is None
    assert withrun.active_run() is None


def test_one_session_object_in_many_threads(api: BaseMlflowApi, other_api: BaseMlflowApi) -> None:
    """A session object that threads share leaves just the entry of the thread that leaves."""
    shared = withrun.session(api)
    barrier = threading.Barrier(2)
    seen: list[object] = []

    def first() -> None:
        with withrun.session(other_api):
            with shared:
                barrier.wait()
                barrier.wait()
            seen.append(withrun.create_experiment is not None and _current_api())

    def second() -> None:
        barrier.wait()
        with shared:
            barrier.wait()
            threads[0].join()
            seen.append(_current_api())

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [other_api, api]


def _current_api() -> object:
    return withrun.set_experiment("made so that the database is there").api


def test_set_experiment(api: BaseMlflowApi, exp: ExpApi) -> None:
    """Exactly one of name and ID; by name it is created, a deleted one is refused with the way out."""
    with withrun.session(api):
        assert withrun.set_experiment(exp.name) == exp
        created = withrun.set_experiment(f"{exp.name}-new")
        assert withrun.get_experiment_by_name(created.name) == created
        with withrun.start_run() as run:
            assert run.exp.id == created.id
        for wrong in ({}, {"experiment_name": "a", "experiment_id": "1"}):
            with pytest.raises(InvalidArgument, match="exactly one"):
                withrun.set_experiment(**wrong)
        with pytest.raises(NotFound, match="987654"):
            withrun.set_experiment(experiment_id="987654")
        withrun.delete_experiment(created.id)
        for how in ({"experiment_name": created.name}, {"experiment_id": created.id}):
            with pytest.raises(InvalidArgument, match=f"restore_experiment.*{created.id}"):
                withrun.set_experiment(**how)
        withrun.restore_experiment(created.id)
        assert withrun.set_experiment(created.name) == created
        withrun.set_experiment_tag("owner", {"team": "x"})
        assert withrun.get_experiment(created.id).tags["owner"] == {"team": "x"}
        withrun.delete_experiment_tag("owner.team")
        assert "owner" not in withrun.get_experiment(created.id).tags
    assert api.get_exp(exp).id == exp.id


def test_default_session_binds_to_the_context(
    sqlite_uri: str, exp: ExpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside any session `set_experiment` and `start_run` choose for this context alone."""
    monkeypatch.setenv("WITHRUN_CONF_TRACKING_URI", sqlite_uri)
    withrun.set_experiment(experiment_id=exp.id)
    with withrun.start_run() as run:
        assert run.exp == exp
    elsewhere: list[RunApi] = []

    def start() -> None:
        with withrun.start_run() as started:
            elsewhere.append(started)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with withrun.start_run() as again:
        assert again.exp == exp
    assert elsewhere[0].api is again.api is run.api
    assert elsewhere[0].exp.id == "0"


def test_handles_of_one_run_are_equal(api: BaseMlflowApi, other_api: BaseMlflowApi, exp: ExpApi) -> None:
    """Handles are equal and hash alike if store and ID are, whichever API instance is behind them."""
    run = exp.create_run()
    same = [api.get_run(run.id), copy.copy(run), copy.deepcopy(run), run.using(api.in_offline_mode)]
    assert len({run, *same}) == 1
    assert run != exp.create_run()
    assert run != exp
    assert api.get_exp("0") != other_api.get_exp("0")
    assert api.get_exp("0") == api.model_copy().get_exp("0")


def test_runs_of_the_module(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """`get_run`, `get_parent_run`, `delete_run` and `restore_run` work on the session's store."""
    with withrun.session(api):
        with exp.start_run() as parent, parent.start_child() as child:
            pass
        assert withrun.get_run(child.id) == child
        assert withrun.get_parent_run(child.id) == parent
        assert withrun.get_parent_run(parent.id) is None
        withrun.delete_run(child.id)
        assert client.get_run(child.id).info.lifecycle_stage == "deleted"
        withrun.restore_run(child.id)
        assert client.get_run(child.id).info.lifecycle_stage == "active"
        with pytest.raises(NotFound):
            withrun.get_run("0" * 32)


def test_artifacts_of_the_module(exp: ExpApi, tmp_path: Path) -> None:
    """`log_artifact` and `log_artifacts` publish under their own names, into `artifact_path` if given."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.txt").write_text("b")
    with exp.start_run() as run:
        withrun.log_artifact(folder / "a.txt")
        withrun.log_artifact(str(folder / "a.txt"), "in/it")
        withrun.log_artifacts(folder, "whole")
        withrun.log_artifacts(str(folder))
        for wrong in ("/abs", "../up", "a/../../b"):
            with pytest.raises(InvalidArgument):
                withrun.log_artifact(folder / "a.txt", wrong)
        with pytest.raises(InvalidArgument, match="log_artifact"):
            withrun.log_artifacts(folder / "a.txt")
        assert withrun.get_artifact_uri() == run.repo_url
        assert withrun.get_artifact_uri("in/it").endswith("/artifacts/in/it")
    assert run.load_artifact(Path.read_text, "a.txt") == "a"
    assert run.load_artifact(Path.read_text, "in/it/a.txt") == "a"
    assert run.load_artifact(Path.read_text, "whole/sub/b.txt") == "b"
    assert run.load_artifact(Path.read_text, "sub/b.txt") == "b"


@dataclasses.dataclass
class Settings:
    lr: float


class Shouting(DataTranslation):
    """Writes and reads in capitals."""

    def from_texts(self, items: Iterable[tuple[str, str]]) -> dict[str, Any]:
        return super().from_texts((key, text.upper()) for key, text in items)


def test_handle_shows_what_the_store_gives(api: BaseMlflowApi, exp: ExpApi) -> None:
    """What a handle shows of what was logged and deleted through it is what fetching the run shows."""
    shouting = api.model_copy(update={"data_translation": Shouting()})
    for chosen in (api, shouting):
        with chosen.start_run(exp.id) as run:
            run.log_params({"mlflow.x": "1", "plain": "text", "deep": {"a": 1}})
            run.set_tags({"none": None, "gone": None, "whole": Settings(0.1), "again": Settings(0.1)})
            run.set_tags({"nest": {"a": 1, "b": 2}, "again": Settings(0.2), "mlflow.note.content": "7"})
            for key in ("gone", "whole", "nest", "nest.a", "mlflow.runName", "absent"):
                run.delete_tag(key)
            shown = copy.deepcopy(run)
            fetched = chosen.get_run(run.id)
            assert shown.params == fetched.params
            assert shown.tags == fetched.tags
            assert shown.name == fetched.name
            assert "none" in shown.tags
            assert "gone" not in shown.tags


def test_folder_on_a_server(other_exp: ExpApi, tmp_path: Path) -> None:
    """A folder is added to what the run's root, or a folder of it, holds; later reads see all of it."""
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / f"{name}.txt").write_text(name)
        (tmp_path / name / "both.txt").write_text(name)
    (tmp_path / "empty").mkdir()
    with other_exp.start_run() as run:
        for name in ("one", "two", "empty"):
            withrun.log_artifacts(tmp_path / name)
            withrun.log_artifacts(tmp_path / name, "in/it/")
        for root in ("", "in/it/"):
            read = {
                str(path.relative_to(held)): path.read_text()
                for held in [run.get_artifact(root.rstrip("/"))]
                for path in held.rglob("*.txt")
                if root or "in" not in path.relative_to(held).parts
            }
            assert read == {"both.txt": "two", "sub/one.txt": "one", "sub/two.txt": "two"}
        with pytest.raises(InvalidArgument):
            withrun.log_artifacts(tmp_path / "one", "/")


def test_handle_shared_by_threads(exp: ExpApi) -> None:
    """Threads that log to one handle at once, with keys that clash, lose nothing of what it shows."""

    def work(number: int) -> None:
        for i in range(25):
            run.set_tags({f"t{number}.k{i}": i, f"t{number}": number, f"shared.k{i}.{number}": i})
            run.delete_tag(f"t{number}.k{i - 1}")

    with exp.start_run() as run:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert run.tags == exp.api.get_run(run.id).tags
