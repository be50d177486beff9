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

_POLL = 0.001
"""Seconds between looks at a gate; only forks, and calls beside them, ever look twice."""


class Gate:
    """Counts the calls under way; a context manager around each.

    There is no lock in it: one could be held by a thread that a forked child does not have, or by the very
    call that a signal handler interrupts to fork. A call notes itself and then looks whether the gate is
    closed, a fork closes it and then looks for calls: whichever comes second sees the other.
    """

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._parked = False
        _gates.add(self)

    def __enter__(self) -> None:
        me = threading.get_ident()
        outer = self._holders.get(me, 0)
        self._holders[me] = outer + 1
        # A call within a call, be it through another gate, is let in: the fork waits for the outer one.
        while self._parked and not outer and not self._is_within_another(me):
            self._holders.pop(me, None)
            time.sleep(_POLL)
            self._holders[me] = 1

    def _is_within_another(self, thread: int) -> bool:
        return any(thread in gate._holders for gate in list(_gates) if gate is not self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        me = threading.get_ident()
        # Empty where a handler has forked in the middle of a call: the child's gates know of none.
        left = self._holders.pop(me, 1) - 1
        if left:
            self._holders[me] = left

    def park(self, deadline: float) -> bool:
        """Let no more calls in and wait until none is under way; False if one still is at the deadline."""
        self._parked = True
        # A handler that forks in the middle of its own thread's call would wait for itself.
        while self._holders and threading.get_ident() not in self._holders:
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        return not self._holders

    def open(self) -> None:
        """Let calls in again."""
        self._parked = False

    def forget(self) -> None:
        """In a forked child: the threads that were inside are not here."""
        self._holders.clear()
        self._parked = False


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
