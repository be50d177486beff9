"""The journals of this process: one per store and folder, shared; closed at exit, made anew after a fork.

A user that is dropped without letting go of its journal no longer counts. If it was the last one, the journal
is closed by the next one to let go, or at exit: not where garbage happens to be collected, since that waits.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from withrun.backend import Backend
from withrun.errors import JournalError
from withrun.journal.journal import Durability, Journal
from withrun.journal.publisher import Publisher

__all__ = ["Lease", "before_closing", "close_all", "lease"]

logger = logging.getLogger("withrun.journal")

_Key = tuple[str, str, bool, str, str]

_lock = threading.RLock()
_journals: dict[_Key, Journal] = {}
_users: dict[_Key, weakref.WeakSet[Lease]] = {}
_exit_timeouts: dict[_Key, float | None] = {}
_finalizer_pid = 0
_before_closing: list[Callable[[], None]] = []


class Lease:
    """One user's hold on a shared journal; the last one to close it delivers and lets go.

    Attributes:
        journal: the journal.
    """

    def __init__(self, key: _Key, journal: Journal) -> None:
        self.journal = journal
        self._key = key
        self._open = True

    def close(self, *, exit_timeout: float | None = 30.0) -> bool:
        """Flush, and close the journal if nobody else uses it; tells whether all is settled.

        What is not is kept; a warning says so.
        """
        if not self._open:
            return True
        self._open = False
        if self._drop():
            return self.journal.close(exit_timeout=exit_timeout)
        try:
            settled = self.journal.flush(exit_timeout=exit_timeout)
        except JournalError as error:
            logger.error("%s", error)
            return False
        if not settled:
            self.journal.warn_kept()
        return settled

    def _drop(self) -> bool:
        """Count no more; tells whether this was the last one."""
        with _lock:
            users = _users.get(self._key)
            if users is None or self not in users:
                return False  # closed at exit, or a forked child's copy of its parent's
            users.discard(self)
            if users:
                return False
            for table in (_users, _journals, _exit_timeouts):
                table.pop(self._key, None)
            return True


def lease(
    journal_dir: Path,
    store_uri: str,
    *,
    connect: Callable[[], Backend] | None = None,
    publisher: Callable[[Backend], Publisher] | None = None,
    durability: Durability = "process",
    threads: int = 4,
    exit_timeout: float | None = 30.0,
    identity: str = "",
) -> Lease:
    """Hold the journal of this process for a store; made if there is none.

    Args:
        journal_dir: holds the journals of all stores.
        store_uri: the store, normalised and without credentials.
        connect: makes the backend that delivers; of several users, the first one's is used. None: offline.
        publisher: makes, of that backend, what publishes artifacts and model versions; the first one's, too.
        durability: what an accepted record survives.
        threads: runs delivered side by side.
        exit_timeout: seconds without progress after which interpreter exit goes on; the longest of all users
        counts.
        identity: users with different ones share no journal (other credentials, say).
    """
    key = (str(journal_dir.absolute()), store_uri, connect is not None, durability, identity)
    with _lock:
        journal = _journals.get(key)
        if journal is None:
            journal = Journal(
                journal_dir.absolute(),
                store_uri,
                connect=connect,
                publisher=publisher,
                durability=durability,
                threads=threads,
                opened=_finalize_in_worker,
                brief=True,
            )
            _journals[key] = journal
        user = Lease(key, journal)
        _users.setdefault(key, weakref.WeakSet()).add(user)
        known = _exit_timeouts.get(key, 0.0)
        _exit_timeouts[key] = (
            None if None in (known, exit_timeout) else max(known or 0.0, exit_timeout or 0.0)
        )
        return user


def close_all() -> None:
    """Close all journals of this process, each within its exit timeout; what is not delivered is kept."""
    with _lock:
        journals = [(journal, _exit_timeouts.get(key)) for key, journal in _journals.items()]
        for table in (_users, _journals, _exit_timeouts):
            table.clear()
    for journal, exit_timeout in journals:
        journal.close(exit_timeout=exit_timeout)


def before_closing(hook: Callable[[], None]) -> None:
    """Have something done when the process ends, before its journals are closed."""
    _before_closing.append(hook)


def _at_exit() -> None:
    for hook in _before_closing:
        hook()
    close_all()


def _finalize_in_worker() -> None:
    """In a child of multiprocessing, which skips `atexit`: do by its own finalizers what is done at exit."""
    global _finalizer_pid
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is None or process is None or process.parent_process() is None or _finalizer_pid == os.getpid():
        return
    _finalizer_pid = os.getpid()
    util.Finalize(None, _at_exit, exitpriority=10)


def _forked() -> None:
    global _lock
    _lock = threading.RLock()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_forked)
