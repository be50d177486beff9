"""How a run becomes active, is entered and left, and ends: the rules of sessions.

The stack of active runs is the context's (`withrun.context`). What is kept here is which open runs are this
process's own, so that each is ended once, also at interpreter exit.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

from withrun import context, signals
from withrun.context import Activation
from withrun.errors import RunAlreadyActive, RunClosed, WithrunError
from withrun.handles.notebook import current_cell
from withrun.schema import RunStatus
from withrun.services.entities import from_milliseconds

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi
    from withrun.handles.run import RunApi

__all__ = [
    "check_may_start",
    "end",
    "end_left_open_by_cell",
    "enter",
    "leave",
    "make_active",
    "open_handle",
    "resume",
    "status_after",
]

logger = logging.getLogger("withrun")

_open: dict[tuple[int, str], Activation] = {}
"""Open runs that this process owns, by the identity of their API and their ID."""

_lock = threading.Lock()  # two threads may enter, or end, one run at once


def _key(run: RunApi) -> tuple[int, str]:
    return id(run.api), run.id


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
    activation = _own_activation(run)
    check_may_start(run.api, run)
    if activation is not None:
        context.activate(activation)
        return
    end_left_open_by_cell(run.api)
    run.api.services.runs.set_running(run.id)
    run.status, run.end_time = RunStatus.RUNNING, None
    run.adopt(make_active(run))


def open_handle(api: BaseMlflowApi, run_id: str) -> RunApi | None:
    """The handle by which this process holds a run open, or None."""
    activation = _open.get((id(api), run_id))
    return activation.run if activation is not None and activation.is_own else None


# --- blocks ---


def enter(run: RunApi) -> None:
    """Enter a run as a block.

    Raises:
        RunAlreadyActive: it is open as a block already, or unrelated to the block around.
        RunClosed: it is over.
    """
    activation = _own_activation(run)
    if activation is not None and activation.in_block:
        raise _is_open(run)
    if activation is None:
        _check_not_over(run)
        check_may_start(run.api, run)
        if run.status is not RunStatus.RUNNING:
            run.api.services.runs.set_running(run.id)
            run.status = RunStatus.RUNNING
        activation = make_active(run)
        run.adopt(activation)
    else:
        check_may_start(run.api, run)
    with _lock:
        if activation.in_block:  # another thread was quicker
            raise _is_open(run)
        activation.in_block = True
    context.activate(activation)
    signals.block_opened()


def _is_open(run: RunApi) -> RunAlreadyActive:
    return RunAlreadyActive(
        f"run {run.name!r} ({run.id}) is open as a block already; inside it use the run itself, "
        "or start a child of it"
    )


def _check_not_over(run: RunApi) -> None:
    """Refuse a run that is over, wherever it was ended: this handle may not have heard of it."""
    left = run.activation is not None and run.activation.over
    if not left and not run.status.is_over:
        known = run.api.services.runs.fetch(run.id)
        run.status, run.end_time = known.status, known.end_time
    if left or run.status.is_over:
        how = f"over ({run.status})" if run.status.is_over else "a block that was left"
        raise RunClosed(f"run {run.name!r} ({run.id}) is {how}; resume it first: `with run.resume():`")


def leave(run: RunApi, error: BaseException | None) -> None:
    """Leave a block: the run ends as `error` says, unless it was ended inside or belongs to another process.

    An error of ending it is logged rather than raised when the block is left by an exception of its own.
    """
    activation = _leave_context(run)
    if activation is None:
        return
    try:
        _end(run, status_after(error), activation)
    except WithrunError as exc:
        if error is None:
            raise
        logger.error("run %r (%s) could not be ended: %s", run.name, run.id, exc)


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
    except WithrunError as exc:
        if error is None:
            raise
        logger.error("run %r (%s) could not be ended: %s", run.name, run.id, exc)


def _leave_context(run: RunApi) -> Activation | None:
    """Remove a block's run from the context; returns its activation if it is still to be ended here."""
    activation = run.activation
    if activation is None:
        return None
    is_to_end = _claim(activation)
    if activation.is_own:
        signals.block_closed()
    return activation if is_to_end else None


def _claim(activation: Activation) -> bool:
    """Remove a run from the context; whether it is the caller's to end: this process's, and open till now."""
    with _lock:
        was_over = activation.over
        context.deactivate(activation)
    return not was_over and activation.is_own


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
    activation = _own_activation(run)
    if activation is None or not _claim(activation):
        _check_may_end(run)
    _end(run, status, activation)


def _check_may_end(run: RunApi) -> None:
    """Refuse to end a run that is over, wherever it was ended."""
    if not run.status.is_over:
        known = run.api.services.runs.fetch(run.id)
        run.status, run.end_time = known.status, known.end_time
    if run.status.is_over:
        raise RunClosed(f"run {run.name!r} ({run.id}) is over already ({run.status}); resume it to go on")


def _end(run: RunApi, status: RunStatus, activation: Activation | None) -> None:
    if activation is not None:
        activation.ends_as = status
    try:
        end_time = from_milliseconds(run.api.services.runs.end(run.id, status))
    except Exception:
        # A failure, which the caller hears of. An interrupt leaves the run to be ended at exit.
        _open.pop(_key(run), None)
        raise
    _open.pop(_key(run), None)
    for handle in (run, activation.run if activation else run):
        handle.status = status
        handle.end_time = end_time


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
        left_open = activation.is_own and not activation.in_block and cell.ran_before_as(activation.cell)
        if left_open and activation.api.store_uri == api.store_uri:
            run = activation.run
            end(run, RunStatus.FINISHED)
            print(  # noqa: T201 - addressed to the person at the notebook
                f"withrun: this cell had left run {run.name!r} ({run.id}) open; it is FINISHED now",
                file=sys.stderr,
            )


# --- interpreter exit and fork ---


def _end_all() -> None:
    """End what is still open at interpreter exit: handles as the program went, blocks never left KILLED."""
    crashed = None if hasattr(sys, "ps1") or "IPython" in sys.modules else getattr(sys, "last_value", None)
    for activation in list(_open.values()):
        if not activation.is_own:
            continue
        run = activation.run
        killed = signals.was_terminated() or activation.in_block
        status = activation.ends_as or (RunStatus.KILLED if killed else status_after(crashed))
        try:
            _claim(activation)
            _end(run, status, activation)
        except WithrunError as exc:
            logger.error("run %r (%s) could not be ended at exit: %s", run.name, run.id, exc)


atexit.register(_end_all)


def _after_fork_in_child() -> None:
    # The parent's runs are not the child's to end; a lock that another thread held stays held: start anew.
    global _lock
    _open.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
