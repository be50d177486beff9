"""Durability against power cuts: the current segment is forced to the disk at an interval."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

from withrun.journal.segment import numbers, segment_path

__all__ = ["Syncer"]

logger = logging.getLogger("withrun.journal")

INTERVAL = 1.0
"""Seconds; what a power cut may take."""


class Syncer:
    """A thread that syncs the journal; syncing takes milliseconds, which appending must not wait for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._newest = 0
        self._before = 0
        self._thread = threading.Thread(target=self._run, name="withrun-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.sync()

    def sync(self) -> None:
        """Force to the disk what was journaled since the last time: segments, ledger, spool, folder."""
        started = time.time_ns()
        # The newest of last time among them: it was written to after that.
        found = [number for number in numbers(self._folder) if number >= self._newest]
        try:
            self._sync([segment_path(self._folder, number) for number in found])
            # What was spooled has to be there before the disk may hold a record that speaks of it; a second
            # is what either may take.
            self._sync(self._spooled())
            notes = [self._folder / name for name in ("runs.log", "turns.log")]
            self._sync([*notes, *([self._folder] if found[-1:] != [self._newest] else [])])
        except OSError as error:
            logger.error("the journal %s can't be synced to the disk: %s", self._folder, error)
            return
        self._newest, self._before = max([self._newest, *found]), started

    def _spooled(self) -> list[Path]:
        spool = self._folder / "spool"
        every = [spool, *spool.rglob("*")] if spool.is_dir() else []
        return [path for path in every if path.lstat().st_ctime_ns >= self._before and not path.is_symlink()]

    def _sync(self, paths: list[Path]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # delivered and deleted meanwhile
                _sync(path)

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
