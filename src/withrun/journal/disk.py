"""The journal's folders: what the file system can promise, private creation, owner locks."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import hashlib
import os
import re
import secrets
import sys
import threading
import time
import weakref
from pathlib import Path

from withrun.errors import JournalError

__all__ = [
    "JournalFull",
    "JournalGone",
    "OwnerLock",
    "can_map",
    "file_system_of",
    "make_private",
    "store_key",
    "write_private",
]

RESERVING = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "ramfs", "f2fs", "jfs"})
"""File systems where a reserved block is there when a mapped page is written back.

A store into a mapped page that the disk can't back kills the process with SIGBUS. Copy-on-write file systems
(btrfs, zfs, overlay over anything) may need new blocks for reserved ones; network file systems can lose the
file under the mapping. There, and on what is not known, records are appended with `os.write`, which can fail
politely.
"""

_ATTEMPTS, _LOOK = 4, 0.01
"""How often, and after how many seconds again, a held lock is tried: a look at one takes microseconds."""

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class JournalFull(JournalError):
    """The disk has no room for the record, which was not taken; it may be sent straight to the server."""


class JournalGone(JournalFull):
    """The journal's folder was deleted while it was in use, so that there is no room in it, either."""


def file_system_of(folder: Path) -> str:
    """Name the file system under a folder, as the kernel calls it; empty if it can't be told."""
    if not sys.platform.startswith("linux"):
        return ""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with (
        contextlib.suppress(OSError),
        Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as mounts,
    ):
        for line in mounts:
            head, _, tail = line.partition(" - ")
            if head.split(" ", 3)[2] == wanted:
                return tail.split(" ", 1)[0]
    return ""


def can_map(folder: Path) -> bool:
    """Whether segments in this folder may be written through a memory map."""
    return hasattr(os, "posix_fallocate") and file_system_of(folder) in RESERVING


def store_key(store_uri: str) -> str:
    """A folder name for a store: readable, and unique to its URI (which holds no credentials)."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", store_uri.split("://", 1)[-1]).strip("-.")[-40:]
    digest = hashlib.sha256(store_uri.encode()).hexdigest()[:16]
    return f"{readable}-{digest}" if readable else digest


def make_private(folder: Path) -> None:
    """Make a folder that only its owner enters; a clear error where that is impossible."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(folder, error) from error


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads; there whole or not at all, with a clear error."""
    make_private(path.parent)
    fresh = path.with_name(f".{secrets.token_hex(8)}")
    try:
        with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise unusable(path.parent, error) from error


def unusable(folder: Path, error: OSError) -> JournalError:
    """Tell why a journal folder can't be written, and what to do."""
    if isinstance(error, FileNotFoundError):
        return JournalGone(
            f"the journal folder {folder} was deleted while it was in use, and with it what was not "
            "delivered yet: start anew with another API"
        )
    if error.errno in OUT_OF_SPACE:
        return JournalFull(
            f"the disk under the journal folder {folder} is full: free some space, or set journal_dir"
        )
    return JournalError(
        f"the journal folder {folder} can't be written ({error.strerror or error}): make it writable, or set "
        "journal_dir to a folder that is"
    )


class OwnerLock:
    """Holds a journal for its process; the kernel lets go of it when that ends, however it ends.

    A forked child lets go of its copies at once: it must not go on holding what its dead parent held.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        _held.add(self)

    @classmethod
    def take(cls, path: Path, *, create: bool = False) -> OwnerLock | None:
        """Lock a file; None if another holds it, or if it is gone."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_LOOK)  # it may have been one that just looks, see `is_held`
            with _taking:
                descriptor = _locked(path, os.O_RDWR | (os.O_CREAT if create else 0), fcntl.LOCK_EX)
                if isinstance(descriptor, int):
                    return cls(path, descriptor)
            if descriptor is _Not.THERE:
                break
        return None

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether somebody, this process perhaps, holds a file, or it is gone.

        Those who look don't see each other, and those who take it wait until they have looked.
        """
        with _taking:
            descriptor = _locked(path, os.O_RDONLY, fcntl.LOCK_SH)
            if not isinstance(descriptor, int):
                return True
            os.close(descriptor)
        return False

    @staticmethod
    def of_this_process() -> set[Path]:
        """The files that this process holds."""
        with _taking:
            return {lock.path for lock in _held if lock._descriptor >= 0}

    def close(self) -> None:
        """Let go; in a forked child only of the child's copy, so that the parent goes on holding."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Not(enum.Enum):
    FREE = enum.auto()
    THERE = enum.auto()


def _locked(path: Path, flags: int, kind: int) -> int | _Not:
    """A descriptor that holds a lock on a file, got without waiting; or why there is none."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return _Not.THERE
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        # Another may have finished with this journal, and deleted it, between our open and our lock.
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        found = _Not.THERE
    except BlockingIOError:
        found = _Not.FREE
    except FileNotFoundError:
        found = _Not.THERE
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return found


_held: weakref.WeakSet[OwnerLock] = weakref.WeakSet()
_taking = threading.RLock()
"""Held for as long as a file is open and not noted in `_held` yet: no fork must come in between."""


def _before_fork() -> None:
    _taking.acquire()


def _after_fork_in_parent() -> None:
    _taking.release()


def _after_fork_in_child() -> None:
    global _taking
    _taking = threading.RLock()
    for lock in list(_held):
        lock.close()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
