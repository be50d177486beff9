"""Doing many small things at once, and stopping all of them when one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["WORKERS", "Check", "for_each"]

WORKERS = 8
"""Threads a transfer; also what one server is asked for at a time."""

T = TypeVar("T")
R = TypeVar("R")

Check = Callable[[], None]
"""Raises in a worker whose siblings have failed or were interrupted; called between chunks.

Requests carry it as their extension `check`: the provider's client calls it while it waits for a server.
"""


class _Stopped(BaseException):
    """Unwinds a worker; never leaves `for_each`."""


def for_each(function: Callable[[T, Check], R], items: Sequence[T]) -> list[R]:
    """Call `function(item, check)` for every item, on up to `WORKERS` threads; return the results in order.

    The first exception, also a KeyboardInterrupt of the caller, ends the others at their next `check()`
    and is raised once they have ended: nothing goes on behind the caller's back. One item needs no thread.
    """
    if len(items) <= 1:
        return [function(item, lambda: None) for item in items]
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise _Stopped

    with ThreadPoolExecutor(min(WORKERS, len(items)), thread_name_prefix="withrun-transfer") as pool:
        futures = [pool.submit(function, item, check) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((future for future in futures if future in done and future.exception()), None)
            if failed is not None:
                failed.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]
