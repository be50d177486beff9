"""Segments: the numbered files that a journal's records are appended to, and read back from."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from withrun.journal.disk import JournalFull, unusable
from withrun.journal.record import HEADER, parse, resync

__all__ = [
    "AppendedSegment",
    "MappedSegment",
    "Segment",
    "SegmentReader",
    "create_segment",
    "numbers",
    "segment_path",
]

MAGIC = b"withrun journal\x01"
"""Head of every segment file; its last byte is the format's version."""

CHUNK = 1 << 18
"""Bytes read at once: what the reader holds, whatever waits on the disk."""


def segment_path(folder: Path, number: int) -> Path:
    """The file of a journal's segment."""
    return folder / f"{number:08d}.seg"


def numbers(folder: Path) -> list[int]:
    """Numbers of the segments that lie in a journal's folder, ascending."""
    return sorted(
        int(name[:8])
        for name in os.listdir(folder)  # noqa: PTH208 - names are all that is needed
        if len(name) == 12 and name[8:] == ".seg" and name[:8].isdigit()
    )


class MappedSegment:
    """Written through a shared memory map: no system call, so the interpreter lock is never handed over.

    `write` is the map's own method: one C call copies a frame and moves the position, so neither a signal
    handler nor another thread can get in between, and no lock is taken. It raises ValueError when the frame
    does not fit, and after `seal`, which unmaps: that is how writers learn to move on. What was copied
    survives SIGKILL.
    """

    write: Callable[[bytes], object]

    def __init__(self, folder: Path, number: int, size: int) -> None:
        self.number = number
        self.path = segment_path(folder, number)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise
        except OSError as error:
            raise unusable(folder, error) from error
        try:
            # Reserved up front: a full disk shows here, as an error, and not as SIGBUS at some later store.
            os.posix_fallocate(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
        except OSError as error:
            self.path.unlink()
            raise unusable(folder, error) from error
        finally:
            os.close(descriptor)
        self._map.write(MAGIC)
        self.write = self._map.write
        gil_enabled = getattr(sys, "_is_gil_enabled", None)
        if gil_enabled is not None and not gil_enabled():
            self._lock = threading.RLock()
            self.write = self._write_locked

    def _write_locked(self, frame: bytes) -> None:
        # Free-threaded builds: a map's position is not guarded by anything there.
        with self._lock:
            self._map.write(frame)

    def tell(self) -> int:
        """Where the next frame goes; all before it is complete. ValueError once sealed."""
        return self._map.tell()

    def seal(self) -> None:
        """Take no more frames, and let go of memory and descriptor."""
        self._map.close()


class AppendedSegment:
    """Written with `os.write`: for file systems that can't promise that a mapped page finds room."""

    def __init__(self, folder: Path, number: int, size: int) -> None:
        self.number = number
        self.path = segment_path(folder, number)
        self._folder = folder
        self._limit = size
        self._lock = threading.RLock()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self.path, flags, 0o600)
        except FileExistsError:
            raise
        except OSError as error:
            raise unusable(folder, error) from error
        self._size = 0
        try:
            self.write(MAGIC)
        except (JournalFull, ValueError):
            self.seal()
            self.path.unlink()
            raise

    def write(self, frame: bytes) -> None:
        """Append a frame; ValueError if it does not fit any more or the segment is sealed."""
        with self._lock:
            if self._descriptor < 0 or self._size + len(frame) > self._limit:
                raise ValueError("segment is full or sealed")
            try:
                written = os.write(self._descriptor, frame)
            except OSError as error:
                raise unusable(self._folder, error) from error
            if written < len(frame):
                # Cut off by a full disk. Nothing may follow a torn frame, so this segment ends before it,
                # and the caller appends the frame again to the next one.
                os.ftruncate(self._descriptor, self._size)
                self.seal()
                raise ValueError("segment ends in a torn frame")
            self._size += written

    def tell(self) -> int:
        """Where the next frame goes; all before it is complete. ValueError once sealed."""
        if self._descriptor < 0:
            raise ValueError("segment is sealed")
        return self._size

    def seal(self) -> None:
        """Take no more frames, and let go of the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


Segment = MappedSegment | AppendedSegment


def create_segment(folder: Path, number: int, size: int, *, mapped: bool) -> Segment:
    """Create a segment of that size; on a nearly full disk, of the least size that helps."""
    kind = MappedSegment if mapped else AppendedSegment
    try:
        return kind(folder, number, size)
    except JournalFull:
        least = 1 << 16
        if size <= least:
            raise
        with contextlib.suppress(FileNotFoundError):
            segment_path(folder, number).unlink()
        return kind(folder, number, least)


class SegmentReader:
    """Reads a segment's records front to back, a bounded chunk at a time.

    Attributes:
        offset: where the next record starts.
        damaged: bytes that were neither a record nor never written, skipped so far.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = max(offset, len(MAGIC))
        self.damaged = 0
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size

    def read(self, limit: int | None) -> list[bytes]:
        """The next payloads, up to `limit` (None: the whole file, as of a sealed segment); empty at the end.

        What is damaged is skipped: reading goes on with the next record that verifies.
        """
        end = os.fstat(self._descriptor).st_size if limit is None else limit
        wanted = CHUNK
        payloads: list[bytes] = []
        while self.offset < end:
            chunk = os.pread(self._descriptor, min(wanted, end - self.offset), self.offset)
            if not chunk:
                break
            stop = parse(chunk, 0, payloads)
            self.offset += stop
            if payloads:
                break
            more = self.offset + len(chunk) < end
            if more and self._continues(chunk):
                wanted = max(wanted * 2, CHUNK)
                continue
            if not self._skip_damage(end):
                break
        return payloads

    def at_blank(self) -> bool:
        """Whether nothing stands where the next record starts: of a segment in use, its end."""
        return not os.pread(self._descriptor, HEADER.size, self.offset).strip(b"\0")

    def _continues(self, chunk: bytes) -> bool:
        """Whether the chunk starts with a frame longer than itself, which a larger read may complete."""
        if len(chunk) < HEADER.size:
            return True
        marked, _ = HEADER.unpack_from(chunk, 0)
        return bool(marked >> 24 == 0xA5 and (marked & 0xFFFFFF) + HEADER.size > len(chunk))

    def _skip_damage(self, end: int) -> bool:
        """Move to the next frame that verifies; False if none follows."""
        rest = os.pread(self._descriptor, end - self.offset, self.offset)
        if not rest.strip(b"\0"):
            return False
        found = resync(rest, 0)
        skipped = rest if found < 0 else rest[:found]
        self.damaged += len(skipped.rstrip(b"\0"))
        self.offset += len(skipped)
        return found >= 0

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
