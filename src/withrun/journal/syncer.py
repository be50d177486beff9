"""Durability against power cuts: the current segment is forced to the disk at an interval."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["Syncer"]

logger = logging.getLogger("withrun.journal")

INTERVAL = 1.0
"""Seconds; what a power cut may take."""


class Syncer:
    """A thread that syncs the journal; syncing takes milliseconds, which appending must not wait for."""

    def __init__(self, folder: Path, current: Callable[[], Path]) -> None:
        self._folder = folder
        self._current = current
        self._stop = threading.Event()
        self._last: Path | None = None
        self._thread = threading.Thread(target=self._run, name="withrun-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.sync()

    def sync(self) -> None:
        """Force what was journaled to the disk: this segment, the one before it, the ledger, the folder."""
        current = self._current()
        fresh = current != self._last
        paths = [self._last] if self._last and fresh else []
        try:
            for path in [*paths, current, self._folder / "runs.log", *([self._folder] if fresh else [])]:
                with contextlib.suppress(FileNotFoundError):  # delivered and deleted meanwhile
                    _sync(path)
        except OSError as error:
            logger.error("the journal %s can't be synced to the disk: %s", self._folder, error)
        self._last = current

    def stop(self) -> None:
        """Sync once more and end the thread."""
        self._stop.set()
        self._thread.join(5.0)
        self.sync()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
