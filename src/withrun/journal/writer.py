"""The writer: the current segment, and the change to the next one."""

from __future__ import annotations

import threading
from pathlib import Path

from withrun.journal.disk import can_map
from withrun.journal.position import Position
from withrun.journal.segment import Segment, create_segment

__all__ = ["Writer"]

FIRST_SIZE = 1 << 18
FULL_SIZE = 1 << 22
"""Bytes; segments grow to this, so that a short process reserves little and a long one changes seldom."""


class Writer:
    """Holds the segment that new frames go to.

    Threads append without a lock; only changing the segment takes one. It is re-entrant: a signal handler
    that logs while its own thread is changing the segment changes it itself, and the interrupted change sees
    that and stands back.
    """

    def __init__(self, folder: Path, *, mapped: bool | None = None) -> None:
        self._folder = folder
        self._mapped = can_map(folder) if mapped is None else mapped
        self._lock = threading.RLock()
        self._sealed = False
        self._next = 1
        self._size = FIRST_SIZE
        self._unsealed: dict[int, Segment] = {}
        self.current: Segment = self._create(0)

    def _create(self, least: int) -> Segment:
        while True:
            number, self._next = self._next, self._next + 1
            room = max(self._size, least + 64)
            try:
                segment = create_segment(self._folder, number, room, mapped=self._mapped)
            except FileExistsError:
                continue  # made by a child that a signal handler forked right here
            self._size = min(self._size * 2, FULL_SIZE)
            self._unsealed[number] = segment
            return segment

    def roll(self, full: Segment, least: int) -> Segment:
        """Move on from a segment in which a frame of `least` bytes found no room; return the current one."""
        with self._lock:
            if self.current is full and not self._sealed:
                fresh = self._create(least)
                # No call between this check and the store: no signal handler can get in between.
                if self.current is full and not self._sealed:
                    self.current = fresh
                    full.seal()
                    self._unsealed.pop(full.number, None)
                else:
                    fresh.seal()
                    self._unsealed.pop(fresh.number, None)
            return self.current

    @property
    def position(self) -> Position:
        """Where the next frame goes."""
        while True:
            segment = self.current
            try:
                return Position(segment.number, segment.tell())
            except ValueError:
                if self.current is segment:  # sealed for good
                    return Position(segment.number, segment.path.stat().st_size)

    def limit(self, number: int) -> int | None:
        """Up to where a segment is complete; None once no more is written to it."""
        segment = self._unsealed.get(number)
        if segment is None:
            return None
        try:
            return segment.tell()
        except ValueError:
            return None

    def seal(self) -> None:
        """Take no more frames; in a forked child, whatever was under way at the fork."""
        self._sealed = True
        for segment in list(self._unsealed.values()):
            segment.seal()
        self._unsealed.clear()
