"""Runs as blocks: what is active inside, how leaving ends them, and what misuse is refused with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import withrun
from withrun import BaseMlflowApi, ExpApi, RunStatus
from withrun.errors import InvalidArgument, NoActiveRun, RunAlreadyActive, RunClosed

if TYPE_CHECKING:
    from mlflow import MlflowClient


def status_of(client: MlflowClient, run: withrun.RunApi) -> str:
    status: str = client.get_run(run.id).info.status
    return status


def test_verbs_go_to_the_innermost_run(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """Inside a block the module's verbs log to its run, inside a child's block to the child, then back."""
    with exp.start_run("parent") as parent:
        withrun.log_param("who", "parent")
        with parent.start_child("child") as child:
            assert withrun.active_run() is child
            withrun.log_param("who", "child")
            withrun.log_metric("loss", 0.5, step=3)
        assert withrun.active_run() is parent
        withrun.set_tag("after", "child")
    assert withrun.active_run() is None
    stored = {name: client.get_run(run.id) for name, run in (("parent", parent), ("child", child))}
    assert stored["parent"].data.params == {"who": "parent"}
    assert stored["child"].data.params == {"who": "child"}
    assert client.get_metric_history(child.id, "loss")[0].step == 3
    assert stored["parent"].data.metrics == {}
    assert stored["parent"].data.tags["after"] == "child"
    assert stored["child"].data.tags["mlflow.parentRunId"] == parent.id
    assert [r.id for r in parent.children] == [child.id]


def test_finished_after_a_quiet_leaving(exp: ExpApi, client: MlflowClient) -> None:
    """Leaving a block quietly ends its run FINISHED, with an end time, on the server and on the handle."""
    with exp.start_run() as run:
        assert status_of(client, run) == "RUNNING"
    assert status_of(client, run) == "FINISHED" == run.status
    assert client.get_run(run.id).info.end_time == round(run.end_time.timestamp() * 1000)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (asyncio.CancelledError(), "KILLED"),
        (SystemExit(), "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(1), "FAILED"),
        (SystemExit("message"), "FAILED"),
        (GeneratorExit(), "FINISHED"),
        (StopIteration(), "FAILED"),
    ],
    ids=repr,
)
def test_status_after_an_exception(
    exp: ExpApi, client: MlflowClient, error: BaseException, status: str
) -> None:
    """The kind of an exception that leaves a block decides the status, and the exception itself passes."""
    with pytest.raises(type(error)) as caught, exp.start_run() as run:
        raise error
    assert caught.value is error
    assert status_of(client, run) == status == run.status
    assert withrun.active_run() is None


@pytest.mark.parametrize("strict", [False, True])
def test_exception_passes_when_ending_fails(
    api: BaseMlflowApi, exp: ExpApi, client: MlflowClient, caplog: pytest.LogCaptureFixture, strict: bool
) -> None:
    """An exception of the block passes, and the failure of ending is logged, when the run can't be ended."""
    run = api.model_copy(update={"strict": strict}).start_run(exp.id)
    client.delete_run(run.id)  # a deleted run can't be updated
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError
    assert "refused" in caplog.text
    assert ("could not be ended" in caplog.text) == strict
    assert run.id in caplog.text
    assert withrun.active_run() is None


def test_exception_passes_whatever_ending_fails_by(
    api: BaseMlflowApi, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of the block passes also when ending fails in a way that withrun has no name for."""
    broken = api.model_copy()
    run = broken.start_run("0")
    broken.services.runs._writes = None  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError
    assert "AttributeError" in caplog.text
    api.end_run(run.id, "FAILED")


def test_failure_of_ending_is_raised_after_a_quiet_block(
    api: BaseMlflowApi, exp: ExpApi, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A quiet block of a strict API raises that its run could not be ended; else it is logged and counted."""
    strict = api.model_copy(update={"strict": True})
    with pytest.raises(withrun.errors.Refused, match="end_run"), strict.start_run(exp.id) as run:
        client.delete_run(run.id)
    with exp.start_run() as quiet:
        client.delete_run(quiet.id)
    assert quiet.delivery.refused == 1
    assert f"{quiet.id} can't be written to" in caplog.text
    assert withrun.active_run() is None


@pytest.mark.parametrize("status", ["FAILED", RunStatus.KILLED, False, "FINISHED"])
def test_ending_inside_the_block(exp: ExpApi, client: MlflowClient, status: str | bool | RunStatus) -> None:
    """A run that is ended inside its block is active no more there, and leaving changes nothing."""
    with exp.start_run() as run:
        run.end_run(status)
        assert withrun.active_run() is None
        with pytest.raises(NoActiveRun):
            withrun.log_param("a", 1)
    assert status_of(client, run) == ("FAILED" if status is False else str(status))


@pytest.mark.parametrize("status", ["DONE", "RUNNING", RunStatus.SCHEDULED, None, 1.5, ""])
def test_status_that_ends_nothing_is_refused(exp: ExpApi, status: object) -> None:
    """A word that is no final status is refused, and the run goes on."""
    with exp.start_run() as run:
        with pytest.raises(InvalidArgument, match="FINISHED"):
            run.end_run(status)  # type: ignore[arg-type]
        assert withrun.active_run() is run


def test_unrelated_run_in_a_block_is_refused(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """Inside a block, an unrelated run of the same API is refused with the choices, and none is created."""
    with exp.start_run("outer") as outer:
        with pytest.raises(RunAlreadyActive) as caught:
            exp.start_run("inner")
        for word in ("outer", outer.id, "nested=True", "parent="):
            assert word in str(caught.value)
        assert withrun.active_run() is outer
    assert [r.info.run_id for r in client.search_runs([exp.id])] == [outer.id]


def test_related_runs_in_a_block(api: BaseMlflowApi, exp: ExpApi) -> None:
    """`nested=True`, `parent=` (as handle or ID) and `start_child` each start a run inside a block."""
    with exp.start_run() as outer:
        with exp.start_run(nested=True) as a:
            pass
        with api.start_run(exp, parent=outer) as b:
            pass
        with api.start_run(exp.id, parent=outer.id) as c, c.start_child() as d:
            pass
    assert [r.parent_id for r in (a, b, c, d)] == [outer.id, outer.id, outer.id, c.id]


def test_no_re_entry(exp: ExpApi) -> None:
    """A block that is open, or was left, can't be entered; also not by another handle of its run."""
    with exp.start_run("once") as run:
        with pytest.raises(RunAlreadyActive, match="as a block already"):
            run.__enter__()
        with pytest.raises(RunAlreadyActive, match="as a block already"):
            run.api.get_run(run.id).__enter__()
        assert withrun.active_run() is run
        stale = run.api.get_run(run.id)
    for handle in (run, stale, run.api.get_run(run.id)):
        with pytest.raises(RunClosed, match="resume"):
            handle.__enter__()
        with pytest.raises(RunClosed, match="over already"):
            handle.end_run("FAILED")
    assert run.update().status == "FINISHED"


def test_resume_after_the_end(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """A run that is over can be resumed and entered again, by handle or by ID."""
    with exp.start_run() as run:
        pass
    with run.resume():
        assert status_of(client, run) == "RUNNING"
        assert withrun.active_run() is run
        withrun.log_param("later", 1)
    with pytest.raises(OSError, match="x"), api.resume_run(run.id) as again:
        raise OSError("x")
    assert again == run
    assert status_of(client, run) == "FAILED"
    assert client.get_run(run.id).data.params == {"later": "1"}


def test_resume_follows_the_rules_of_starting(exp: ExpApi) -> None:
    """Inside a block, an unrelated run can't be resumed, entered or made active; a child can."""
    with exp.start_run() as over:
        pass
    handle = exp.start_run()
    declared = exp.create_run()
    with exp.start_run() as block:
        for refused in (over.resume, handle.resume, handle.__enter__, declared.__enter__):
            with pytest.raises(RunAlreadyActive):
                refused()
        assert block.resume() is block
        with block.start_child() as child:
            pass
        with child.resume():
            assert withrun.active_run() is child
        assert withrun.active_run() is block


def test_created_run_starts_when_entered(api: BaseMlflowApi, exp: ExpApi, client: MlflowClient) -> None:
    """A declared run is SCHEDULED and not active; entering it sets it RUNNING, leaving ends it."""
    run = api.create_run(exp, "declared", tags={"a": {"b": 1}})
    assert status_of(client, run) == "SCHEDULED" == run.status
    assert withrun.active_run() is None
    with run:
        assert status_of(client, run) == "RUNNING" == run.status
        withrun.log_metric("m", 1)
    assert status_of(client, run) == "FINISHED"


def test_two_apis_interleaved(
    api: BaseMlflowApi, other_api: BaseMlflowApi, exp: ExpApi, other_exp: ExpApi
) -> None:
    """Enter a, enter b, exit a, exit b on two APIs: leaving removes just its own, none comes back."""
    a, b = exp.start_run(), other_exp.start_run()
    a.__enter__()
    b.__enter__()
    assert withrun.active_run() is b
    a.__exit__(None, None, None)
    assert withrun.active_run() is b
    with pytest.raises(RunAlreadyActive):
        other_exp.start_run()
    with exp.start_run() as second:  # the first API has no open block any more
        assert withrun.active_run() is second
    b.__exit__(None, None, None)
    assert withrun.active_run() is None
    with pytest.raises(NoActiveRun):
        withrun.log_metric("m", 1)


def test_exits_in_another_order(exp: ExpApi, client: MlflowClient) -> None:
    """A parent's block that is left before its child's leaves the child active, and the rest in order."""
    parent = exp.start_run().__enter__()
    child = parent.start_child().__enter__()
    parent.__exit__(None, None, None)
    assert withrun.active_run() is child
    assert status_of(client, child) == "RUNNING"
    child.__exit__(None, None, None)
    assert withrun.active_run() is None
    assert {status_of(client, parent), status_of(client, child)} == {"FINISHED"}


def test_suspended_generator(exp: ExpApi, client: MlflowClient) -> None:
    """Generators that hold blocks open end their own run alone, whatever the order they finish in."""

    def training(number: int) -> Iterator[withrun.RunApi]:
        with exp.start_run(f"g{number}", parent=root) as run:
            yield run
            run.log_param("number", number)

    with exp.start_run("root") as root:
        first, second = training(1), training(2)
        a, b = next(first), next(second)
        assert next(first, None) is None  # finishes while the second is suspended
        assert status_of(client, a) == "FINISHED"
        assert withrun.active_run() is b
        second.close()
        assert status_of(client, b) == "FINISHED"
        assert withrun.active_run() is root
    assert client.get_run(a.id).data.params == {"number": "1"}
    assert client.get_run(b.id).data.params == {}


def test_exit_in_another_context(exp: ExpApi, client: MlflowClient) -> None:
    """A block that is left in another context than the one entered is over in both."""
    import contextvars

    run = exp.start_run()
    run.__enter__()
    contextvars.copy_context().run(run.__exit__, None, None, None)
    assert status_of(client, run) == "FINISHED"
    assert withrun.active_run() is None
    contextvars.Context().run(exp.start_run().__enter__().__exit__, None, None, None)
    assert withrun.active_run() is None


def test_explicit_handles_may_log_to_a_run_that_is_over(exp: ExpApi, client: MlflowClient) -> None:
    """A handle, or `run_id=`, logs to a run that is over; it stays over."""
    with exp.start_run() as run:
        pass
    run.log_metric("test", 0.9)
    with exp.start_run():
        withrun.log_param("seed", 1, run_id=run.id)
        withrun.log_metrics({"late": 2.0}, run_id=run.id)
    stored = client.get_run(run.id)
    assert stored.data.metrics == {"test": 0.9, "late": 2.0}
    assert stored.data.params == {"seed": "1"}
    assert stored.info.status == "FINISHED"
