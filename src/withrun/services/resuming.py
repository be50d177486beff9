"""Resuming a run: it is this process's, and RUNNING, after all that was logged to it before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from withrun.errors import ServerUnreachable, WithrunError
from withrun.journal.creation import OWNER_TAG
from withrun.journal.retry import is_passing
from withrun.schema import RunStatus

if TYPE_CHECKING:
    from withrun.journal import Journal, RunLog

__all__ = ["resume"]


def resume(
    journal: Journal,
    log: RunLog,
    set_running: Callable[[str], None] | None,
    connect_timeout: float,
    exit_timeout: float | None,
) -> None:
    """Answer for the end of a run from now on, and have it RUNNING.

    What dead processes logged to it, and no process holds any more, is waited for as long as it is being
    delivered. Where nobody can deliver it just now, the run is resumed in the journal, and on the server
    later.

    Args:
        journal: this process's.
        log: the run; what was logged to it here is on the server.
        set_running: given its value, sets the ownership tag, and RUNNING, on the server: the caller hears of
            what is wrong. None: the server does not know the run, or is not to be asked.
        connect_timeout: seconds to wait for a server that is away.
        exit_timeout: seconds without progress after which others are not waited for any more; None: never.

    Raises:
        ServerUnreachable: what comes first can't be delivered, because the server is away.
    """
    is_next = set_running is not None and _is_next(journal, log, connect_timeout, exit_timeout)
    owner = journal.owned.take_over(log)
    is_sent = False
    try:
        # Whoever had it may have died between the two: then its recovery is waited for, too.
        if set_running is None or not is_next or not _is_next(journal, log, connect_timeout, exit_timeout):
            log.tags({OWNER_TAG: owner})
            log.status(RunStatus.RUNNING.value)
            return
        is_sent = True
        set_running(owner)
    except BaseException as error:
        if is_sent and isinstance(error, WithrunError) and is_passing(error):
            journal.owned.leave_to_recovery(log)  # the server may have it all the same
        else:
            journal.owned.give_back(log)
        raise


def _is_next(journal: Journal, log: RunLog, connect_timeout: float, exit_timeout: float | None) -> bool:
    """Whether all is delivered that was logged to a run before; waits for it."""
    if journal.await_turn(log, connect_timeout):
        return True
    trouble = journal.held_up
    if trouble is not None and is_passing(trouble):
        raise ServerUnreachable(
            f"run {log.run_id} can't be resumed yet: what was logged to it before is not on "
            f"{journal.store_uri} ({trouble})"
        )
    return journal.await_turn(log, exit_timeout)
