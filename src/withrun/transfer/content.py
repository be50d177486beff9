"""FileContent: the bytes of a local file as the body of one request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from withrun.errors import TransferError
from withrun.transfer.workers import Check

__all__ = ["CHUNK", "FileContent"]

CHUNK = 1 << 20
"""Bytes read and sent at a time; what an upload holds in memory, per thread."""


class FileContent:
    """Yields `size` bytes of `file` from `start` on; used around sending them.

    Leaving the block by an exception takes back what was reported as sent, since a retry sends it again.
    """

    def __init__(
        self, file: Path, start: int, size: int, check: Check, advance: Callable[[int], None]
    ) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._check = check
        self._advance = advance
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._start)
                while self._sent < self._size:
                    self._check()
                    chunk = stream.read(min(CHUNK, self._size - self._sent))
                    if not chunk:
                        raise TransferError(
                            f"{str(self._file)!r} became shorter while it was being uploaded. "
                            "Publish it when it is complete."
                        )
                    yield chunk
                    self._sent += len(chunk)
                    self._advance(len(chunk))
        except OSError as error:
            raise TransferError(f"Can't read {str(self._file)!r} to upload it: {error.strerror}.") from error

    def __enter__(self) -> FileContent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._advance(-self._sent)
