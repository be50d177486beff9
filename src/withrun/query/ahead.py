"""Calls made ahead of their need, in threads that nobody waits for at exit.

`ThreadPoolExecutor` joins its threads when the program ends: a loop over results that was left early would
hold up the exit until the page that was fetched ahead had come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")

_NAME: Final = "withrun-search"


class Ahead:
    """A few daemon threads that make calls.

    Args:
        most: threads; each is started when there is a call and no idle one for it.
    """

    def __init__(self, most: int) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._most = most
        self._threads = 0
        self._closed = False

    def submit(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        """Make a call as soon as a thread is free for it."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call(*arguments))
            except BaseException as error:  # noqa: BLE001 - raised to whoever asks for the result
                future.set_exception(error)

        self._calls.put(run)
        if not self._idle.acquire(blocking=False) and self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._work, name=f"{_NAME}-{self._threads}", daemon=True).start()
        return future

    def close(self) -> None:
        """Drop the calls that wait, and let the threads end; those under way are not waited for."""
        self._closed = True
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (run := self._calls.get()) is not None and not self._closed:
            run()
            del run  # and with it the page, before waiting
            self._idle.release()
