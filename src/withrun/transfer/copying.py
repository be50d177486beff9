"""Copying one local file: a reflink where the file system can, else as fast as the kernel copies."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from withrun.errors import TransferError

__all__ = ["TEMP_PREFIX", "copy_file"]

TEMP_PREFIX = ".artifact.uploading."
"""How names of files start that are being written into a local repository."""

_FICLONE = 0x40049409
"""Linux' ioctl that makes one file share another's blocks (btrfs, xfs, bcachefs)."""

_CHUNK = 64 << 20
"""Bytes a kernel copy: large enough to cost nothing, small enough for a progress bar and an interrupt."""

_NO_KERNEL_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)
"""How `copy_file_range` and FICLONE say that this pair of files is not for them."""


def copy_file(source: Path, target: Path, *, advance: Callable[[int], None], atomic: bool) -> None:
    """Put a copy of the file `source` (symlinks followed) at `target`, in the place of what is there.

    Content, modification time and executability are copied; the rest of the mode is this process' default,
    so that a copy of a write-protected file can be replaced. The time is set last: a copy that was cut
    off, by SIGKILL too, does not have its source's.

    Args:
        source: the file to copy.
        target: where to; its folder exists.
        advance: called with the number of bytes that were copied.
        atomic: readers see the old file or the new one, whole. Else the file grows in its place, so that
            nothing under another name can be left behind.
    """
    # The prefix is MLflow's for the same purpose: no listing shows it.
    part = target.with_name(TEMP_PREFIX + secrets.token_hex(8)) if atomic else target
    try:
        if not atomic:
            target.unlink(missing_ok=True)
        with source.open("rb") as reader, part.open("xb") as writer:
            before = os.fstat(reader.fileno())
            _copy_content(reader.fileno(), writer.fileno(), before.st_size, advance)
            written = os.fstat(writer.fileno())
            if written.st_size != before.st_size:
                raise TransferError(
                    f"Copied {written.st_size:,} of the {before.st_size:,} bytes of {str(source)!r}: it was "
                    "being written meanwhile. Copy it when it is complete."
                )
            # Executable for whoever may read it, if it was executable at all.
            if before.st_mode & 0o111:
                os.fchmod(writer.fileno(), written.st_mode | (written.st_mode & 0o444) >> 2)
            os.utime(writer.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))
        if atomic:
            part.replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise


def _copy_content(reader: int, writer: int, size: int, advance: Callable[[int], None]) -> None:
    if _reflink(reader, writer):
        advance(size)
        return
    copied = _copy_in_kernel(reader, writer, size, advance)
    if copied < size:
        os.lseek(reader, copied, os.SEEK_SET)
        os.lseek(writer, copied, os.SEEK_SET)
        with os.fdopen(os.dup(reader), "rb") as src, os.fdopen(os.dup(writer), "wb") as dst:
            shutil.copyfileobj(src, dst, 1 << 20)
        advance(size - copied)


def _reflink(reader: int, writer: int) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError as error:
        if error.errno in _NO_KERNEL_COPY or error.errno == errno.ENOTTY:
            return False
        raise
    return True


def _copy_in_kernel(reader: int, writer: int, size: int, advance: Callable[[int], None]) -> int:
    """Copy up to `size` bytes without bringing them into this process; return how many were copied."""
    if not hasattr(os, "copy_file_range"):
        return 0
    copied = 0
    while copied < size:
        try:
            count = os.copy_file_range(reader, writer, min(_CHUNK, size - copied), copied, copied)
        except OSError as error:
            if error.errno in _NO_KERNEL_COPY:
                return copied
            raise
        if count == 0:
            return copied
        copied += count
        advance(count)
    return copied
