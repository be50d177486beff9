"""How a run becomes active, is entered and left, and ends: the rules of sessions.

The stack of active runs is the context's (`withrun.context`). What is kept here is which open runs are this
process's own, so that each is ended once, also at interpreter exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from withrun import context, signals
from withrun.context import Activation
from withrun.errors import RunAlreadyActive, RunClosed, WithrunError
from withrun.journal import before_closing
from withrun.schema import RunStatus
from withrun.services.entities import from_milliseconds
from withrun.services.notebook import current_cell, is_interactive

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi
    from withrun.handles.run import RunApi

__all__ = [
    "check_may_start",
    "end",
    "end_handles",
    "end_left_open_by_cell",
    "enter",
    "leave",
    "make_active",
    "open_handle",
    "refuse_open_blocks",
    "resume",
    "status_after",
]

logger = logging.getLogger("withrun")

_open: dict[tuple[int, str], Activation] = {}
"""Open runs that this process owns, by the identity of their API and their ID.

A run keeps its place here while it is begun and while it is ended, so that of two threads one does.
"""

_lock = threading.RLock()  # two threads may enter, or end, one run at once; a signal handler may come between


def _key(run: RunApi) -> tuple[int, str]:
    return _key_of(run.api, run.id)


def _key_of(api: BaseMlflowApi, run_id: str) -> tuple[int, str]:
    # A run that started without the server is one and the same before it is delivered and after.
    return id(api), api.services.names.lasting(run_id)


# --- starting ---


def check_may_start(api: BaseMlflowApi, run: RunApi | None = None) -> None:
    """Refuse to start, resume or enter an unrelated run inside an open block of the same API.

    Args:
        api: the API that it is to be active for.
        run: the run, unless it is a new one; a child is related, and so is the block's own run.

    Raises:
        RunAlreadyActive: names the run whose block it is, and the choices.
    """
    if run is not None and run.parent_id is not None:
        return
    block = context.enclosing_block(api)
    if block is not None and (run is None or block.run.id != run.id):
        raise RunAlreadyActive(
            f"run {block.run.name!r} ({block.run.id}) is active in an enclosing block: start its child with "
            "nested=True or run.start_child(), name another parent with parent=, or leave the block first"
        )


def make_active(run: RunApi) -> Activation:
    """Make a started or resumed run the active one of this context; this process owns it from now on."""
    activation = Activation(run.api, run, current_cell())
    _open[_key(run)] = activation
    context.activate(activation)
    return activation


def resume(run: RunApi) -> None:
    """Set a run RUNNING again and make it active, under the rules of starting."""
    check_may_start(run.api, run)
    if _own_activation(run) is None:
        end_left_open_by_cell(run.api)
    activation, is_new = _take_place(run)
    if is_new:
        with _withdrawn_on_failure(run, activation):
            run.api.services.runs.set_running(run.id)
            run.status, run.end_time = RunStatus.RUNNING, None
    context.activate(activation)


def _take_place(run: RunApi) -> tuple[Activation, bool]:
    """The open activation that this process owns of a run, and whether it was made just now."""
    cell = current_cell()
    with _lock:
        activation = _own_activation(run)
        is_new = activation is None
        if activation is None:
            activation = _open[_key(run)] = Activation(run.api, run, cell)
    return activation, is_new


@contextlib.contextmanager
def _withdrawn_on_failure(run: RunApi, activation: Activation) -> Iterator[None]:
    """Give up the place of a run that could not be begun; else this handle holds it."""
    before = run.activation
    try:
        yield
    except BaseException:
        with _lock:
            activation.over = True
            _forget(activation)
        run.adopt(before)  # another thread may have found the place, and adopted it
        raise
    run.adopt(activation)


def open_handle(api: BaseMlflowApi, run_id: str) -> RunApi | None:
    """The handle by which this process holds a run open, or None."""
    activation = _open.get(_key_of(api, run_id))
    return activation.run if activation is not None and activation.is_own else None


# --- blocks ---


def enter(run: RunApi) -> None:
    """Enter a run as a block.

    Raises:
        RunAlreadyActive: it is open as a block already, or unrelated to the block around.
        RunClosed: it is over.
    """
    activation, is_new = _take_block(run)
    try:
        if is_new:
            with _withdrawn_on_failure(run, activation):
                _check_not_over(run)
                check_may_start(run.api, run)
                if run.status is not RunStatus.RUNNING:
                    run.api.services.runs.set_running(run.id)
                    run.status = RunStatus.RUNNING
        else:
            check_may_start(run.api, run)
    except BaseException:
        activation.in_block = False
        raise
    context.activate(activation)
    signals.block_opened()


def _take_block(run: RunApi) -> tuple[Activation, bool]:
    """As `_take_place`, for one thread alone: the run counts as a block from here on."""
    with _lock:
        _refuse_if_ending(run)
        activation, is_new = _take_place(run)
        if activation.in_block:
            raise _is_open(run)
        activation.in_block = True
    return activation, is_new


def _is_open(run: RunApi) -> RunAlreadyActive:
    return RunAlreadyActive(
        f"run {run.name!r} ({run.id}) is open as a block already; inside it use the run itself, "
        "or start a child of it"
    )


def _check_not_over(run: RunApi) -> None:
    """Refuse to enter a run that is over, wherever it was ended, or a block that was left."""
    left = run.activation is not None and run.activation.over
    if left or _is_over(run):
        how = f"over ({run.status})" if run.status.is_over else "a block that was left"
        raise RunClosed(f"run {run.name!r} ({run.id}) is {how}; resume it first: `with run.resume():`")


def _is_over(run: RunApi) -> bool:
    """Whether a run is over, as the store knows it: this handle may not have heard of it."""
    if not run.status.is_over:
        known = run.api.services.runs.fetch(run.id)
        run.status, run.end_time = known.status, known.end_time
    return run.status.is_over


def _refuse_if_ending(run: RunApi) -> None:
    """Refuse a run that another thread is ending just now: the store may not have heard of it."""
    activation = _open.get(_key(run))
    if activation is not None and activation.is_own and activation.is_ending:
        raise _is_closed(run)


def _is_closed(run: RunApi) -> RunClosed:
    how = f"over already ({run.status})" if run.status.is_over else "being ended by another thread"
    return RunClosed(f"run {run.name!r} ({run.id}) is {how}; resume it to go on")


def leave(run: RunApi, error: BaseException | None) -> None:
    """Leave a block: the run ends as `error` says, unless it was ended inside or belongs to another process.

    An error of ending it is logged rather than raised when the block is left by an exception of its own.
    """
    activation = _leave_context(run)
    if activation is None:
        return
    try:
        _end(run, status_after(error), activation)
    except Exception as exc:
        if error is None:
            raise
        _log_failure(run, exc)  # raised, it would hide the block's own exception


async def leave_async(run: RunApi, error: BaseException | None) -> None:
    """As `leave`, with the waiting off the event loop."""
    activation = _leave_context(run)
    if activation is None:
        return
    # Handed to a thread here and now, and shielded: a task of its own would be cancelled before its first
    # step when the loop shuts down, and the run stay open.
    loop = asyncio.get_running_loop()
    ending = loop.run_in_executor(None, _end, run, status_after(error), activation)
    try:
        await asyncio.shield(ending)
    except Exception as exc:
        if error is None:
            raise
        _log_failure(run, exc)  # raised, it would hide the block's own exception


def _leave_context(run: RunApi) -> Activation | None:
    """Remove a block's run from the context; returns its activation if it is still to be ended here."""
    activation = run.activation
    if activation is None:
        return None
    is_to_end = _claim(activation)
    if activation.is_own:
        signals.block_closed()
    return activation if is_to_end else None


def _log_failure(run: RunApi, exc: Exception) -> None:
    # Of a failure that withrun does not name, the message alone may say too little.
    trace = None if isinstance(exc, WithrunError) else exc
    logger.error("run %r (%s) could not be ended: %s", run.name, run.id, exc, exc_info=trace)


def _claim(activation: Activation) -> bool:
    """Remove a run from the context; whether it is the caller's to end: this process's, and open till now."""
    with _lock:
        is_to_end = not activation.over and activation.is_own
        context.deactivate(activation)
        activation.is_ending = activation.is_ending or is_to_end
    return is_to_end


def status_after(error: BaseException | None) -> RunStatus:
    """The status of a run whose block was left by that exception, or by none."""
    match error:
        case None | GeneratorExit():
            return RunStatus.FINISHED
        case KeyboardInterrupt() | asyncio.CancelledError() | signals.Terminated():
            return RunStatus.KILLED
        case SystemExit(code=None | 0):
            return RunStatus.FINISHED
    return RunStatus.FAILED


# --- ending ---


def end(run: RunApi, status: RunStatus) -> None:
    """End a run, whoever started it.

    Raises:
        RunClosed: it is over.
    """
    activation, is_new = _take_end(run)
    if is_new:
        try:
            if _is_over(run):
                raise _is_closed(run)
        except BaseException:
            _forget(activation)
            raise
    _end(run, status, activation)


def _take_end(run: RunApi) -> tuple[Activation, bool]:
    """A run's activation for one thread alone to end, and whether it was made for that just now."""
    with _lock:
        _refuse_if_ending(run)
        activation, is_new = _take_place(run)
        _claim(activation)
    return activation, is_new


def _end(run: RunApi, status: RunStatus, activation: Activation) -> None:
    activation.ends_as = status
    try:
        end_time = from_milliseconds(run.api.services.runs.end(run.id, status))
        for handle in (run, activation.run):
            handle.status = status
            handle.end_time = end_time
            handle.follow()
        _forget(activation)
    except Exception:
        # A failure, which the caller hears of. An interrupt leaves the run to be ended at exit.
        _forget(activation)
        raise
    finally:
        activation.is_ending = False


def _forget(activation: Activation) -> None:
    """Give up a run's place, unless another activation has taken it since."""
    with _lock:
        if _open.get(_key(activation.run)) is activation:
            del _open[_key(activation.run)]


def _own_activation(run: RunApi) -> Activation | None:
    """The open activation that this process owns of a run, whichever handle it was started by."""
    activation = _open.get(_key(run))
    if activation is None or activation.over or not activation.is_own:
        return None
    run.adopt(activation)
    return activation


def end_left_open_by_cell(api: BaseMlflowApi) -> None:
    """End the runs that an earlier execution of this notebook cell left open, with a notice."""
    cell = current_cell()
    if cell is None:
        return
    for activation in list(_open.values()):
        left_open = activation.is_own and not activation.in_block and cell.is_rerun_of(activation.cell)
        if left_open and activation.api.store_uri == api.store_uri:
            run = activation.run
            end(run, RunStatus.FINISHED)
            print(  # noqa: T201 - addressed to the person at the notebook
                f"withrun: this cell had left run {run.name!r} ({run.id}) open; it is FINISHED now",
                file=sys.stderr,
            )


# --- closing an API, interpreter exit and fork ---


def refuse_open_blocks(api: BaseMlflowApi) -> None:
    """Refuse to close an API while a block of this process, in whichever thread, still needs it to end.

    Raises:
        RunAlreadyActive: names the block's run.
    """
    for activation in list(_open.values()):
        if activation.api is api and activation.is_own and activation.in_block and not activation.over:
            run = activation.run
            raise RunAlreadyActive(
                f"run {run.name!r} ({run.id}) is open as a block, and is ended by this API: leave the block "
                "before the API is closed"
            )


def end_handles(api: BaseMlflowApi, error: BaseException | None = None) -> None:
    """End the runs of an API that this process holds open as handles, as `error` says.

    All are tried. What fails is raised at last, or logged if `error` is on its way already.
    """
    left_open = [a for a in list(_open.values()) if a.api is api and a.is_own and not a.is_ending]
    failures = []
    for activation in left_open:
        was_interrupted = activation.over
        if _claim(activation) or was_interrupted:  # else another thread was quicker
            failure = _try_to_end(activation, activation.ends_as or status_after(error))
            failures += [] if failure is None else [(activation.run, failure)]
    for run, failure in failures[0 if error is not None else 1 :]:
        _log_failure(run, failure)
    if failures and error is None:
        raise failures[0][1]


def _try_to_end(activation: Activation, status: RunStatus) -> Exception | None:
    """End one of many; a failure is returned, because the others are still to be ended."""
    try:
        _end(activation.run, status, activation)
    except Exception as exc:  # noqa: BLE001 - handed to the caller
        return exc
    return None


def _end_all() -> None:
    """End what is still open at interpreter exit: handles as the program went, blocks never left KILLED.

    A program went well unless an exception ended it: Python tells no exit code here, so one that leaves by
    `sys.exit(3)` went well too. A block sees that exception, and ends FAILED.
    """
    crashed = None if is_interactive() else getattr(sys, "last_value", None)
    # In a child of multiprocessing, which comes here on the way out of its function.
    crashed = crashed or sys.exc_info()[1]
    for activation in list(_open.values()):
        if not activation.is_own or activation.api.is_closed:
            continue  # closing it was interrupted; the run's end is journaled
        killed = signals.was_terminated() or activation.in_block
        status = activation.ends_as or (RunStatus.KILLED if killed else status_after(crashed))
        _claim(activation)
        failure = _try_to_end(activation, status)
        if failure is not None:
            _log_failure(activation.run, failure)


before_closing(_end_all)


def _after_fork_in_child() -> None:
    # The parent's runs are not the child's to end; a lock that another thread held stays held: start anew.
    global _lock
    _open.clear()
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
