"""Threads start with nothing active; `bind` carries the session into them, into executors and callbacks."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import withrun
from withrun import BaseMlflowApi, ExpApi
from withrun.errors import InvalidArgument

if TYPE_CHECKING:
    from mlflow import MlflowClient


def in_thread(fn: Any, *args: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fn, *args).result()


def test_threads_start_empty(exp: ExpApi) -> None:
    """A thread sees neither the run nor the session of the one that starts it."""
    with withrun.session(exp.api), exp.start_run():
        assert in_thread(withrun.active_run) is None


def test_bind_carries_the_run(exp: ExpApi) -> None:
    """A bound function sees the run that was active when it was bound, for as long as that is open."""
    with exp.start_run() as run:
        bound = withrun.bind(withrun.active_run)
        with run.start_child():
            assert in_thread(bound) is run
    assert in_thread(bound) is None


def test_bind_concurrently(exp: ExpApi) -> None:
    """One bound function runs in many threads at once; what each call starts stays its own."""
    barrier = threading.Barrier(4)

    def fold(number: int) -> str:
        barrier.wait()
        with withrun.start_run(nested=True, run_name=f"fold-{number}") as child:
            barrier.wait()
            withrun.log_param("number", number)
            assert withrun.active_run() is child
        assert withrun.active_run() is run
        return child.id

    with exp.start_run() as run, ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(withrun.bind(fold), range(4)))
        assert withrun.active_run() is run
    children = {child.id: child for child in run.children}
    assert [children[i].params for i in ids] == [{"number": n} for n in range(4)]
    assert {child.parent_id for child in children.values()} == {run.id}


def test_bind_carries_the_session(api: BaseMlflowApi, exp: ExpApi) -> None:
    """The session and its experiment are carried along; a change there is not seen here."""
    with withrun.session(api):
        withrun.set_experiment(experiment_id=exp.id)

        def work() -> str:
            with withrun.start_run() as run:
                pass
            withrun.set_experiment(experiment_id="0")
            return run.exp.id

        assert in_thread(withrun.bind(work)) == exp.id
        with withrun.start_run() as here:
            assert here.exp.id == exp.id


def test_bind_keeps_other_context_variables(exp: ExpApi) -> None:
    """A bound function sees the context variables of other libraries as they are where it is called."""
    variable = contextvars.ContextVar("variable", default="none")

    def call() -> str:
        variable.set("there")
        return bound()

    with exp.start_run():
        variable.set("here")
        bound = withrun.bind(variable.get)
    assert in_thread(call) == "there"


def test_bind_as_a_callback(exp: ExpApi, client: MlflowClient) -> None:
    """A bound callback logs to its run from wherever it is called, with arguments, result and error."""

    def on_epoch(epoch: int, *, loss: float) -> float:
        """What the callback says of itself."""
        withrun.log_metric("loss", loss, step=epoch)
        return loss * 2

    with exp.start_run() as run:
        bound = withrun.bind(on_epoch)
        with exp.start_run(nested=True):
            assert bound(1, loss=0.5) == 1.0
        assert in_thread(functools.partial(bound, 2, loss=0.25)) == 0.5
        with pytest.raises(TypeError):
            bound()  # type: ignore[call-arg]
    assert (bound.__name__, bound.__doc__) == (on_epoch.__name__, on_epoch.__doc__)
    assert [m.value for m in client.get_metric_history(run.id, "loss")] == [0.5, 0.25]


def test_bind_generator(exp: ExpApi, client: MlflowClient) -> None:
    """Each step of a bound generator runs in the carried session; sent values, errors and results pass."""

    def training() -> Iterator[Any]:
        try:
            with withrun.start_run(nested=True) as child:
                sent = yield child.id
                assert withrun.active_run() is child
                try:
                    yield sent
                except KeyError as exc:
                    yield f"caught {exc}"
        finally:
            closed.append(withrun.active_run())
        return "result"

    closed: list[Any] = []
    with exp.start_run() as run:
        bound: Any = withrun.bind(training)

    with run.resume():
        bound = withrun.bind(training)

        def consume() -> tuple[Any, ...]:
            generator = bound()
            child_id = next(generator)
            assert withrun.active_run() is None
            answers = child_id, generator.send("sent"), generator.throw(KeyError("k"))
            with pytest.raises(StopIteration) as stop:
                next(generator)
            return (*answers, stop.value.value)

        child_id, *answers = in_thread(consume)
        assert answers == ["sent", "caught 'k'", "result"]
        assert closed == [run]
        assert client.get_run(child_id).info.status == "FINISHED"

        def abandon() -> Any:
            generator = bound()
            started = next(generator)
            generator.close()
            return started

        assert client.get_run(in_thread(abandon)).info.status == "FINISHED"


def test_bind_callable_objects(exp: ExpApi) -> None:
    """Objects with a call method, methods, partials and classes can be bound."""

    class Callback:
        def __init__(self) -> None:
            self.made_in = withrun.active_run()

        def __call__(self) -> Any:
            return withrun.active_run()

    with exp.start_run() as run:
        callback = Callback()
        for fn in (callback, callback.__call__, functools.partial(withrun.active_run)):
            assert in_thread(withrun.bind(fn)) is run
        assert in_thread(withrun.bind(Callback)).made_in is run


async def asynchronous_generator() -> Any:
    yield 1


@pytest.mark.parametrize("wrong", [None, 1, "log_param", asynchronous_generator])
def test_bind_refuses_what_it_cannot_carry(wrong: Any) -> None:
    """What is no function, or an asynchronous generator, is refused with what to bind in its place."""
    with pytest.raises(InvalidArgument):
        withrun.bind(wrong)


@pytest.mark.parametrize("wrong", [None, "sqlite:///x.db", BaseMlflowApi])
def test_session_refuses_what_is_no_api(wrong: Any) -> None:
    """A session of something else than an API instance is refused."""
    with pytest.raises(InvalidArgument, match="get_api"):
        withrun.session(wrong)


def test_two_threads_end_one_run(exp: ExpApi, client: MlflowClient) -> None:
    """Of threads that end one run at once, the first wins and the others hear that it is over."""
    run = exp.start_run()
    barrier = threading.Barrier(4)

    def end(status: str) -> bool:
        barrier.wait()
        try:
            run.end_run(status)
        except withrun.errors.RunClosed:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(end, ["FINISHED", "FAILED", "KILLED", "FAILED"]))
    assert sum(ended) == 1
    assert client.get_run(run.id).info.status == run.update().status
    assert withrun.active_run() is None


def test_two_threads_end_a_run_of_elsewhere(exp: ExpApi) -> None:
    """Of threads that end, by handles of their own, a run that none has started, one does."""
    run = exp.create_run()
    barrier = threading.Barrier(2)

    def end(handle: withrun.RunApi) -> bool:
        barrier.wait()
        try:
            handle.end_run()
        except withrun.errors.RunClosed:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(end, [exp.api.get_run(run.id), exp.api.get_run(run.id)]))
    assert sorted(ended) == [False, True]


@pytest.mark.parametrize("shared", [True, False], ids=["one handle", "two handles"])
def test_two_threads_enter_one_run(exp: ExpApi, client: MlflowClient, shared: bool) -> None:
    """Of two threads that enter one run at once, one gets in; it is active nowhere once that one has left."""
    run = exp.create_run()
    handles = [run, run] if shared else [exp.api.get_run(run.id), exp.api.get_run(run.id)]
    barrier = threading.Barrier(2)

    def enter(handle: withrun.RunApi) -> tuple[bool, object, object]:
        barrier.wait()
        inside: object = None
        try:
            with handle:
                inside = withrun.active_run()
        except (withrun.errors.RunAlreadyActive, withrun.errors.RunClosed):
            return False, inside, withrun.active_run()
        return True, inside, withrun.active_run()

    with ThreadPoolExecutor(2) as pool:
        seen = sorted(pool.map(enter, handles), key=lambda one: one[0])
    assert seen == [(False, None, None), (True, run, None)]
    assert client.get_run(run.id).info.status == "FINISHED"


def test_run_that_could_not_be_entered_can_be_tried_again(exp: ExpApi, client: MlflowClient) -> None:
    """A failure on entering or resuming leaves nothing active, and the run to be entered again."""
    run = exp.create_run()
    client.delete_run(run.id)  # a deleted run can't be updated
    for attempt in (run.__enter__, run.resume):
        with pytest.raises(withrun.errors.WithrunError):
            attempt()
        assert withrun.active_run() is None
    client.restore_run(run.id)
    with run:
        assert withrun.active_run() is run
    assert client.get_run(run.id).info.status == "FINISHED"
