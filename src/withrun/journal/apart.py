"""Runs set apart: each waits for another journal, and nothing else waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from withrun.errors import JournalError
from withrun.journal.position import Position

__all__ = ["Apart", "Behind", "StartedElsewhere"]

_FIRST_LOOK, _LONGEST = 0.1, 1.0
"""Seconds between looks at whether a run can go on."""

STUCK = 10.0
"""Seconds after which a run that nobody delivers the start of is not expected to go on soon."""


class Behind(JournalError):
    """A run can't go on before another journal was delivered."""


class StartedElsewhere(Behind):
    """A run can't go on before another journal was delivered, which starts it, its parent or its experiment.

    Attributes:
        kind: `run` or `experiment`.
        local_id: what that started as.
    """

    def __init__(self, kind: str, local_id: str, where: str) -> None:
        super().__init__(
            f"{kind} {local_id} started without the server and has not been delivered yet: {where}"
        )
        self.kind = kind
        self.local_id = local_id


class _Run:
    __slots__ = ("since", "start", "waits", "why")

    def __init__(self, start: Position, why: Behind) -> None:
        self.start = start
        self.why = why
        self.since = time.monotonic()
        self.waits = True


class Apart:
    """The runs of a live journal that can't go on, which takes a few words of memory each.

    Their records stay in the journal, which is not acknowledged past the first of them, and are read again
    when they can be delivered. Filled by the threads that deliver; all else is the drain's own thread's.

    Attributes:
        window: where the window begins that is being delivered.
    """

    def __init__(self, window: Position) -> None:
        self.window = window
        self._runs: dict[int, _Run] = {}
        self._pause = _FIRST_LOOK
        self._next_look = 0.0

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __contains__(self, no: object) -> bool:
        """Whether a run's records are to be passed over."""
        run = self._runs.get(no) if isinstance(no, int) else None
        return run is not None and run.waits

    def add(self, no: int, why: Behind) -> None:
        """Set a run apart from the window on that is being delivered."""
        self._runs[no] = _Run(self.window, why)
        self._pause = _FIRST_LOOK

    def acknowledged(self, done: Position) -> Position:
        """Up to where the journal is delivered whole, if all but these runs are up to `done`."""
        return min([done, *(run.start for run in self._runs.values())])

    def why(self, no: int | None = None) -> Behind | None:
        """What a run, or any, waits for; None if it does not."""
        runs = list(self._runs.values()) if no is None else filter(None, [self._runs.get(no)])
        return next((run.why for run in runs), None)

    def is_stuck(self, no: int | None = None) -> bool:
        """Whether a run, or any, has been waiting for long."""
        runs = list(self._runs.values()) if no is None else filter(None, [self._runs.get(no)])
        return any(run.waits and time.monotonic() - run.since >= STUCK for run in runs)

    def moved(self) -> None:
        """What runs wait for is being delivered: they are not stuck."""
        for run in list(self._runs.values()):
            run.since = time.monotonic()

    # --- going on ---
    def is_time(self) -> bool:
        """Whether to look now; seldom, if all wait for long."""
        now = time.monotonic()
        if not self._runs or now < self._next_look:
            return False
        self._next_look = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST)
        return True

    def able(self, is_there: Callable[[Behind], bool]) -> list[int]:
        """The runs that can go on, in the order in which they were set apart."""
        return [no for no, run in list(self._runs.items()) if not run.waits or is_there(run.why)]

    def begin(self, no: int) -> Position:
        """Pass over a run no more; returns from where on its records are to be delivered."""
        run = self._runs[no]
        run.waits = False
        return run.start

    def delivered(self, numbers: Collection[int], end: Position) -> None:
        """Note that runs were delivered up to there, unless they were set apart again."""
        for no in numbers:
            run = self._runs[no]
            if not run.waits:
                run.start = end

    def end(self, no: int) -> None:
        """Forget a run, which is delivered as far as all others, unless it was set apart again."""
        if not self._runs[no].waits:
            del self._runs[no]
