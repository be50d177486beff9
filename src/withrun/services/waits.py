"""Waiting until a store has what was logged, and telling what it has not, or would not take."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from withrun.errors import JournalError, Refused, ServerUnreachable, WithrunError
from withrun.services.starting import server_id_of

if TYPE_CHECKING:
    from withrun.journal import Journal, RunLog
    from withrun.journal.background import BackgroundRecovery
    from withrun.journal.refused import Refusal

__all__ = ["Waits", "raise_refused", "wait_for_recovery"]

_ONE_ATTEMPT = 1.0
"""Seconds that a server gets which did not answer before."""

_SHOWN_REFUSALS = 5
"""Refusals that an error spells out; all are in the log and kept aside."""


class Waits:
    """The waits of one API for its journal.

    Args:
        journal: delivers what is waited for.
        connect_timeout: seconds that a read waits for a server that is away.
        exit_timeout: seconds without progress after which the others give up; None: never.
    """

    def __init__(self, journal: Journal, connect_timeout: float, exit_timeout: float | None) -> None:
        self._journal = journal
        self._connect_timeout = connect_timeout
        self._exit_timeout = exit_timeout

    def confirm(self, log: RunLog) -> None:
        """Return once the store has all that was logged to a run.

        Raises:
            ServerUnreachable: it can't be delivered now; it is kept, and will be.
            Refused: the store refused some of it.
        """
        if not _is_there(log.wait, self._exit_timeout):
            raise self._undelivered(f"what was logged to run {log.run_id}")
        raise_refused(self._journal, log)

    def flush(self, log: RunLog | None, timeout: float | None) -> None:
        """Return once the store has all that was logged to a run, or to all.

        Raises:
            TimeoutError: it has not after `timeout` seconds.
            JournalError: this process can't deliver it.
        """
        done = self._journal.flush(timeout) if log is None else log.wait(timeout=timeout)
        if not done:
            raise self._late(timeout)

    def show(self, run_id: str | None) -> None:
        """Wait until a read from the store shows what was logged, to one run or to all.

        Raises:
            ServerUnreachable: the server is away for `connect_timeout`, or takes nothing for `exit_timeout`.
        """
        journal = self._journal
        if run_id is None:
            # What waits for other journals is of runs that the store does not know.
            if not self._shows(partial(journal.flush, apart=False)):
                raise self._undelivered("what was logged")
            return
        log = journal.known(run_id)
        if log is None or (server_id_of(journal, log) is None and journal.is_apart(log)):
            return
        if not self._shows(log.wait) and log.server_id is not None:  # else it is read from the journal
            raise self._undelivered(f"what was logged to run {run_id}")

    def _shows(self, wait: Callable[..., bool]) -> bool:
        if _is_there(wait, self._connect_timeout):
            return True
        # Without trouble it is on its way: a large artifact, say.
        return self._journal.held_up is None and wait(exit_timeout=self._exit_timeout)

    def _late(self, timeout: float | None) -> Exception:
        store, why = self._journal.store_uri, self._why()
        if timeout is None:
            return JournalError(f"this process can't deliver what was logged to {store}{why}; it is kept")
        return TimeoutError(
            f"what was logged is not all on {store} after {timeout:g} s{why}; nothing is lost, and it stays "
            "to be delivered"
        )

    def _undelivered(self, what: str) -> WithrunError:
        return ServerUnreachable(
            f"{what} is not on {self._journal.store_uri} yet{self._why()}; nothing is lost, and it is "
            "delivered once the server takes it"
        )

    def _why(self) -> str:
        reason = self._journal.held_up
        return f" ({reason})" if reason is not None else ""


def wait_for_recovery(
    recovery: BackgroundRecovery, store_uri: str, timeout: float | None, started: float
) -> None:
    """Return once what earlier processes left was dealt with.

    Raises:
        TimeoutError: it is not, `timeout` seconds after `started`.
    """
    left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
    if not recovery.wait(left):
        raise TimeoutError(
            f"what earlier processes logged is not all on {store_uri} after {timeout:g} s; nothing is lost, "
            "and it stays to be delivered"
        )


def raise_refused(journal: Journal, log: RunLog | None) -> None:
    """Raise what was refused of a run, or of all, and was not told yet."""
    refusals: list[Refusal] = journal.take_refusals(log)
    if not refusals:
        return
    shown = "\n".join(
        f"  {each.call} of run {each.run_id}: {each.reason}" for each in refusals[:_SHOWN_REFUSALS]
    )
    more = f"\n  and {len(refusals) - _SHOWN_REFUSALS} more" if len(refusals) > _SHOWN_REFUSALS else ""
    raise Refused(
        f"{journal.store_uri} refused {len(refusals)} of the values that were logged; all others are there,"
        f" and these are kept in {journal.refused_folder}:\n{shown}{more}",
        tuple(refusals),
    )


def _is_there(wait: Callable[..., bool], patience: float | None) -> bool:
    """Wait for delivery, at least for one attempt: patience may be spent, and the server back since."""
    return wait(exit_timeout=patience) or (patience is not None and wait(timeout=min(_ONE_ATTEMPT, patience)))
