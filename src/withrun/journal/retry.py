"""Trying again: which failures pass by themselves, and how long to wait for that."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from withrun.errors import (
    FailedToPublishArtifact,
    ServerError,
    ServerUnreachable,
    TransferError,
    WithrunError,
)
from withrun.journal.gate import Gate

__all__ = ["Failing", "GaveUp", "Retry", "is_passing"]

logger = logging.getLogger("withrun.journal")

T = TypeVar("T")

_FIRST, _LONGEST = 0.2, 15.0
_CREDENTIALS = frozenset({401, 403, 407})
_PASSING = frozenset({408, 425, 429})
"""Statuses below 500 that say nothing against the record."""

LONGEST_ASKED = 60.0
"""Seconds of pause that a server can ask for, however many it says. It may be back earlier: a maintenance
page that says an hour must not hold a journal for one, and an attempt a minute is no load."""

TRANSFER_ATTEMPTS = 7
"""Attempts to transfer a file, over some ten seconds: whether the failure will pass can't be told from it."""


class GaveUp(Exception):
    """The server did not come back in the time allowed, or the journal is closing; nothing is lost."""


class Failing(Exception):
    """The server answers, and has failed at this very call for long: it may be the record's fault."""


def is_passing(error: WithrunError, *, renewable: bool = True) -> bool:
    """Whether the same call may succeed later: the server is away, overloaded or failing.

    So is one in whose place something else answers, whatever it says: a gateway whose servers are being
    replaced ("404 default backend"), a login page, a captive portal.

    Args:
        error: what the call raised.
        renewable: credentials that it does not take may be renewed meanwhile.
    """
    error = _cause(error)
    if isinstance(error, ServerUnreachable):
        return True
    if not isinstance(error, ServerError):
        return False
    if error.status is None or error.status in _PASSING:
        return True
    if error.status in _CREDENTIALS:
        return renewable
    return error.foreign or (error.status >= 500 and error.status != 501)


def _may_be_of_the_record(error: WithrunError) -> bool:
    """Whether a passing failure may be this record's alone: a bug of the server, a gateway that checks."""
    if not isinstance(error, ServerError) or error.status is None or error.status in _PASSING:
        return False
    return error.status == 500 or (error.foreign and error.status < 500)


def _cause(error: WithrunError) -> WithrunError:
    """What made publishing fail, where that is all that an error says."""
    cause = error.__cause__
    return cause if isinstance(error, FailedToPublishArtifact) and isinstance(cause, WithrunError) else error


class Retry:
    """Repeats calls with growing, jittered pauses; shared by all that deliver one journal.

    Attributes:
        successes: calls that went well; tells a poisoned record from a failing server.
        trouble: why the server could not be written to just now; None while it can.
        retries: calls that were repeated.

    Args:
        stop: set when the journal closes: ends every pause.
        kick: set by those who wait: ends a pause early, though not one that the server asked for.
        patience: seconds without any success after which to give up; None: never.
        renewable: wait for better credentials, too.
        gate: calls pass through it, so that a fork finds none under way.
    """

    def __init__(
        self,
        *,
        stop: threading.Event,
        kick: threading.Event,
        gate: Gate,
        patience: float | None = None,
        renewable: bool = True,
    ) -> None:
        self.stop = stop
        self.kick = kick
        self.gate = gate
        self.patience = patience
        self.renewable = renewable
        self.successes = 0
        self.retries = 0
        self.trouble: WithrunError | None = None

    def call(self, do: Callable[[], T], *, suspicion: float | None = None, gated: bool = True) -> T:
        """Call until it succeeds or is refused; raises what the server refuses.

        Args:
            do: the call; safe to be repeated.
            suspicion: seconds of failing answers after which to raise `Failing`; None: never.
            gated: a fork waits for it; False for what takes long and leaves nothing half done in this
            process.
        """
        if suspicion is not None and self.patience is not None:
            suspicion = min(suspicion, self.patience / 2)
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                with self.gate if gated else contextlib.nullcontext():
                    result = do()
            except WithrunError as error:  # noqa: PERF203 - beside a request, no cost
                transfer = isinstance(_cause(error), TransferError)
                if not is_passing(error, renewable=self.renewable):
                    if not transfer:
                        self._well()
                    if not transfer or attempt + 1 >= TRANSFER_ATTEMPTS:
                        raise
                # Transfers are bounded by themselves: one that never works must not hold up a recovery.
                waited = 0.0 if transfer else time.monotonic() - started
                if suspicion is not None and attempt and waited >= suspicion and _may_be_of_the_record(error):
                    raise Failing from error
                self._pause(error, attempt, waited)
                attempt += 1
            else:
                self._well()
                return result

    def _well(self) -> None:
        self.successes += 1
        if self.trouble is not None:
            self.trouble = None
            logger.info("delivery goes on")

    def _pause(self, error: WithrunError, attempt: int, waited: float) -> None:
        self.retries += 1
        if self.trouble is None:
            log = logger.warning if self.patience is None else logger.info
            log("delivery is held up just now; records are kept and sent later: %s", error)
        self.trouble = error
        asked = min(getattr(error, "retry_after", None) or 0.0, LONGEST_ASKED)
        pause = min(_LONGEST, _FIRST * 2 ** min(attempt, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
        if self.patience is not None:
            pause = min(pause, max(self.patience - waited, 0.0))  # the last attempt comes just in time
        if self.stop.is_set() or (self.patience is not None and waited + asked >= self.patience):
            raise GaveUp from error
        if asked and self.stop.wait(asked):
            raise GaveUp from error
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0 and not self.stop.is_set():
            # One attempt per wait that begins: then the pause counts again, so that many waiters make no
            # storm.
            if self.kick.wait(left):
                self.kick.clear()
                break
        if self.stop.is_set():
            raise GaveUp from error
