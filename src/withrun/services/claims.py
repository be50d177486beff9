"""Claims: of those who publish model versions to one place of a run, one at a time.

A version is never changed, so that nobody may send files where another version's lie. Who holds the claim
on a path can ask the registry what lies there, send, and register, with nobody in between: no other thread of
this process, and no other process that shares the folder of lock files, the cache's. Those that share none,
such as on several machines, know nothing of each other while they send: the one that is done second is
refused then, and may have replaced files of the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from withrun.cache.layout import Key
from withrun.cache.locks import waiting
from withrun.errors import AlreadyExists

__all__ = ["claimed"]

_log = logging.getLogger("withrun")

_changed = threading.Condition()
_held: dict[Key, int] = {}
"""The thread that holds each claim of this process."""


@contextlib.contextmanager
def claimed(key: Key, locks: Path | None) -> Iterator[None]:
    """Hold a claim on a path of a run; waits for who holds one on it, or on what holds it or lies in it.

    Args:
        key: the path, and whose it is.
        locks: the folder of lock files; None if there is nothing that processes share.

    Raises:
        AlreadyExists: this very thread holds one, below in its stack, so that waiting would have no end.
    """
    with _changed:
        _changed.wait_for(lambda: threading.get_ident() in (holders := _holders(key)) or not holders)
        if _holders(key):
            raise AlreadyExists(
                f"a version is being published to {key} by this very thread, which was interrupted in it; "
                "publish to another path_in_run"
            )
        _held[key] = threading.get_ident()
    try:
        with contextlib.ExitStack() as stack:
            if locks is not None:
                _lock(key, locks, stack)
            yield
    finally:
        with _changed:
            _held.pop(key, None)
            _changed.notify_all()


def _holders(key: Key) -> set[int]:
    return {thread for held, thread in _held.items() if held.owner == key.owner and held.overlaps(key.path)}


def _lock(key: Key, locks: Path, stack: contextlib.ExitStack) -> None:
    """Lock a path alone, and what holds it with others; from the top, so that nobody waits in a circle."""
    above = [key]
    while above[-1].path:
        above.append(above[-1].above())
    try:
        for at in reversed(above):
            lock = locks / f"{at.folder.replace('/', '.')}.version.lock"
            stack.enter_context(waiting(lock, alone=at is key, what=f"a version is being published to {key}"))
    except OSError as error:
        _log.warning(
            "Other processes are not kept from publishing a version to %s meanwhile: can't lock %r (%s).",
            key,
            error.filename or str(locks),
            error.strerror or error,
        )


def _forget() -> None:
    """A forked child has none of the threads that held claims."""
    global _changed  # one of them may have been in it
    _changed = threading.Condition()
    _held.clear()


os.register_at_fork(after_in_child=_forget)
