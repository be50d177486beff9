"""The gate that backend calls pass through, closed around a fork.

A child that is forked in the middle of a transaction inherits half of it: on sqlite such children hung. So
before a
fork calls are parked, for a bounded time.
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
_parked: list[Gate] = []
_all_parked = True
_in_child_of_a_call = False


def was_forked_in_a_call() -> bool:
    """Whether this process was forked in the middle of a backend call: backends can't be trusted in it."""
    return _in_child_of_a_call


def _before_fork() -> None:
    global _all_parked
    deadline = time.monotonic() + PARK_TIMEOUT
    _parked[:] = list(_gates)
    # A list, not a generator: each gate is closed, also behind one that can't be.
    _all_parked = all([gate.park(deadline) for gate in _parked])  # noqa: C419


def _after_fork_in_parent() -> None:
    for gate in _parked:
        gate.open()
    _parked.clear()


def _after_fork_in_child() -> None:
    global _in_child_of_a_call
    _in_child_of_a_call = _in_child_of_a_call or not _all_parked
    for gate in _parked:
        gate.forget()
    _parked.clear()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
