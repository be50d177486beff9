"""Waiting for delivery: progress is told by those who deliver, and waited for by those who log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from withrun.journal.drain import Drain

__all__ = ["Progress"]

_ONE_ATTEMPT = 1.0
"""Seconds that delivery gets in any case, unless it is known to be in trouble."""

_CHECK = 0.25
"""Seconds between looks at whether the drain is still alive."""


class Progress:
    """How delivery moves on.

    Attributes:
        changed: guards what is told and waited for.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._waited_since: float | None = None

    def moved(self) -> None:
        """Tell those who wait; to be called with `changed` held."""
        self._waited_since = None
        self.changed.notify_all()

    def be_impatient(self) -> None:
        """Spend the patience of all who wait until the next progress: the user does not want to."""
        self._waited_since = float("-inf")

    def wait(
        self,
        settled: Callable[[], bool],
        drain: Drain | None,
        *,
        exit_timeout: float | None,
        timeout: float | None,
        tell: Callable[[], None] | None = None,
    ) -> bool:
        """Wait until `settled`; tells whether it is.

        Args:
            settled: what is waited for.
            drain: the one that delivers; None: nobody does.
            exit_timeout: give up after so many seconds without progress, though not before one attempt was
                made; None: never. All who wait share them: while nothing moves, the fiftieth run that is left
                waits no fifty times as long.
            timeout: give up after so many seconds in any case; None: never.
            tell: called now and then meanwhile, to show how it goes on.

        Raises:
            JournalError: the drain has died.
        """
        if settled():
            return True
        if drain is None:
            return False
        started = time.monotonic()
        with drain.hurry(), self.changed:
            while not settled():
                drain.check()
                now = time.monotonic()
                left = _CHECK
                if timeout is not None:
                    left = min(left, started + timeout - now)
                if exit_timeout is not None:
                    if self._waited_since is None:
                        self._waited_since = now
                    patience = exit_timeout if drain.trouble else max(exit_timeout, _ONE_ATTEMPT)
                    left = min(left, self._waited_since + patience - now)
                if left <= 0:
                    return False
                self.changed.wait(left)
                if tell is not None:
                    tell()
        return True
