"""What the server refused: kept aside in a readable file, reported once, never lost in silence."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from withrun.journal.disk import make_private, unusable

__all__ = ["Refusal", "RefusedFile"]

logger = logging.getLogger("withrun.journal")


class Refusal(msgspec.Struct, frozen=True):
    """One record that the server would not take.

    Attributes:
        run_id: the run, as the server knows it (or its local ID if it was never created).
        call: the logging call, as one would write it.
        reason: the server's own words.
        record: what was to be written, as encoded for the store.
        time: when, in milliseconds since the epoch.
    """

    run_id: str
    call: str
    reason: str
    record: Any = None
    time: int = 0


class RefusedFile:
    """A file of JSON lines beside the journals; made with its first line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._lock = threading.Lock()

    def add(self, refusals: list[Refusal], *, summary: str = "") -> None:
        """Keep refusals aside, and report them: one by one, or all under one `summary`.

        Raises:
            JournalError: they could not be written down; so they must stay where they are.
        """
        now = int(time.time() * 1000)
        encoder = msgspec.json.Encoder(enc_hook=str)
        stamped = [msgspec.structs.replace(refusal, time=now) for refusal in refusals]
        lines = b"".join(encoder.encode(refusal) + b"\n" for refusal in stamped)
        where = f"kept in {self.path}"
        with self._lock:
            self._append(lines)
        self.count += len(refusals)
        if summary:
            logger.error("%s; %s.", summary, where)
            return
        for refusal in refusals:
            logger.error(
                "the server refused %s of run %s: %s; %s, all else goes through.",
                refusal.call,
                refusal.run_id,
                refusal.reason,
                where,
            )

    def _append(self, lines: bytes) -> None:
        make_private(self.path.parent)
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "ab", buffering=0) as file:
                size = file.tell()
                if file.write(lines) < len(lines):
                    file.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise unusable(self.path.parent, error) from error
