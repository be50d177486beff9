"""Reading along in a journal that others write, deliver and delete: no lock is taken, nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from withrun.journal.position import BEGIN, Position
from withrun.journal.segment import SegmentReader, numbers, segment_path

__all__ = ["Follower"]


class Follower:
    """Gives the records of a journal that it has not given yet, delivered or not, as long as they are there.

    Args:
        path: the journal's folder, which may vanish at any moment.
        start: where to begin.
    """

    def __init__(self, path: Path, start: Position = BEGIN) -> None:
        self._path = path
        self._offsets = {start.segment: start.offset}
        self._finished = start.segment - 1

    def read(self) -> Iterator[list[bytes]]:
        """The payloads that came since the last call, a bounded chunk at a time.

        Raises:
            FileNotFoundError: the journal is gone, delivered.
        """
        found = numbers(self._path)
        for number in found:
            if number > self._finished:
                yield from self._read(number, newest=number == found[-1])
        # A writer makes the next segment a moment before it leaves the last: the one before both is complete,
        # and was so before it was read above.
        if len(found) > 2:
            self._finished = max(self._finished, found[-3])
        for number in [number for number in self._offsets if number <= self._finished]:
            del self._offsets[number]

    def _read(self, number: int, *, newest: bool) -> Iterator[list[bytes]]:
        try:
            reader = SegmentReader(segment_path(self._path, number), self._offsets.get(number, 0))
        except FileNotFoundError:
            return  # delivered meanwhile
        try:
            # The blank rest of the segment in use is not searched for records behind a damage.
            while not (newest and reader.at_blank()):
                before = reader.offset
                payloads = reader.read(None)
                if not payloads:
                    # A frame that is being written just now does not verify yet; it is looked at again.
                    reader.offset = before
                    break
                yield payloads
        finally:
            self._offsets[number] = reader.offset
            reader.close()
