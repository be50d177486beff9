"""A journal's folder: made, found and deleted under its owner's lock."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from withrun.errors import JournalError
from withrun.journal.disk import OwnerLock, make_private, store_key, unusable
from withrun.journal.ledger import Ledger
from withrun.journal.position import Acknowledged
from withrun.journal.segment import SegmentReader, numbers, segment_path

__all__ = ["JournalFolder", "Origin", "journals_in", "store_folder_of"]

_STALE = 600.0
"""Seconds after which a folder that was never finished belongs to nobody."""


_TAKEN = frozenset({errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY})
"""What making a folder ends with if a signal handler forks right there, and the other process was quicker."""

_TAKEN_OVER = "origin.json"
"""What a recovery locks besides: nothing new on the disk, which may be full."""

_NAME = re.compile(r"\d{13,}-[0-9a-f]{16}")
"""A journal's name, by which journals sort from old to new; other things lie beside them."""


class Origin(msgspec.Struct, frozen=True):
    """Where a journal comes from; holds no credentials."""

    store_uri: str
    host: str = ""
    pid: int = 0
    started: int = 0
    version: int = 1


def store_folder_of(journal_dir: Path, store_uri: str) -> Path:
    """The folder that holds all journals of a store."""
    return journal_dir / store_key(store_uri)


def journals_in(store_folder: Path) -> list[Path]:
    """The journals of a store, oldest first, as far as their names tell; changes nothing.

    Raises:
        JournalError: the folder can't be read.
    """
    try:
        return [store_folder / name for name in sorted(filter(_NAME.fullmatch, os.listdir(store_folder)))]  # noqa: PTH208 - names are all that is needed
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise JournalError(
            f"the journal folder {store_folder} can't be read ({error.strerror or error}): make it readable, "
            "or set journal_dir to a folder that is"
        ) from error


class JournalFolder:
    """An open journal, held by this process: `<store folder>/<id>/`.

    Attributes:
        id: unique; also the value of the ownership tag of the runs that its process owns.
        ledger: what became of its runs.
        acknowledged: up to where the server has it.
        spool: where artifacts wait to be published.
    """

    def __init__(self, path: Path, *locks: OwnerLock, new: bool = False) -> None:
        self._locks = locks
        with contextlib.ExitStack() as undo:
            undo.callback(self._unlock)
            self.ledger = Ledger(path / "runs.log", new=new)
            undo.callback(self.ledger.close)
            self.acknowledged = Acknowledged(path / "acknowledged")
            undo.pop_all()
        self._place(path)

    def _place(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.spool = path / "spool"

    @classmethod
    def create(cls, store_folder: Path, store_uri: str) -> JournalFolder:
        """Make a new journal, owned by this process until it ends."""
        while True:
            make_private(store_folder)
            pid = os.getpid()
            try:
                created = cls._try_to_create(store_folder, store_uri)
            except (OSError, JournalError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                if not isinstance(cause, OSError):
                    raise
                if cause.errno in _TAKEN:
                    continue
                raise unusable(store_folder, cause) from cause
            if created is not None and os.getpid() == pid:
                return created
            if created is not None:
                created.release()  # we are that child, and the folder is the parent's

    @classmethod
    def _try_to_create(cls, store_folder: Path, store_uri: str) -> JournalFolder | None:
        now = _next_millisecond()
        name = f"{now:013d}-{secrets.token_hex(8)}"
        # Under its final name only once it is whole and locked: a scanner never sees a journal that seems
        # abandoned, and of one that finds no room nothing is left.
        unfinished = store_folder / f".{name}"
        origin = Origin(store_uri, socket.gethostname(), os.getpid(), now)
        unfinished.mkdir(mode=0o700)
        try:
            lock = OwnerLock.take(unfinished / "lock", create=True)
            if lock is None:
                return None
            created = cls(unfinished, lock, new=True)
            try:
                (unfinished / "origin.json").write_bytes(msgspec.json.encode(origin))
                created._rename(store_folder / name)
            except BaseException:
                created.release()
                raise
        except BaseException:
            if os.getpid() == origin.pid:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return created

    def _rename(self, path: Path) -> None:
        self.path.rename(path)
        for lock in self._locks:
            lock.path = path / lock.path.name
        self.ledger.path = path / "runs.log"
        self._place(path)

    @classmethod
    def take(cls, path: Path) -> JournalFolder | None:
        """Take over a journal whose owner is gone; None if it is held, or no longer there."""
        # First what says that it was taken over, so that it never looks like its owner's again; the file may
        # be lost, or deleted by one that was killed at that.
        taken = OwnerLock.take(path / _TAKEN_OVER)
        with contextlib.ExitStack() as undo:
            if taken is not None:
                undo.callback(taken.close)
            lock = OwnerLock.take(path / "lock", create=_has_lost_its_lock(path))
            if lock is None:
                return None
            undo.callback(lock.close)
            if taken is None:
                taken = OwnerLock.take(path / _TAKEN_OVER)  # another recovery gives it back, being too late
            undo.pop_all()
        return cls(path, *filter(None, [lock, taken]))

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether a journal is held, by its own process or by a recovery, or is gone.

        One where that can't be told counts as free: who tries to take it is told why.
        """
        try:
            return OwnerLock.is_held(path / "lock") and not _has_lost_its_lock(path)
        except OSError:
            return False

    @staticmethod
    def is_over(path: Path) -> bool:
        """Whether a journal is there that its own process can't write to any more: it is gone, or let go.

        Such a journal is free, or held by a recovery.
        """
        if not JournalFolder.is_held(path):
            return True
        return (path / _TAKEN_OVER).exists() and OwnerLock.is_held(path / _TAKEN_OVER)

    @staticmethod
    def is_recovered(path: Path) -> bool:
        """Whether a recovery holds a journal; of one where that can't be told, none does."""
        try:
            return OwnerLock.is_held(path / "lock") and JournalFolder.is_over(path)
        except OSError:
            return False

    @staticmethod
    def all_in(store_folder: Path) -> list[Path]:
        """The journals of a store, oldest first; sweeps up folders that were never finished."""
        if not store_folder.is_dir():
            return []
        found = []
        for path in sorted(store_folder.iterdir()):
            if path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _STALE:
                        shutil.rmtree(path, ignore_errors=True)
            elif _NAME.fullmatch(path.name):
                found.append(path)
        return found

    @staticmethod
    def origin_of(path: Path) -> Origin | None:
        """Where the journal in a folder comes from; None if that can't be read."""
        try:
            return msgspec.json.decode((path / "origin.json").read_bytes(), type=Origin)
        except (OSError, msgspec.DecodeError):
            return None

    def segments(self) -> Iterator[int]:
        """Numbers of its segments that are not wholly acknowledged."""
        return (number for number in numbers(self.path) if number >= self.acknowledged.position.segment)

    def delete_segments(self, before: int) -> None:
        """Delete the segments that the server has whole."""
        with contextlib.suppress(FileNotFoundError):  # the folder: somebody deleted it
            for number in numbers(self.path):
                if number < before:
                    segment_path(self.path, number).unlink(missing_ok=True)

    def trim(self) -> None:
        """Give back the room that its newest segment has reserved and not used; nobody writes to it now."""
        for number in numbers(self.path)[-1:]:
            path = segment_path(self.path, number)
            reader = SegmentReader(path)
            try:
                while reader.read(None):
                    pass
                os.truncate(path, reader.offset)
            finally:
                reader.close()

    def delete(self) -> None:
        """Delete the journal, its lock last, so that an interrupted deletion can be redone.

        Without anything but the lock it goes by a hidden name: a folder without a lock would look in use.
        """
        path = self.path.with_name(f".{self.path.name}")
        with contextlib.suppress(FileNotFoundError):  # the folder: somebody deleted it
            for number in numbers(self.path):
                segment_path(self.path, number).unlink(missing_ok=True)
            for entry in list(self.path.iterdir()):
                if entry.name != "lock":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
            self.path.rename(path)
            (path / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.rmdir()
        self.release()

    def release(self) -> None:
        """Let go of the journal, as its owner's end would; what it holds stays."""
        self.ledger.close()
        self.acknowledged.close()
        self._unlock()

    def _unlock(self) -> None:
        for lock in self._locks:
            lock.close()


def _has_lost_its_lock(path: Path) -> bool:
    """Whether somebody deleted a journal's lock file, and the process that held it is certainly gone."""
    if (path / "lock").exists():
        return False
    origin = JournalFolder.origin_of(path)
    return origin is not None and origin.host == socket.gethostname() and not _lives(origin.pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(max(pid, 1), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_last = 0


def _next_millisecond() -> int:
    """The time, later with each call: by their names the journals of a process sort as they were made."""
    global _last
    _last = max(int(time.time() * 1000), _last + 1)
    return _last
