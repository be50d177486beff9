"""Turns: the order of one run's records across journals.

Before its first record of a run that it did not start, a journal notes which others are over, that is, can't
be written to any more: what these hold of the run is older, and is delivered first. The journal of a living
process is not waited for: two that log to one run at once are promised no order, and must not hold up one
another. As every note speaks of what was over before, no two journals wait for each other.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from withrun.errors import JournalError
from withrun.journal.apart import Behind
from withrun.journal.disk import unusable
from withrun.journal.folder import JournalFolder, journals_in
from withrun.journal.local_ids import LocalIds, looks_local
from withrun.journal.position import Acknowledged, Position
from withrun.journal.record import decode, frame, parse

__all__ = ["OlderFirst", "Turns", "whereabouts"]

logger = logging.getLogger("withrun.journal")

_CHUNK = 1 << 20

_LOOK = 0.05
"""Seconds between looks at whether it is a run's turn."""

_ABANDONED = 1.0
"""Seconds to wait for what nobody is delivering."""


class OlderFirst(Behind):
    """A run can't go on before older journals were delivered, which hold records of it.

    Attributes:
        run: its ID as the journal that waits knows it.
        journals: what comes first.
    """

    def __init__(self, run: str, journals: list[Path]) -> None:
        more = f" and {len(journals) - 1} more" if len(journals) > 1 else ""
        super().__init__(
            f"what was logged to run {run} before is not delivered yet, and comes first: {journals[0]}{more}"
        )
        self.run = run
        self.journals = journals


class Turns:
    """Whether a journal's runs may be delivered.

    The notes are a file of frames, `[run, newest, in use]`, which is there once there is something to note.
    Over are all journals up to the newest one but for those in use, which are few.

    Args:
        folder: the journal.
        local_ids: the store's map of local IDs.
    """

    def __init__(self, folder: JournalFolder, local_ids: LocalIds) -> None:
        self._path = folder.path
        self._ledger = folder.ledger
        self._local_ids = local_ids
        self._file = folder.path / "turns.log"
        self._after = _notes(self._file)
        self._noted: set[str] = set()
        self._over: set[str] = set()
        self._come: set[str] = set()
        self._holds: dict[tuple[str, str], bool] = {}
        self._awaited: dict[Path, Position | None] = {}

    # --- noting, by who logs ---
    def note(self, run: str, uid: str) -> None:
        """Before the first record of a run: note what comes first; costs a listing of one folder, once."""
        if run not in self._noted and not (uid in self._ledger.local or uid in self._ledger.bound):
            self.note_again(run)  # of one that was started here nothing is older

    def note_again(self, run: str) -> None:
        """Note what comes before the next record of a run: it is taken over from whoever had it."""
        self._noted.add(run)
        over = self._over_by_now()
        if over is not None and over != self._after.get(run):
            self._after[run] = over
            self._append(run, over)
        self._come.discard(run)

    def _over_by_now(self) -> _Over | None:
        try:
            paths = [path for path in journals_in(self._path.parent) if path != self._path]
        except JournalError as error:
            logger.warning("whether earlier programs logged to the same runs can't be told: %s", error)
            return None
        # What is over stays so.
        self._over = {path.name for path in paths if path.name in self._over or _is_over(path)}
        if not self._over:
            return None
        return _Over(max(self._over), sorted({path.name for path in paths} - self._over))

    def _append(self, run: str, over: _Over) -> None:
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                text = frame((run, *over))
                written = os.write(descriptor, text)
                if written < len(text):  # what follows a torn note would not be read
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            # It counts all the same, as long as this process lives.
            logger.warning("what comes before run %s is known to this process alone: %s", run, error)

    # --- waiting, by who delivers ---
    def check(self, run: str) -> None:
        """Raise `OlderFirst` if it is not a run's turn yet."""
        if run in self._come:
            return
        first = self._first(run)
        if first:
            self._awaited.update((path, self._awaited.get(path)) for path in first)
            raise OlderFirst(run, first)
        self._come.add(run)

    def check_all(self) -> None:
        """Raise `OlderFirst` if it is not the turn yet of any run that the journal holds."""
        for run in self._after:
            self.check(run)

    def has_come(self, run: str) -> bool:
        """Whether it is a run's turn."""
        try:
            self.check(run)
        except OlderFirst:
            return False
        return True

    def wait(self, run: str, patience: float | None, recover: Callable[[], bool]) -> bool:
        """Wait until it is a run's turn; tells whether it is.

        Args:
            run: its ID.
            patience: seconds in which nothing of what comes first is delivered, after which to give up; None:
                never, as long as somebody is at it.
            recover: has it delivered as far as nobody holds it; tells whether that is going on.
        """
        before, since = None, time.monotonic()
        while first := self._first(run):
            at = [Acknowledged.look(path / "acknowledged") for path in first]
            is_under_way = recover() or any(map(JournalFolder.is_held, first))
            now = time.monotonic()
            if at != before:
                before, since = at, now
            limit = patience if is_under_way else _ABANDONED
            if limit is not None and now - since >= limit:
                return False
            time.sleep(_LOOK)
        return True

    def moved(self) -> bool:
        """Whether what is waited for has been delivered further since this was last asked."""
        before = dict(self._awaited)
        self._awaited = {path: Acknowledged.look(path / "acknowledged") for path in before if path.exists()}
        return any(self._awaited.get(path) != position for path, position in before.items())

    def _first(self, run: str) -> list[Path]:
        over = self._after.get(run)
        if over is None:
            return []
        return [
            path
            for path in journals_in(self._path.parent)
            # One that was only about to be taken over when it was noted may be its owner's after all.
            if path != self._path and path.name in over and _is_over(path) and self._holds_of(path, run)
            # Nor is one that came after, by a clock that was set back since.
            if path.name < self._path.name or not self._is_before(path, run)
        ]

    def _is_before(self, path: Path, run: str) -> bool:
        """Whether another journal's notes say that this one comes first for a run."""
        try:
            notes = _notes(path / "turns.log")
        except JournalError as error:
            logger.warning("whether %s comes before %s can't be told: %s", self._path, path, error)
            return False
        return any(known in notes and self._path.name in notes[known] for known in self._ids(run))

    def _holds_of(self, path: Path, run: str) -> bool:
        """Whether another journal holds something of a run, which can't change any more."""
        key = path.name, run
        if key not in self._holds:
            self._holds[key] = any(_mentions(path, known) for known in self._ids(run))
        return self._holds[key]

    def _ids(self, run: str) -> list[str]:
        """What a run may be called: the server's ID, and the local one."""
        other = (
            self._local_ids.resolve("run", run) if looks_local(run) else self._local_ids.local_of("run", run)
        )
        return [run] if other is None else [run, other]


class _Over(NamedTuple):
    """Journals that were over at some moment: all up to the newest, but for some."""

    newest: str
    in_use: list[str]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name <= self.newest and name not in self.in_use


def _notes(file: Path) -> dict[str, _Over]:
    """What a journal has noted, by run.

    Raises:
        JournalError: it can't be read.
    """
    payloads: list[bytes] = []
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unusable(file.parent, error) from error
    if parse(text, 0, payloads) < len(text):
        logger.error("%s is damaged: what comes first for some runs is not known any more", file)
    return {run: _Over(newest, in_use) for run, newest, in_use in map(decode, payloads)}


def _is_over(path: Path) -> bool:
    """Whether a journal is over, as far as that can be told."""
    try:
        return JournalFolder.is_over(path)
    except OSError as error:
        logger.warning("whether %s is in use can't be told: %s", path, error)
        return False


def whereabouts(local_id: str, asking: Path) -> str:
    """Say where that is which a local ID stands for, and what is to be done.

    Args:
        local_id: what has not been delivered.
        asking: the journal that waits for it.
    """
    holders = [path for path in journals_in(asking.parent) if path != asking and _mentions(path, local_id)]
    in_use = [path for path in holders if not _is_over(path)]
    if in_use:
        origin = JournalFolder.origin_of(in_use[0])
        who = f"process {origin.pid} on {origin.host}" if origin else "some process"
        return (
            f"its start is in another journal, which comes first, and which {who} has in use: leave that, or "
            "close its API"
        )
    if holders:
        return f"its start is in another journal, {holders[0].name}, which comes first"
    return f"no other journal in {asking.parent} speaks of it: its start is lost, or on another machine"


def _mentions(path: Path, known: str) -> bool:
    """Whether an ID occurs in a journal, its ledger included; where it can't be read, it is taken not to.

    That finds what merely speaks of a run, too, such as its child: no harm in waiting for that.
    """
    wanted = known.encode()
    try:
        return any(_contains(file, wanted) for file in _files(path))
    except OSError as error:
        logger.warning("whether %s holds records of %s can't be told: %s", path, known, error)
        return False


def _files(path: Path) -> Iterator[Path]:
    yield path / "runs.log"
    yield from path.glob("*.seg")


def _contains(file: Path, wanted: bytes) -> bool:
    rest = b""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            if wanted in rest + chunk:
                return True
            rest = (rest + chunk)[1 - len(wanted) :]
    return False
