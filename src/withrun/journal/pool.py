"""A few threads that deliver several runs side by side."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

__all__ = ["Pool"]


class Pool:
    """Runs jobs in its own daemon threads and in the caller's.

    `concurrent.futures` won't do: its threads take no more work once the interpreter has begun to exit, which
    is when the last records are delivered.
    """

    def __init__(self, threads: int) -> None:
        self._wanted = threads - 1
        self._threads: list[threading.Thread] = []
        self._tickets: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(self, jobs: list[Callable[[], None]]) -> None:
        """Run all jobs, return when all are done; the first error is raised then."""
        self._start(min(self._wanted, len(jobs) - 1))
        todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for job in jobs:
            todo.put(job)
        errors: list[BaseException] = []
        done = threading.Semaphore(0)

        def work() -> None:
            try:
                while not errors:
                    todo.get_nowait()()
            except queue.Empty:
                pass
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread, below
                errors.append(error)
            finally:
                done.release()

        helpers = min(len(self._threads), len(jobs) - 1)
        for _ in range(helpers):
            self._tickets.put(work)
        work()
        for _ in range(helpers + 1):
            done.acquire()
        if errors:
            raise errors[0]

    def _start(self, threads: int) -> None:
        while len(self._threads) < threads:
            thread = threading.Thread(target=self._serve, name="withrun-delivery", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # No new threads at interpreter exit: the caller's own does the work.
                return
            self._threads.append(thread)

    def _serve(self) -> None:
        while (work := self._tickets.get()) is not None:
            work()

    def close(self) -> None:
        """End the threads once they are idle."""
        for _ in self._threads:
            self._tickets.put(None)
        self._threads.clear()
