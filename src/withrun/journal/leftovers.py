"""What waits on the disk to be delivered; looking at it changes nothing."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from withrun.journal.folder import JournalFolder, Origin, journals_in, store_folder_of
from withrun.journal.follower import Follower
from withrun.journal.position import Acknowledged
from withrun.journal.record import Kind, decode

__all__ = ["Waiting", "abandoned_by_store", "some_are_free", "waiting"]

logger = logging.getLogger("withrun.journal")


class Waiting(msgspec.Struct, frozen=True):
    """A journal that waits on the disk.

    Attributes:
        path: its folder.
        origin: where it comes from; None if that can't be read.
        alive: its process still holds it, or another recovery does.
        records: records that are not acknowledged.
        size: bytes that it takes, with the artifacts that wait in it.
        runs: how many runs the records are of.
    """

    path: Path
    origin: Origin | None
    alive: bool
    records: int
    size: int
    runs: int = 0


def waiting(journal_dir: Path, store_uri: str) -> list[Waiting]:
    """List a store's journals, oldest first, those that can't be read as empty; changes nothing."""
    found = []
    for path in journals_in(store_folder_of(journal_dir, store_uri)):
        try:
            found.append(_look(path))
        except FileNotFoundError:  # noqa: PERF203 - beside reading a journal, no cost
            continue  # delivered just now
        except OSError as error:
            logger.warning("journal %s can't be read (%s)", path, error.strerror or error)
            found.append(Waiting(path, None, alive=False, records=0, size=0))
    return found


def some_are_free(journal_dir: Path, store_uri: str) -> bool:
    """Whether a store has a journal that nobody holds; changes nothing."""
    paths = journals_in(store_folder_of(journal_dir, store_uri))
    return not all(JournalFolder.is_held(path) for path in paths)


def abandoned_by_store(journal_dir: Path) -> dict[str, list[Path]]:
    """The journals in a folder that nobody holds, by the URIs of their stores; changes nothing."""
    found: dict[str, list[Path]] = {}
    try:
        store_folders = sorted(journal_dir.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return found
    for store_folder in store_folders:
        for path in journals_in(store_folder):
            origin = JournalFolder.origin_of(path)
            if origin is not None and not JournalFolder.is_held(path):
                found.setdefault(origin.store_uri, []).append(path)
    return found


def _look(path: Path) -> Waiting:
    origin = JournalFolder.origin_of(path)
    alive = JournalFolder.is_held(path)
    records, runs = _count(path)
    return Waiting(path, origin, alive, records, _size(path), runs)


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_size
    return total


def _count(path: Path) -> tuple[int, int]:
    """How many records are not acknowledged, and of how many runs."""
    acknowledged = Acknowledged.look(path / "acknowledged")
    records, runs = 0, set()
    for payloads in Follower(path, acknowledged).read():
        for payload in payloads:
            if payload[1] != Kind.RUN:
                records += 1
                runs.add(decode(payload)[1])
    return records, len(runs - {0})
