"""The gate that backend calls pass through, closed around a fork.

A child that is forked in the middle of a transaction inherits half of it: on sqlite such children hung. So
before a fork calls are parked, for a bounded time.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from types import TracebackType

__all__ = ["Gate", "was_forked_in_a_call"]

PARK_TIMEOUT = 5.0
"""Seconds that a fork waits for calls under way; past it the child only journals."""


class Gate:
    """Counts the calls under way; a context manager around each.

    The lock is re-entrant, for a signal handler may make a call, or fork, while its own thread passes
    through.
    """

    def __init__(self) -> None:
        self._reset()
        _gates.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._holders: dict[int, int] = {}
        self._parked = False

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            # A call within a call is let in: the fork waits for the outer one.
            while self._parked and me not in self._holders:
                self._changed.wait()
            self._holders[me] = self._holders.get(me, 0) + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        me = threading.get_ident()
        with self._changed:
            self._holders[me] -= 1
            if not self._holders[me]:
                del self._holders[me]
                self._changed.notify_all()

    def park(self, deadline: float) -> bool:
        """Let no more calls in and wait until none is under way; False if one still is at the deadline."""
        if not self._changed.acquire(timeout=max(deadline - time.monotonic(), 0.01)):
            return False
        try:
            self._parked = True
            # A handler that forks in the middle of its own thread's call would wait for itself.
            if threading.get_ident() in self._holders:
                return False
            return self._changed.wait_for(lambda: not self._holders, max(deadline - time.monotonic(), 0))
        finally:
            self._changed.release()

    def open(self) -> None:
        """Let calls in again."""
        with self._changed:
            self._parked = False
            self._changed.notify_all()

    def forget(self) -> None:
        """In a forked child: the threads that were inside are not here."""
        self._reset()


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()
_forks: dict[int, list[bool]] = {}
"""By thread, of each fork that it has under way, whether all gates could be parked for it.

Several, where a signal handler forks while its own thread is about to.
"""
_in_child_of_a_call = False


def was_forked_in_a_call() -> bool:
    """Whether this process was forked in the middle of a backend call: backends can't be trusted in it."""
    return _in_child_of_a_call


def _before_fork() -> None:
    mine = _forks.setdefault(threading.get_ident(), [])
    place = len(mine)
    mine.append(False)  # before the first gate closes: a fork that ends meanwhile leaves it closed
    deadline = time.monotonic() + PARK_TIMEOUT
    # A list, not a generator: each gate is closed, also behind one that can't be.
    parked = all([gate.park(deadline) for gate in list(_gates)])  # noqa: C419
    mine[place:] = [parked]


def _after_fork_in_parent() -> None:
    mine = _forks[threading.get_ident()]
    mine.pop()
    if not mine:
        del _forks[threading.get_ident()]
    if not _forks:  # else another thread's fork, or an outer one of this thread, still needs them closed
        for gate in list(_gates):
            gate.open()


def _after_fork_in_child() -> None:
    global _in_child_of_a_call
    mine = _forks.pop(threading.get_ident())
    _in_child_of_a_call = _in_child_of_a_call or not mine.pop()
    _forks.clear()
    if mine:
        # A handler forked while its thread was about to: the child returns into that, and forks on.
        _forks[threading.get_ident()] = mine
    for gate in list(_gates):
        gate.forget()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
