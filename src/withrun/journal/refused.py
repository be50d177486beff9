"""What the server refused: kept aside in a readable file, reported once, never lost in silence."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from withrun.journal.disk import make_private

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
        """Keep refusals aside, and report them: one by one, or all under one `summary`."""
        now = int(time.time() * 1000)
        encoder = msgspec.json.Encoder(enc_hook=str)
        stamped = [msgspec.structs.replace(refusal, time=now) for refusal in refusals]
        lines = b"".join(encoder.encode(refusal) + b"\n" for refusal in stamped)
        where = f"kept in {self.path}"
        try:
            with self._lock:
                make_private(self.path.parent)
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "ab") as file:
                    file.write(lines)
        except OSError as error:
            where = f"it could not be kept in {self.path} ({error.strerror or error})"
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
