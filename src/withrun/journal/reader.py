"""Reading a journal front to back in bounded windows, live or after its owner's death."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from withrun.journal.folder import JournalFolder
from withrun.journal.introductions import Introductions, RunRef
from withrun.journal.pack import Window
from withrun.journal.position import Position
from withrun.journal.record import Kind, decode
from withrun.journal.segment import SegmentReader, numbers, segment_path

__all__ = ["JournalReader"]

logger = logging.getLogger("withrun.journal")

WINDOW_RECORDS = 32_000
WINDOW_BYTES = 4 << 20
"""What is taken into memory at once, and sent again after a crash, which changes nothing on the server."""


class JournalReader:
    """Follows the segments of a journal from a position on.

    Attributes:
        damaged: bytes that could not be read, in all segments so far.

    Args:
        folder: the journal.
        limit: tells up to where a segment is complete; None: to its end, for nobody writes to it any more.
        start: where to begin; default: what is acknowledged.
    """

    def __init__(
        self,
        folder: JournalFolder,
        limit: Callable[[int], int | None] = lambda _: None,
        start: Position | None = None,
    ) -> None:
        self.damaged = 0
        self._folder = folder
        self._limit = limit
        self._start = self._at = start or folder.acknowledged.position
        self._segment: SegmentReader | None = None
        self._number = 0
        self._refs = Introductions(folder.ledger.runs, self._introductions)

    def window(self) -> Window | None:
        """The next records; None if there are none now."""
        window = Window()
        for payloads in self._payloads():
            window.add(payloads, self._refs)
            if window.read >= WINDOW_RECORDS or window.size >= WINDOW_BYTES:
                break
        window.end = Position(self._number, self._segment.offset if self._segment else 0)
        if not window.read and (not self._number or window.end <= self._at):
            return None
        self._at = window.end
        return window

    def _payloads(self) -> Iterator[list[bytes]]:
        while True:
            if self._segment is None and not self._open_next():
                return
            assert self._segment is not None  # noqa: S101 - opened just above
            # Asked before reading: None means that all of it has been written by now.
            limit = self._limit(self._number)
            damaged = self._segment.damaged
            payloads = self._segment.read(limit)
            self._report(self._segment.damaged - damaged)
            if payloads:
                yield payloads
            elif limit is None:
                if not self._open_next():
                    return
            else:
                return

    def _open_next(self) -> bool:
        """Go on to the next segment; False if there is none yet."""
        least = max(self._number + 1, self._start.segment)
        waiting = [number for number in self._folder.segments() if number >= least]
        if not waiting:
            return False
        self.close()
        self._number = waiting[0]
        path = segment_path(self._folder.path, self._number)
        self._segment = SegmentReader(path)
        if self._number == self._start.segment:
            self._catch_up(self._segment, self._start.offset)
        return True

    def _catch_up(self, segment: SegmentReader, offset: int) -> None:
        """Read what is delivered for the runs that it introduces."""
        while segment.offset < offset:
            payloads = segment.read(offset)
            if not payloads:
                break
            for payload in payloads:
                if payload[1] == Kind.RUN:
                    record = decode(payload)
                    self._refs[record[1]] = RunRef(record[2], record[3])
        segment.offset = max(segment.offset, offset)

    def _introductions(self) -> Iterator[tuple[int, RunRef]]:
        """All that can be read in the segments, delivered or not."""
        for number in numbers(self._folder.path):
            segment = SegmentReader(segment_path(self._folder.path, number))
            try:
                while payloads := segment.read(None):
                    for payload in payloads:
                        if payload[1] == Kind.RUN:
                            record = decode(payload)
                            yield record[1], RunRef(record[2], record[3])
            finally:
                segment.close()

    def _report(self, damaged: int) -> None:
        if damaged:
            self.damaged += damaged
            logger.error(
                "%d bytes of %s are damaged, and the records in them lost; those behind them are read on",
                damaged,
                segment_path(self._folder.path, self._number),
            )

    def close(self) -> None:
        """Let go of the file."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None
