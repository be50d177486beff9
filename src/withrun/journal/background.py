"""BackgroundRecovery: while a program does its own work, what dead ones left for its store is delivered."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from withrun.backend import Backend
from withrun.errors import JournalError, WithrunError
from withrun.journal.disk import OwnerLock
from withrun.journal.folder import JournalFolder, journals_in, store_folder_of
from withrun.journal.gate import Gate
from withrun.journal.leftovers import some_are_free
from withrun.journal.publisher import Publisher
from withrun.journal.recovery import Recovered, recover
from withrun.journal.retry import Retry

__all__ = ["BackgroundRecovery"]

logger = logging.getLogger("withrun.journal")

CALL_TIMEOUT = 5.0
"""Seconds that stopping waits for a call under way."""

_Key = tuple[str, str]


class BackgroundRecovery:
    """One API's part in the recovery of its store's journals, which the process does once at a time.

    A thread with a backend of its own delivers them, and waits for a server that is away for as long as
    somebody wants it. Journals of living processes are not touched. A forked child has no part in it.

    Args:
        journal_dir: holds the journals of all stores.
        store_uri: the store, normalised and without credentials.
        connect: makes a backend, which is closed when all is done.
        publisher_factory: makes what publishes artifacts and versions by that backend.
        threads: runs delivered side by side.
    """

    def __init__(
        self,
        journal_dir: Path,
        store_uri: str,
        connect: Callable[[], Backend],
        publisher_factory: Callable[[Backend], Publisher] | None = None,
        threads: int = 4,
    ) -> None:
        self._journal_dir = journal_dir.absolute()
        self._store_uri = store_uri
        self._connect = connect
        self._publisher_factory = publisher_factory
        self._threads = threads
        self._worker: _Worker | None = None
        self._found_free: set[Path] = set()

    def start(self) -> None:
        """Begin, if there are journals that are not this process's own; a listing of one folder tells.

        A folder that can't be read is warned of: a program that only reads the store does without.
        """
        # What another's recovery has taken is this process's own by now, and wanted all the same.
        if self._not_own() or self._is_under_way():
            self._begin()

    def _is_under_way(self) -> bool:
        worker = _workers.get(self._key)
        return worker is not None and not worker.stop.is_set()

    def look_again(self) -> None:
        """Begin if other journals are free than when this was last called; may be called often.

        A recovery that another API has begun is wanted by this one, too, from then on.
        """
        free = {path for path in self._not_own() if not JournalFolder.is_held(path)}
        are_new, self._found_free = not free <= self._found_free, free
        if are_new or (self.wait(0) and self._is_under_way()):
            self._begin()

    def _not_own(self) -> list[Path]:
        try:
            paths = journals_in(store_folder_of(self._journal_dir, self._store_uri))
        except JournalError as error:
            logger.warning("whether earlier programs left something to deliver can't be told: %s", error)
            return []
        own = OwnerLock.of_this_process() if paths else set()
        return [path for path in paths if path / "lock" not in own]

    @property
    def _key(self) -> _Key:
        return str(self._journal_dir), self._store_uri

    def _begin(self) -> None:
        key = self._key
        with _lock:
            worker = _workers.get(key)
            if worker is None or worker.stop.is_set():
                worker = _Worker(key, self._run)
                if not worker.begin():
                    return
                _workers[key] = worker
            worker.again = True
            worker.users.add(self)
            self._worker = worker

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until what was there at the start has been dealt with; tells whether it has.

        What could not be delivered was logged then, and stays for the next program.
        """
        worker = self._worker
        return worker is None or worker.pid != os.getpid() or worker.over.wait(timeout)

    @property
    def trouble(self) -> WithrunError | None:
        """Why nothing goes through; None while it does."""
        worker = self._worker
        return worker.retry.trouble if worker is not None and not worker.over.is_set() else None

    @property
    def report(self) -> Recovered | None:
        """What has been done, once that is over; None if nothing was to be done."""
        return self._worker.report if self._worker is not None else None

    def close(self, timeout: float = CALL_TIMEOUT) -> bool:
        """Let go of it; unless others want it too, it ends after the call under way.

        Returns:
            Whether no call is under way any more, as far as this was the last one to want it.
        """
        worker, self._worker = self._worker, None
        if worker is None or worker.pid != os.getpid():
            return True
        with _lock:
            worker.users.discard(self)
            wanted = bool(worker.users)
        return wanted or worker.end(timeout)

    def _run(self, worker: _Worker) -> None:
        if not some_are_free(self._journal_dir, self._store_uri):
            return
        backend = self._connect()
        try:
            publisher = self._publisher_factory(backend) if self._publisher_factory else None
            report = recover(
                self._journal_dir,
                self._store_uri,
                backend,
                publisher=publisher,
                threads=self._threads,
                retry=worker.retry,
            )
        finally:
            backend.close()
        worker.report = report
        if report.journals:
            logger.info(
                "delivered %d values that %d earlier programs had left for %s",
                report.delivered,
                report.journals,
                self._store_uri,
            )
        # Of trouble with the server the calls themselves have told.
        log = logger.warning if worker.retry.trouble is None else logger.info
        for path, reason in report.left.items():
            log(
                "what an earlier program logged could not be delivered to %s: %s. It is kept in %s; the next "
                "program that uses this store, or `withrun sync`, delivers it.",
                self._store_uri,
                reason,
                path,
            )


class _Worker:
    """The thread that recovers one store's journals.

    Attributes:
        users: those who want it to go on; an API that was dropped without closing it does no longer count,
            and does not end it either.
        again: set by whoever starts it: journals may have come since it looked.
        stop: set to end it between two calls.
        retry: repeats its calls; tells of trouble with the server.
        over: set when it has ended.
    """

    def __init__(self, key: _Key, run: Callable[[_Worker], None]) -> None:
        self.pid = os.getpid()
        self.users: weakref.WeakSet[BackgroundRecovery] = weakref.WeakSet()
        self.again = True
        self.stop = threading.Event()
        self.over = threading.Event()
        self.retry = Retry(stop=self.stop, kick=threading.Event(), gate=Gate())
        self.report: Recovered | None = None
        self._key = key
        self._run = run
        self._thread = threading.Thread(target=self._work, name="withrun-recovery", daemon=True)

    def begin(self) -> bool:
        """Start the thread; False if the interpreter is exiting and takes no more."""
        try:
            self._thread.start()
        except RuntimeError as error:
            logger.info("what earlier programs left is delivered by the next one: %s", error)
            return False
        return True

    def end(self, timeout: float) -> bool:
        """Stop, and wait for the call under way; False if that takes longer."""
        self.stop.set()
        return self.over.wait(timeout)

    def _work(self) -> None:
        try:
            while self._more():
                self._run(self)
        except Exception:
            logger.exception(
                "the delivery of what earlier programs logged has failed; it is kept in %s, and the next "
                "program that uses this store, or `withrun sync`, delivers it",
                store_folder_of(Path(self._key[0]), self._key[1]),
            )
        finally:
            with _lock:
                if _workers.get(self._key) is self:
                    del _workers[self._key]
            self.over.set()

    def _more(self) -> bool:
        with _lock:
            again, self.again = self.again and not self.stop.is_set(), False
            if not again and _workers.get(self._key) is self:
                # Under the lock, so that whoever comes now starts another.
                del _workers[self._key]
            return again


_lock = threading.Lock()
_workers: dict[_Key, _Worker] = {}


def _end_all() -> None:
    """At exit: what is left is left, but no call is torn in two that would be over in a moment."""
    with _lock:
        workers = list(_workers.values())
    for worker in workers:
        worker.stop.set()
    deadline = time.monotonic() + CALL_TIMEOUT
    for worker in workers:
        worker.end(max(deadline - time.monotonic(), 0))


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _workers.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
