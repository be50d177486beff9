"""Recovery: journals whose owner is gone are taken over, delivered by the code that delivers live ones.

Two recoveries at once take turns by the journals' locks; one that is killed leaves a journal like any other.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from withrun.backend import Backend
from withrun.errors import WithrunError
from withrun.journal.apart import Behind, StartedElsewhere
from withrun.journal.creation import find_owned, settle_intents
from withrun.journal.deliver import Deliverer
from withrun.journal.disk import JournalFull, unusable
from withrun.journal.ends import Ends
from withrun.journal.folder import JournalFolder, journals_in, store_folder_of
from withrun.journal.gate import Gate
from withrun.journal.live import kept_path, refused_path
from withrun.journal.local_ids import LocalIds
from withrun.journal.pool import Pool
from withrun.journal.position import Acknowledged, Position
from withrun.journal.publisher import Publisher
from withrun.journal.reader import JournalReader
from withrun.journal.refused import Refusal, RefusedFile
from withrun.journal.retry import GaveUp, Retry
from withrun.journal.spool import Spool
from withrun.journal.turns import OlderFirst, Turns

__all__ = ["Recovered", "recover"]

logger = logging.getLogger("withrun.journal")

_LOOK = 0.2
"""Seconds between looks at what others deliver."""

_OTHERS = 60.0
"""Seconds without progress after which what others hold is left to them."""


class Recovered(msgspec.Struct):
    """What a recovery did.

    Attributes:
        journals: journals that were delivered and deleted.
        delivered: values that are on the server now.
        refused: values that it would not take; kept in the files of `kept`.
        kept: files that list what was refused, and folders with artifacts that could not be published.
        ended: IDs of runs that were ended FAILED because their process died.
        damaged: bytes that could not be read back.
        runs: the server's IDs of runs that started without it, by local ID.
        left: journals that could not be delivered, with the reason; the next recovery tries again.
    """

    journals: int = 0
    delivered: int = 0
    refused: int = 0
    kept: list[str] = []
    ended: list[str] = []
    damaged: int = 0
    runs: dict[str, str] = {}
    left: dict[str, str] = {}


def recover(
    journal_dir: Path,
    store_uri: str,
    backend: Backend,
    *,
    publisher: Publisher | None = None,
    patience: float | None = 10.0,
    threads: int = 4,
    retry: Retry | None = None,
) -> Recovered:
    """Deliver what dead or offline processes left for a store.

    What was logged to one run arrives in order, whoever else delivers at the same time: a journal that comes
    after one which another process is delivering is waited for, as long as that goes on.

    Args:
        journal_dir: holds the journals of all stores.
        store_uri: the store, normalised and without credentials.
        backend: the store.
        publisher: publishes artifacts and model versions.
        patience: seconds to wait for a server that is away, at each call.
        threads: runs delivered side by side.
        retry: in place of one with that patience; its `stop` ends the recovery between two calls, and what is
            left is left.
    """
    if retry is None:
        retry = Retry(stop=threading.Event(), kick=threading.Event(), gate=Gate(), patience=patience)
    pool = Pool(threads) if threads > 1 else None
    rounds = _Rounds(store_folder_of(journal_dir, store_uri), backend, publisher, retry, pool)
    try:
        rounds.go()
    finally:
        if pool is not None:
            pool.close()
    return rounds.report


class _Rounds:
    """Rounds over the journals of a store, until none is left that another one kept waiting.

    Attributes:
        report: what was done.
    """

    def __init__(
        self,
        store_folder: Path,
        backend: Backend,
        publisher: Publisher | None,
        retry: Retry,
        pool: Pool | None,
    ) -> None:
        self.report = Recovered()
        self._damaged: dict[Path, int] = {}
        self._store_folder = store_folder
        self._backend = backend
        self._publisher = publisher
        self._retry = retry
        self._pool = pool

    def go(self) -> None:
        """Deliver all that can be."""
        starts_made = False
        while True:
            before = self.report.journals
            behind = self._round()
            if not behind:
                return
            if self.report.journals > before or self._others_moved():
                continue
            kinds = {type(why) for why in behind}
            if starts_made or kinds != {StartedElsewhere, OlderFirst}:
                return
            # One waits for a start in another, which waits for its turn after the first.
            starts_made = True
            self._round(starts=True)

    def _round(self, *, starts: bool = False) -> list[Behind]:
        """Deliver each journal if it can be; what those say that wait for others.

        Args:
            starts: of one whose turn has not come deliver what it starts.
        """
        report, behind = self.report, list[Behind]()
        report.left.clear()
        for path in JournalFolder.all_in(self._store_folder):
            try:
                self._take(path, starts=starts)
            except (GaveUp, WithrunError) as error:  # noqa: PERF203 - beside delivery, no cost
                report.left[str(path)] = str(error.__cause__ if isinstance(error, GaveUp) else error)
                if isinstance(error, GaveUp):
                    return []
                if isinstance(error, Behind):
                    behind.append(error)
            except OSError as error:
                # This journal's disk; others may lie well.
                report.left[str(path)] = str(unusable(path, error))
        return behind

    def _take(self, path: Path, *, starts: bool) -> None:
        """Deliver a journal, unless somebody holds it."""
        folder = JournalFolder.take(path)
        if folder is None:
            return
        recovery = _Recovery(
            folder,
            self._store_folder,
            self._backend,
            self._retry,
            self._publisher,
            self._pool,
            self.report,
        )
        try:
            recovery.run(starts=starts)
            self.report.journals += 1
        finally:
            folder.release()
            # The same bytes again, if this is not the first round.
            self._damaged[path] = max(recovery.damaged, self._damaged.get(path, 0))
            self.report.damaged = sum(self._damaged.values())

    def _others_moved(self) -> bool:
        """Wait while other processes deliver journals of this store; tells whether they are through with one.

        That may be what others wait for. One that is not delivered further for long is left to its holder.
        """
        patience = _OTHERS if self._retry.patience is None else self._retry.patience
        held, since = self._held_by_others(), time.monotonic()
        while held and not self._retry.stop.wait(_LOOK):
            now = self._held_by_others()
            if any(not path.exists() for path in held):
                return True
            if now != held:
                held, since = {path: at for path, at in now.items() if path in held}, time.monotonic()
            if time.monotonic() - since >= patience:
                return False
        return False

    def _held_by_others(self) -> dict[Path, Position]:
        """The journals that other recoveries hold, and how far each is."""
        return {
            path: Acknowledged.look(path / "acknowledged")
            for path in journals_in(self._store_folder)
            if JournalFolder.is_recovered(path)
        }


class _Recovery:
    """The recovery of one journal; also keeps its accounts.

    Attributes:
        damaged: bytes that could not be read back.
    """

    def __init__(
        self,
        folder: JournalFolder,
        store_folder: Path,
        backend: Backend,
        retry: Retry,
        publisher: Publisher | None,
        pool: Pool | None,
        report: Recovered,
    ) -> None:
        self._folder = folder
        self._backend = backend
        self._retry = retry
        self._report = report
        self.damaged = 0
        self._local_ids = LocalIds(store_folder)
        self._refused = RefusedFile(refused_path(store_folder, folder.id))
        self._kept = (self._refused.path, kept_path(store_folder, folder.id))
        self._ends = Ends(folder, backend, self._local_ids, retry)
        self._turns = Turns(folder, self._local_ids)
        self._spool = Spool(folder.spool, self._kept[1])
        self._lock = threading.Lock()
        self._deliverer = Deliverer(
            backend,
            folder.ledger,
            self._spool,
            self._local_ids,
            self._refused,
            retry,
            self,
            publisher=publisher,
            pool=pool,
        )

    def run(self, *, starts: bool) -> None:
        """Deliver the journal, end its runs, delete it.

        Args:
            starts: if its turn has not come, deliver what it starts.

        Raises:
            Behind: another journal comes first.
        """
        try:
            try:
                self._turns.check_all()
            except OlderFirst:
                if starts:
                    self._start_all()
                raise
            self._deliver()
        finally:
            ledger = self._folder.ledger
            self._report.runs |= {uid: ledger.bound[uid] for uid in ledger.local & ledger.bound.keys()}
            kept = [str(path) for path in self._kept if path.exists()]
            self._report.kept += [path for path in kept if path not in self._report.kept]

    def _start_all(self) -> None:
        """Deliver nothing but what others may wait for, without acknowledging it."""
        delivered = self._report.delivered
        reader = JournalReader(self._folder)
        try:
            while (window := reader.window()) is not None:
                with contextlib.suppress(Behind):
                    self._deliverer.start(window)
        finally:
            reader.close()
            self._report.delivered = delivered

    def _deliver(self) -> None:
        self._retry.call(lambda: settle_intents(self._backend, self._folder.ledger, abandoned=True))
        reader = JournalReader(self._folder)
        try:
            while (window := reader.window()) is not None:
                self._making_room(partial(self._deliverer.deliver, window))
                if reader.damaged > self.damaged:
                    self._start_again(reader)  # before it is acknowledged: nothing tells of it afterwards
                for no, steps in window.runs.items():
                    self._ends.note_times(self._deliverer.known_id(window.refs[no]), steps)
                self._making_room(self._local_ids.write)
                self._folder.acknowledged.move(window.end)
                self._folder.delete_segments(window.end.segment)
                self._spool.sweep()
            if reader.damaged > self.damaged:
                self._start_again(reader)
        finally:
            reader.close()
            self.damaged = reader.damaged
        # Killed before it could journal the CREATE record of a run that was to start locally after all.
        self._retry.call(
            lambda: settle_intents(self._backend, self._folder.ledger, abandoned=True, delivered=True)
        )
        if self._folder.ledger.incomplete:
            self._ask_what_it_owned()
        self._report.ended += self._ends.end_all()
        for uid, run_id in self._folder.ledger.bound.items():
            # Runs that started without the server stay known by their local IDs.
            if uid in self._folder.ledger.local:
                self._local_ids.add("run", uid, run_id)
        self._making_room(self._local_ids.write)
        self._folder.delete()

    def _start_again(self, reader: JournalReader) -> None:
        """Start from the ledger what a damaged record may have been the start of."""
        for local_id in sorted(self._folder.ledger.experiments | self._folder.ledger.local):
            self._deliverer.start_again(local_id)
        self.damaged = reader.damaged

    def _making_room(self, do: Callable[[], None]) -> None:
        """Do what may be repeated; on a full disk once more, when what the journal does not use is free."""
        try:
            do()
        except JournalFull:
            self._folder.trim()
            do()

    def _ask_what_it_owned(self) -> None:
        logger.warning(
            "what journal %s noted of its runs is damaged, or found no room; the server is asked instead",
            self._folder.path,
        )
        owned = self._retry.call(lambda: list(find_owned(self._backend, self._folder.id)))
        for run in owned:
            if run.run_id not in self._folder.ledger.owned:
                self._folder.ledger.own(run.run_id, run.start_time or 0)

    # --- accounts, told by the deliverer ---
    def settle(self, no: int, delivered: int, refusals: list[Refusal]) -> None:
        """Count values as delivered or refused."""
        with self._lock:
            self._report.delivered += delivered
            self._report.refused += len(refusals)

    def bound(self, no: int, run_id: str) -> None:
        """Nobody waits for the ID: the process is gone."""
