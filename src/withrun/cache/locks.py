"""Locks on what the cache holds: one writer per artifact, and a mark of those who are reading.

The writer's lock (filelock) excludes threads and processes alike; the kernel drops it when its holder dies.
Readers hold a shared lock on the version that they read, so that it is not removed under them; it costs a
reader some microseconds and never waits for a writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from withrun.errors import CacheError

__all__ = ["exclusive", "keep_read", "reading", "removing", "try_exclusive", "waiting"]

_log = logging.getLogger("withrun")

_waited_for: dict[object, int] = {}
"""The descriptors of those in `waiting`, for a forked child to close."""


@contextlib.contextmanager
def exclusive(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path`, waiting for as long as another thread or process does.

    Args:
        path: the lock file; made if it is not there, and left there, because removing it would let two
            holders in.
        what: names what is locked in an error.
    """
    lock = _lock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise CacheError(
            f"Can't lock {what} in the cache, with {str(path)!r}: {error.strerror or error}. "
            "Make the cache folder writable, or choose another `cache_dir`."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def waiting(path: Path, *, alone: bool, what: str) -> Iterator[None]:
    """Hold the lock file `path`, alone or with others who don't either; waits for those whom that excludes.

    A child that is forked meanwhile holds nothing, so that nobody waits for it once this process is gone.

    Args:
        path: the lock file; made if it is not there.
        alone: exclude everybody.
        what: names what is waited for in the log.

    Raises:
        OSError: it can't be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    mine = object()
    _waited_for[mine] = descriptor
    try:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("Waiting for another process: %s", what)
            fcntl.flock(descriptor, kind)
        yield
    finally:
        # In a child that was forked within, the descriptor is closed, and its number may be another's.
        if _waited_for.pop(mine, None) is not None:
            with contextlib.suppress(OSError):  # closing it lets go as well
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that is just being forked has it open, too
            os.close(descriptor)


@contextlib.contextmanager
def try_exclusive(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` if nobody else does; gives whether it is held."""
    lock = _lock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    # One object per use: flock on descriptors of their own excludes threads too.
    return FileLock(path, poll_interval=0.02)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[bool]:
    """Mark `folder` as being read, so that it is not removed; gives False if it is being removed just now.

    Raises:
        FileNotFoundError: it is not there.
    """
    with _locked(folder, fcntl.LOCK_SH) as free:
        yield free


def keep_read(folder: Path, path: Path, stack: contextlib.ExitStack) -> bool:
    """Mark `folder` as being read until the stack is left, if it is there and nobody removes it just now.

    Args:
        folder: the version's.
        path: what is to be read in it.
        stack: keeps it until it is left; nothing is added if this returns False.
    """
    with contextlib.ExitStack() as mine:
        try:
            free = mine.enter_context(reading(folder))
        except FileNotFoundError:
            return False
        if not free or not os.path.lexists(path):
            return False
        stack.enter_context(mine.pop_all())
        return True


@contextlib.contextmanager
def removing(folder: Path) -> Iterator[bool]:
    """Keep readers out of `folder` while it is removed; gives False if somebody reads it."""
    with _locked(folder, fcntl.LOCK_EX) as free:
        yield free


@contextlib.contextmanager
def _locked(folder: Path, kind: int) -> Iterator[bool]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:
            # A file system without locks: there is nobody to ask, and no remover who would be told.
            free = kind == fcntl.LOCK_SH
        yield free
    finally:
        os.close(descriptor)


def _after_fork_in_child() -> None:
    # Closed, not unlocked: unlocking would take the parent's lock, which is on what both have open.
    for descriptor in _waited_for.values():
        os.close(descriptor)
    _waited_for.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
