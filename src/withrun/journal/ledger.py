"""The ledger: what became of a journal's runs, kept apart from the data, which is deleted once delivered.

It says which creating calls were about to be sent (and may have been applied by a server that never
answered), which ID the server gave a run, which runs this process owns, and which it has ended.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from withrun.journal.disk import JournalFull, unusable
from withrun.journal.record import decode, frame, parse, resync

__all__ = ["Ledger"]

_INTENT, _BOUND, _WITHDRAWN, _OWNED, _DONE, _LOCAL, _REFUSED = range(7)


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
        refused: why the server would not create a run that started without it, by uid.

    Args:
        path: the file; None keeps all in memory, for when the disk is full.

    What is noted counts at once, also when writing it down fails with `JournalFull`.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._descriptor = -1
        self.intents: dict[str, str] = {}
        self.withdrawn: set[str] = set()
        self.bound: dict[str, str] = {}
        self.owned: dict[str, int] = {}
        self.local: set[str] = set()
        self.refused: dict[str, str] = {}
        self._lock = threading.RLock()
        if path is None:
            return
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._load(path.read_bytes())
        except OSError as error:
            raise unusable(path.parent, error) from error

    def _load(self, text: bytes) -> None:
        at = 0
        payloads: list[bytes] = []
        while 0 <= at < len(text):
            at = parse(text, at, payloads)
            at = resync(text, at + 1)
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
        elif kind == _REFUSED:
            self.refused[key] = value
        elif kind == _DONE:
            self.owned.pop(key, None)
            self.intents.pop(key, None)
            self.withdrawn.discard(key)

    def _append(self, *entry: object) -> None:
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

    def intend(self, uid: str, experiment_id: str) -> None:
        """Note that a run is about to be created."""
        self._append(_INTENT, uid, experiment_id)

    def withdraw(self, uid: str) -> None:
        """Note that the creation was given up; should the server have applied it, the run is unwanted."""
        self._append(_WITHDRAWN, uid, None)

    def bind(self, uid: str, run_id: str) -> None:
        """Note the ID that the server gave a run."""
        self._append(_BOUND, uid, run_id)

    def start_locally(self, uid: str) -> None:
        """Note that a run is known by its uid, because it started without the server."""
        self._append(_LOCAL, uid, None)

    def refuse(self, uid: str, reason: str) -> None:
        """Note that the server would not create a run: what is logged to it can't be delivered."""
        self._append(_REFUSED, uid, reason)

    def own(self, run: str, since: int) -> None:
        """Note that this process answers for the run's end."""
        self._append(_OWNED, run, since)

    def done(self, run: str) -> None:
        """Note that the run's end is on the server, or that its creation is settled."""
        self._append(_DONE, run, None)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)
