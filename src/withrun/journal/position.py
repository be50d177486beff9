"""The acknowledged position: up to where the server has all of a journal."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from withrun.journal.disk import unusable

__all__ = ["BEGIN", "Acknowledged", "Position"]

_SLOT = struct.Struct("<QQQI")


class Position(NamedTuple):
    """A place between two records; positions compare in the order of writing."""

    segment: int
    offset: int


BEGIN = Position(0, 0)
"""Before the first record of any journal."""


class Acknowledged:
    """Keeps the position in a file of two slots, written in turn: one of them always verifies.

    A page written by `pwrite` is the kernel's at once, so it survives SIGKILL; after a power cut an older
    position may come back, and what lies between is sent again, which changes nothing on the server.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path.parent, error) from error
        try:
            text = os.pread(self._descriptor, 2 * _SLOT.size, 0)
            if not text:
                # Takes its room on the disk now: acknowledging must work when the disk is full.
                os.pwrite(self._descriptor, bytes(2 * _SLOT.size), 0)
        except OSError as error:
            self.close()
            raise unusable(path.parent, error) from error
        self._turn, self.position = _latest(text)

    @staticmethod
    def look(path: Path) -> Position:
        """The position in a file, which may be another process's, or not be there."""
        try:
            return _latest(path.read_bytes())[1]
        except FileNotFoundError:
            return BEGIN

    def move(self, position: Position) -> None:
        """Acknowledge all before `position`."""
        if position == self.position:
            return
        self._turn += 1
        head = _SLOT.pack(self._turn, position.segment, position.offset, 0)[:-4]
        slot = head + struct.pack("<I", zlib.crc32(head))
        os.pwrite(self._descriptor, slot, (self._turn % 2) * _SLOT.size)
        self.position = position

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _latest(text: bytes) -> tuple[int, Position]:
    latest = 0, BEGIN
    for start in (0, _SLOT.size):
        slot = text[start : start + _SLOT.size]
        if len(slot) == _SLOT.size:
            turn, segment, offset, crc = _SLOT.unpack(slot)
            if crc == zlib.crc32(slot[:-4]) and turn > latest[0]:
                latest = turn, Position(segment, offset)
    return latest
