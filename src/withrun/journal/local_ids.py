"""Local IDs: what runs, experiments and versions that started without the server are called there now.

The map outlives the journals, so that an ID in a notebook, a pickle or a parent tag keeps resolving after
delivery.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import uuid
from pathlib import Path

import msgspec

from withrun.journal.disk import JournalFull, make_private, unusable

__all__ = ["LocalIds", "looks_local", "new_uid"]

logger = logging.getLogger("withrun.journal")

_LOCAL = re.compile(r"[0-9a-f]{12}8[0-9a-f]{19}")


def new_uid() -> str:
    """A run's unique ID: its local ID should it start without the server.

    A UUID of version 8 (RFC 9562, section 5.8), where MLflow's own run IDs are of version 4: so an ID tells
    without a look at the disk that it is none of the server's.
    """
    text = uuid.uuid4().hex
    return f"{text[:12]}8{text[13:]}"


def looks_local(run_id: str) -> bool:
    """Whether an ID can be a local one, which the server may know under another."""
    return _LOCAL.fullmatch(run_id) is not None


class _Entry(msgspec.Struct, frozen=True):
    kind: str
    local: str
    server: str


_decode = msgspec.json.Decoder(_Entry).decode


class LocalIds:
    """The map of one store, shared by all processes: a file of JSON lines, only ever appended to."""

    def __init__(self, store_folder: Path) -> None:
        self.path = store_folder / "local-ids.jsonl"
        self._known: dict[tuple[str, str], str] = {}
        self._locals: dict[tuple[str, str], str] = {}
        self._unwritten: dict[tuple[str, str], str] = {}
        self._read = 0

    def resolve(self, kind: str, local: str) -> str | None:
        """The server's ID of a `run`, `experiment` or `version`; None if unknown or not delivered yet."""
        found = self._known.get((kind, local))
        if found is None:
            self._refresh()
            found = self._known.get((kind, local))
        return found

    def local_of(self, kind: str, server: str) -> str | None:
        """The local ID that a server's ID had, if it had one."""
        self._refresh()
        return self._locals.get((kind, server))

    def add(self, kind: str, local: str, server: str) -> None:
        """Remember an ID that the server gave; one that a full disk does not take is written by `write`."""
        if self.resolve(kind, local) == server:
            return
        self._note(kind, local, server)
        self._unwritten[kind, local] = server
        try:
            self.write()
        except JournalFull as full:
            logger.warning("delivery goes on, and notes later what local IDs stand for: %s", full)

    def write(self) -> None:
        """Write what a full disk did not take before: nothing may be deleted that would tell it again.

        Raises:
            JournalFull: there is still no room.
        """
        # Threads may do this at once: a line that is there twice says the same.
        entries = [_Entry(kind, local, server) for (kind, local), server in list(self._unwritten.items())]
        if entries:
            self._append(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        for entry in entries:
            self._unwritten.pop((entry.kind, entry.local), None)

    def _append(self, lines: bytes) -> None:
        make_private(self.path.parent)
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(self.path.parent, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A line cut off by a full disk must not swallow this one.
            torn = os.fstat(descriptor).st_size > 0 and not self._ends_with_newline()
            text = b"\n" + lines if torn else lines
            if os.write(descriptor, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise unusable(self.path.parent, error) from error
        finally:
            os.close(descriptor)

    def _note(self, kind: str, local: str, server: str) -> None:
        self._known[kind, local] = server
        self._locals[kind, server] = local

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _refresh(self) -> None:
        # Threads may do this at once: each counts by itself, and what both read is noted twice alike.
        at = self._read
        try:
            with self.path.open("rb") as file:
                file.seek(at)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    at += len(line)
                    try:
                        entry = _decode(line)
                    except msgspec.DecodeError:
                        continue  # a line cut off by a full disk: its ID is found again by its tag
                    self._note(entry.kind, entry.local, entry.server)
        except (FileNotFoundError, NotADirectoryError):  # the latter is told of by what writes
            return
        self._read = max(self._read, at)
