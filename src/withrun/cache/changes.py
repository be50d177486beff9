"""The log of what was published to a run: by it a copy knows whether what it was made from is still so.

Everybody who publishes to a run, of those who share the cache, notes the path before and after. Who makes a
copy marks the end of the log first and looks again when the copy is served: if a note came that concerns it,
the copy is none of what the repo holds now.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec

from withrun.cache.layout import overlap
from withrun.cache.locks import exclusive

__all__ = ["NAME", "ChangeLog", "Mark"]

NAME = "changes"

_HEAD = 17
"""Bytes of the first line: a name of the log's own, 16 hex digits, as it may be replaced."""

_LARGEST = 1 << 20
"""Bytes from which a new log is begun; who was making a copy meanwhile makes it anew."""


@dataclass(frozen=True)
class Mark:
    """A position in the log, as text; that before there was a log is empty."""

    text: str = ""


class _Note(msgspec.Struct, array_like=True):
    by: str
    path: str


class ChangeLog:
    """The log in the folder of one owner.

    Args:
        home: the owner's folder.
        lock: a lock file for those who write.
    """

    def __init__(self, home: Path, lock: Path) -> None:
        self._file = home / NAME
        self._lock = lock

    def mark(self) -> Mark:
        """Return the end of the log."""
        data = self._read()
        return Mark(f"{data[: _HEAD - 1].decode()}.{len(data)}") if data else Mark()

    def note(self, path: str, *, by: str) -> None:
        """Note that something is published to `path`, or was; its folder exists."""
        line = msgspec.json.encode(_Note(by, path)) + b"\n"
        with exclusive(self._lock, what=f"the log of {str(self._file.parent)!r}"):
            data = self._read()
            if not data or len(data) > _LARGEST:
                self._begin(line)
                return
            # A process that was killed here may have left half a line.
            with self._file.open("ab", buffering=0) as log:
                log.write(line if data.endswith(b"\n") else b"\n" + line)

    def concerns(self, mark: Mark, path: str, *, but: str | None = None) -> bool:
        """Tell whether anything was noted since the mark that holds, is, or lies in `path`.

        Args:
            mark: what `mark` returned.
            path: of the copy.
            but: whose notes don't count.
        """
        data = self._read()
        name, _, length = mark.text.partition(".")
        if name and data[: _HEAD - 1].decode() != name:
            return True  # another log: what was in the former one is not known
        for line in data[int(length or _HEAD) :].splitlines():
            try:
                note = msgspec.json.decode(line, type=_Note)
            except msgspec.MsgspecError:
                if line:
                    return True
                continue
            if note.by != but and overlap(note.path, path):
                return True
        return False

    def _read(self) -> bytes:
        try:
            data = self._file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        return data if data[_HEAD - 1 : _HEAD] == b"\n" and data[:1].isalnum() else b""

    def _begin(self, line: bytes) -> None:
        fresh = self._file.with_name(f"{NAME}.{secrets.token_hex(8)}")
        try:
            fresh.write_bytes(secrets.token_hex(8).encode() + b"\n" + line)
            fresh.replace(self._file)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)  # noqa: PTH108 - if it was not renamed
