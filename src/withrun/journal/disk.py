"""The journal's folders: what the file system can promise, private creation, owner locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import sys
from pathlib import Path

from withrun.errors import JournalError

__all__ = ["JournalFull", "OwnerLock", "can_map", "file_system_of", "make_private", "store_key"]

RESERVING = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "ramfs", "f2fs", "jfs"})
"""File systems where a reserved block is there when a mapped page is written back.

A store into a mapped page that the disk can't back kills the process with SIGBUS. Copy-on-write file systems
(btrfs, zfs, overlay over anything) may need new blocks for reserved ones; network file systems can lose the
file under the mapping. There, and on what is not known, records are appended with `os.write`, which can fail
politely.
"""

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class JournalFull(JournalError):
    """The disk has no room for the record, which was not taken; it may be sent straight to the server."""


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


def unusable(folder: Path, error: OSError) -> JournalError:
    """Tell why a journal folder can't be written, and what to do."""
    if error.errno in OUT_OF_SPACE:
        return JournalFull(
            f"the disk under the journal folder {folder} is full: free some space, or set journal_dir"
        )
    return JournalError(
        f"the journal folder {folder} can't be written ({error.strerror or error}): make it writable, or set "
        "journal_dir to a folder that is"
    )


class OwnerLock:
    """Holds a journal for its process; the kernel lets go of it when that ends, however it ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, *, create: bool = False) -> OwnerLock | None:
        """Lock a file without waiting; None if another holds it, or if it is gone."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another may have finished with this journal, and deleted it, between our open and our lock.
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return cls(path, descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def close(self) -> None:
        """Let go; in a forked child only of the child's copy, so that the parent goes on holding."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
