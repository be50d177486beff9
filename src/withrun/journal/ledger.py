"""The ledger: what became of a journal's runs, kept apart from the data, which is deleted once delivered.

It says which creating calls were about to be sent (and may have been applied by a server that never
answered), which ID the server gave a run, which runs this process owns, and which it has ended. It also
repeats what much else in the segments hangs on, so that damage there does not take it along: which run a
number means, and how runs and experiments start without the server.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import msgspec

from withrun.errors import JournalError
from withrun.journal.disk import JournalFull, unusable
from withrun.journal.introductions import RunRef
from withrun.journal.record import ExperimentIntent, RunIntent, decode, frame, parse, resync

__all__ = ["Ledger"]

logger = logging.getLogger("withrun.journal")

_INTENT, _BOUND, _WITHDRAWN, _OWNED, _DONE, _LOCAL, _REFUSED, _RUN, _EXPERIMENT = range(9)

_MAGIC = b"withrun ledger\x01"
"""Head of the file; its last byte is the format's version. Behind it comes a byte that is set where entries
are missing: it has its place on the disk from the start, so it can be set when the disk is full."""

_MARK, _HEAD = len(_MAGIC), len(_MAGIC) + 1


class Ledger:
    """Appends to, and reads, a journal's ledger file.

    Attributes:
        intents: uid of each run whose creation was to be sent and is not settled, with its experiment.
        withdrawn: those of them that nobody wants any more, because the caller was told that it failed.
        bound: server ID of each run created here, by uid.
        owned: runs that this process started, resumed or entered and has not ended, by the ID or uid it knew;
        the value
            is when, in milliseconds.
        local: uids of runs that started without the server, and are known by them.
        experiments: local IDs of the experiments that were asked for without it.
        refused: why the server would not create a run that started without it, by uid.
        runs: the runs that records speak of, by number.
        incomplete: an earlier process could not note something, or the file was damaged: that a run is in
            none of these means nothing, and the server is asked instead.

    Args:
        path: the file; None keeps all in memory, for when the disk is full.
        new: it is not there yet.

    What is noted counts at once, also when writing it down fails. Where that is because the disk is full, the
    ledger is marked as incomplete; only what nobody else could tell then raises `JournalFull`.
    """

    def __init__(self, path: Path | None, *, new: bool = False) -> None:
        self.path = path
        self._descriptor = -1
        self.intents: dict[str, str] = {}
        self.withdrawn: set[str] = set()
        self.bound: dict[str, str] = {}
        self.owned: dict[str, int] = {}
        self.local: set[str] = set()
        self.experiments: set[str] = set()
        self.refused: dict[str, str] = {}
        self.runs: dict[int, RunRef] = {}
        self.incomplete = False
        self._is_marked = False
        self._lock = threading.RLock()
        if path is None:
            return
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if new and os.write(self._descriptor, _MAGIC + b"\0") < _HEAD:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._load(path.read_bytes())
        except OSError as error:
            self.close()
            raise unusable(path.parent, error) from error

    @classmethod
    def look(cls, path: Path) -> Ledger:
        """What a file says that may be another process's, or not be there; nothing is written to it."""
        ledger = cls(None)
        with contextlib.suppress(FileNotFoundError):
            ledger._load(path.read_bytes())
        return ledger

    def _load(self, text: bytes) -> None:
        payloads, self.incomplete = _entries(text)
        for payload in payloads:
            self._apply(decode(payload))

    def _apply(self, entry: list[Any]) -> None:
        kind, key, value = entry
        if kind == _INTENT:
            self.intents[key] = value
            self.withdrawn.discard(key)
        elif kind == _BOUND:
            self.bound[key] = value
            self.intents.pop(key, None)
            self.withdrawn.discard(key)
        elif kind == _WITHDRAWN:
            self.withdrawn.add(key)
        elif kind == _OWNED:
            self.owned[key] = value
        elif kind == _LOCAL:
            self.local.add(key)
        elif kind == _EXPERIMENT:
            self.experiments.add(key)
        elif kind == _RUN:
            self.runs[key] = RunRef(*value)
        elif kind == _REFUSED:
            self.refused[key] = value
        elif kind == _DONE:
            self.owned.pop(key, None)
            self.intents.pop(key, None)
            self.withdrawn.discard(key)

    def _append(self, *entry: Any) -> None:
        with self._lock:
            self._apply(list(entry))
            if self.path is None:
                return
            text = frame(entry)
            try:
                written = os.write(self._descriptor, text)
            except OSError as error:
                raise unusable(self.path.parent, error) from error
            if written < len(text):
                raise JournalFull(f"the disk under {self.path} is full: free some space, or set journal_dir")

    def _note(self, *entry: Any) -> bool:
        """Append what the server can tell, too; whether that is noted, or at least that it is missing."""
        try:
            self._append(*entry)
        except JournalFull as full:
            self._mark(full)
            return self._is_marked
        return True

    def _mark(self, full: JournalFull) -> None:
        assert self.path is not None  # noqa: S101 - in memory there is always room
        with self._lock:
            if self._is_marked:
                return
            logger.warning(
                "what becomes of runs is not noted any more, whoever needs it asks the server: %s", full
            )
            try:
                # Not by the descriptor at hand, which can only append.
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.pwrite(descriptor, b"\1", _MARK)
                finally:
                    os.close(descriptor)
                self._is_marked = True
            except OSError as error:
                # Some file systems need new room to replace what is there.
                logger.warning("nor could that be noted in %s (%s)", self.path, error)

    def intend(self, uid: str, experiment_id: str) -> None:
        """Note that a run is about to be created.

        Raises:
            JournalFull: nor can it be noted that something is missing. Sent all the same, the call might be
                repeated by whoever takes this over, and the run be there twice.
        """
        if not self._note(_INTENT, uid, experiment_id):
            raise JournalFull(f"the disk under {self.path} is full: free some space, or set journal_dir")

    def withdraw(self, uid: str) -> None:
        """Note that the creation was given up; should the server have applied it, the run is unwanted."""
        self._note(_WITHDRAWN, uid, None)

    def bind(self, uid: str, run_id: str) -> None:
        """Note the ID that the server gave a run."""
        self._note(_BOUND, uid, run_id)

    def refuse(self, uid: str, reason: str) -> None:
        """Note that the server would not create a run: what is logged to it can't be delivered."""
        self._note(_REFUSED, uid, reason)

    def own(self, run: str, since: int) -> None:
        """Note that this process answers for the run's end; the run's own tag says so, too."""
        self._note(_OWNED, run, since)

    def done(self, run: str) -> None:
        """Note that the run's end is on the server, or that its creation is settled."""
        self._note(_DONE, run, None)

    def start_locally(self, intent: RunIntent) -> None:
        """Note that a run is known by its uid, because it starts without the server.

        Raises:
            JournalFull: it could not be written down.
        """
        self._append(_LOCAL, intent.uid, intent)

    def start_experiment(self, intent: ExperimentIntent) -> None:
        """Note that an experiment is known by its local ID, because it was asked for without the server.

        Raises:
            JournalFull: it could not be written down.
        """
        self._append(_EXPERIMENT, intent.local_id, intent)

    def introduce(self, no: int, run_id: str, uid: str) -> None:
        """Note which run a number means, for when the segments' own introductions are damaged."""
        if no not in self.runs:
            try:
                self._append(_RUN, no, (run_id, uid))
            except JournalError as error:
                # A full disk, or a child that a signal handler forked right here.
                logger.debug("which run a number means is in the segments alone: %s", error)

    def start_of(self, local_id: str) -> RunIntent | ExperimentIntent | None:
        """How a run or experiment started in this journal without the server; read from the file.

        Raises:
            JournalError: the file can't be read.
        """
        if self.path is None or local_id not in self.local | self.experiments:
            return None
        shapes: dict[int, type[RunIntent | ExperimentIntent]] = {
            _LOCAL: RunIntent,
            _EXPERIMENT: ExperimentIntent,
        }
        try:
            payloads, _ = _entries(self.path.read_bytes())
        except OSError as error:
            raise JournalError(f"the ledger {self.path} can't be read ({error.strerror or error})") from error
        for kind, key, value in map(decode, payloads):
            if kind in shapes and key == local_id:
                return msgspec.convert(value, shapes[kind])
        return None

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)


def _entries(text: bytes) -> tuple[list[bytes], bool]:
    """The entries of a file, and whether some are missing."""
    at = _HEAD if text.startswith(_MAGIC) else 0
    incomplete = not at or text[_MARK:_HEAD] != b"\0"
    payloads: list[bytes] = []
    while 0 <= at < len(text):
        at = parse(text, at, payloads)
        if at < len(text):
            incomplete = True
            at = resync(text, at + 1)
    return payloads, incomplete
