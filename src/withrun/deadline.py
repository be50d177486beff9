"""Deadlines: how long a caller waits for the store, whatever each call of its may take.

A call's own timeout is generous, because a store may be slow at large answers. Who only wants to know soon
whether the store is there, such as a run that is to start, makes its calls within a deadline.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator

__all__ = ["time_left", "within"]


class _Deadline(threading.local):
    # Of a thread, not of a context: a call blocks its thread, and no task runs in between.
    at = math.inf


_deadline = _Deadline()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Have this thread's calls in the block end that long after its start; of nested ones the earliest holds.

    A call that is made past it still gets a moment. An embedded store, behind no network, knows no deadlines.
    """
    before = _deadline.at
    _deadline.at = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.at = before


def time_left() -> float:
    """Seconds until this thread's deadline: infinite without one, never negative."""
    return max(_deadline.at - time.monotonic(), 0.0)
