"""When an offline journal is let go of, so that `sync` can deliver it while its process goes on."""

from __future__ import annotations

import _thread
import contextlib
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from withrun.journal.position import Position

__all__ = ["Hold", "Users"]

AT_ONCE = 8
"""Times that a journal in which no run is open is let go of after a record. A loop that goes on logging to
runs that are over would make a journal of each of its records."""

_PAUSE, _LONGEST = 1.0, 60.0
"""Seconds without a record after which it is let go of from then on, at first and at last."""


class Hold:
    """Keeps a journal open: inside its block, or as long as it lives."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def __enter__(self) -> None:
        """Nothing: it holds already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users.released(self)


class Users:
    """Those who need an offline journal to stay open; it is let go of once there are none.

    Attributes:
        runs: the runs that are open in this process.

    Args:
        let_go: lets go of the journal unless somebody needs it, or it has moved from a position; returns
            where it stands if it is still open.
    """

    def __init__(self, let_go: Callable[[Position | None], Position | None]) -> None:
        self.runs: set[str] = set()
        self._holds: weakref.WeakSet[Hold] = weakref.WeakSet()
        self._let_go = let_go
        self._times = 0
        self._timer: threading.Event | None = None

    def __bool__(self) -> bool:
        return bool(self.runs or self._holds)

    def hold(self) -> Hold:
        """Have the journal stay open while several things are done that belong together."""
        hold = Hold(self)
        self._holds.add(hold)
        return hold

    def released(self, hold: Hold) -> None:
        """End a hold before its time."""
        self._holds.discard(hold)
        self.look()

    def ended(self, run: str) -> None:
        """A run is over, or was not begun."""
        self.runs.discard(run)
        self._times = 0
        self.look()

    def look(self) -> None:
        """Let go now if nobody needs the journal, else when that is so."""
        at = self._let_go(None)
        if at is not None:
            self.look_later(at)

    def written(self, at: Position) -> None:
        """A record was written, up to there."""
        if self._times < AT_ONCE and not self:
            self._times += 1
            self.look()
        else:
            self.look_later(at)

    def look_later(self, at: Position) -> None:
        """Let go after a while in which nothing comes."""
        if self.runs or self._timer is not None:
            return  # the end of the last run, or the look that is due, sees to it
        pause = min(_PAUSE * 2 ** max(self._times - AT_ONCE, 0), _LONGEST)
        self._timer = threading.Event()
        with contextlib.suppress(RuntimeError):  # the interpreter is exiting, which closes the journal
            # Not by `threading`: a signal handler may fork right here, and the child would wait for ever for
            # its thread to say that it has begun.
            _thread.start_new_thread(self._look_again, (at, pause, self._timer))

    def _look_again(self, before: Position, pause: float, timer: threading.Event) -> None:
        if timer.wait(pause):
            return
        self._timer = None
        at = self._let_go(before)
        if at is not None:
            self.look_later(at)
        elif self._times < 100:
            self._times += 1

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.set()
