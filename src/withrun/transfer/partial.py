"""Partial: a file that is being downloaded, and how to go on with one that was cut off.

The server's validator (ETag) of the content is kept in an extended attribute of the file while it is
incomplete, so that a process killed at any moment leaves nothing but the file itself, and a later one
knows what it holds the start of. Where the file system or platform has no such attributes, a cut-off
download starts again.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

__all__ = ["Partial"]

_VALIDATOR = "user.withrun.partial"


class Partial:
    """The file at `target`, opened for a download that may go on from what is there.

    A symlink, or anything else that is no regular file, is removed first: a download never writes through
    a link.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._file: BinaryIO | None = None
        self.size = 0
        self._modified: float | None = None
        self._validator: str | None = None

    def __enter__(self) -> Partial:
        with contextlib.suppress(FileNotFoundError):
            status = self._target.lstat()
            if stat.S_ISREG(status.st_mode):
                self.size = status.st_size
                self._modified = status.st_mtime
                self._validator = _get(self._target)
            else:
                self._target.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def range_headers(self, size: int) -> dict[str, str]:
        """What to ask for: the rest of a cut-off file, a probe of one that looks complete, or all."""
        # Compression on the way would make ranges and sizes mean something else.
        headers = {"Accept-Encoding": "identity"}
        if self._validator and self.size and (size < 0 or self.size < size):
            return headers | {"Range": f"bytes={self.size}-", "If-Range": self._validator}
        if self._validator is None and self.size and self.size == size:
            return headers | {"Range": "bytes=0-0"}
        return headers

    def is_complete(self, size: int, modified: float | None) -> bool:
        """Whether an earlier download had finished: no validator left, and size and time are the server's."""
        return (
            self._validator is None
            and self.size == size
            and modified is not None
            and modified == self._modified
        )

    def start(self, status: int, content_range: str, validator: str) -> int | None:
        """Open the file to take the answer's body; return where it starts, None if the body does not fit."""
        if status == 206:
            fits = self._validator is not None and content_range.startswith(f"bytes {self.size}-")
            if not fits or validator != self._validator:
                self.discard()
                return None
            self._file = self._target.open("ab")
            return self.size
        self.discard()
        self._file = self._target.open("xb")
        # A weak validator (`W/`) says "about the same": not enough to join two halves.
        _set(self._target, validator if validator.startswith('"') else "")
        return 0

    def write(self, chunk: bytes | memoryview) -> None:
        """Append to the file."""
        if self._file is None:
            raise RuntimeError("the partial file was not started")
        self._file.write(chunk)
        self.size += len(chunk)

    def finish(self, size: int, modified: float | None) -> None:
        """Close the file as complete; its time becomes the server's."""
        if self._file is None:
            self._file = self._target.open("ab")
        self._file.truncate(size)
        self._file.close()
        _set(self._target, None)
        if modified is not None:
            os.utime(self._target, (modified, modified))

    def discard(self) -> None:
        """Forget what was there."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._target.unlink(missing_ok=True)
        self.size, self._validator = 0, None


def _get(path: Path) -> str | None:
    """The validator; empty if the file is incomplete and can't be gone on with, None if none is noted."""
    if hasattr(os, "getxattr"):
        with contextlib.suppress(OSError):
            return os.getxattr(path, _VALIDATOR).decode()
    return None


def _set(path: Path, validator: str | None) -> None:
    if not hasattr(os, "setxattr"):
        return
    # No such attributes on this file system: the download will not be resumed, as the module says.
    with contextlib.suppress(OSError):
        if validator is None:
            os.removexattr(path, _VALIDATOR)
        else:
            os.setxattr(path, _VALIDATOR, validator.encode())
