"""Recovery: journals whose owner is gone are taken over, delivered by the code that delivers live ones.

Two recoveries at once take turns by the journals' locks; one that is killed leaves a journal like any other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path

import msgspec

from withrun.backend import Backend
from withrun.errors import NotFound, WithrunError
from withrun.journal.apart import StartedElsewhere
from withrun.journal.creation import OWNER_TAG, find_owned, settle_intents
from withrun.journal.deliver import Deliverer
from withrun.journal.disk import JournalFull, OwnerLock, unusable
from withrun.journal.folder import JournalFolder, Origin, journals_in, store_folder_of
from withrun.journal.follower import Follower
from withrun.journal.gate import Gate
from withrun.journal.live import kept_path, refused_path
from withrun.journal.local_ids import LocalIds
from withrun.journal.pack import Batch, Window
from withrun.journal.pool import Pool
from withrun.journal.position import Acknowledged
from withrun.journal.publisher import Publisher
from withrun.journal.reader import JournalReader
from withrun.journal.record import Kind, decode
from withrun.journal.refused import Refusal, RefusedFile
from withrun.journal.retry import GaveUp, Retry
from withrun.journal.spool import Spool

__all__ = ["Recovered", "Waiting", "abandoned_by_store", "recover", "some_are_free", "waiting"]

logger = logging.getLogger("withrun.journal")


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
    """List a store's journals, oldest first; changes nothing."""
    found = []
    for path in journals_in(store_folder_of(journal_dir, store_uri)):
        with contextlib.suppress(FileNotFoundError):  # delivered just now
            found.append(_look(path))
    return found


def some_are_free(journal_dir: Path, store_uri: str) -> bool:
    """Whether a store has a journal that nobody holds; changes nothing."""
    paths = journals_in(store_folder_of(journal_dir, store_uri))
    return not all(OwnerLock.is_held(path / "lock") for path in paths)


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
            if origin is not None and not OwnerLock.is_held(path / "lock"):
                found.setdefault(origin.store_uri, []).append(path)
    return found


def _look(path: Path) -> Waiting:
    origin = JournalFolder.origin_of(path)
    alive = OwnerLock.is_held(path / "lock")
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


def recover(
    journal_dir: Path,
    store_uri: str,
    backend: Backend,
    *,
    publisher: Publisher | None = None,
    patience: float | None = 10.0,
    threads: int = 4,
    stop: threading.Event | None = None,
    gate: Gate | None = None,
) -> Recovered:
    """Deliver what dead or offline processes left for a store.

    Args:
        journal_dir: holds the journals of all stores.
        store_uri: the store, normalised and without credentials.
        backend: the store.
        publisher: publishes artifacts and model versions.
        patience: seconds to wait for a server that is away, at each call; None: for as long as it takes.
        threads: runs delivered side by side.
        stop: ends it between two calls; what is left is left.
        gate: for the calls; those of an API's own, if there is one.
    """
    report = Recovered()
    store_folder = store_folder_of(journal_dir, store_uri)
    retry = Retry(
        stop=stop or threading.Event(), kick=threading.Event(), gate=gate or Gate(), patience=patience
    )
    pool = Pool(threads) if threads > 1 else None

    def again() -> bool:
        """Deliver all that can be; tells whether that may have been what others wait for."""
        report.left.clear()
        delivered, behind = report.journals, 0
        for path in JournalFolder.all_in(store_folder):
            try:
                take(path)
            except (GaveUp, WithrunError) as error:  # noqa: PERF203 - beside delivery, no cost
                report.left[str(path)] = str(error.__cause__ if isinstance(error, GaveUp) else error)
                behind += isinstance(error, StartedElsewhere)
                if isinstance(error, GaveUp):
                    return False
            except OSError as error:
                # This journal's disk; others may lie well.
                report.left[str(path)] = str(unusable(path, error))
        return bool(behind) and report.journals > delivered

    def take(path: Path) -> None:
        """Deliver a journal, unless somebody holds it."""
        folder = JournalFolder.take(path)
        if folder is None:
            return
        try:
            _Recovery(folder, store_folder, backend, retry, publisher, pool, report).run()
            report.journals += 1
        finally:
            folder.release()

    try:
        while again():
            pass
    finally:
        if pool is not None:
            pool.close()
    return report


class _Recovery:
    """The recovery of one journal; also keeps its accounts."""

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
        self._local_ids = LocalIds(store_folder)
        self._refused = RefusedFile(refused_path(store_folder, folder.id))
        self._kept = (self._refused.path, kept_path(store_folder, folder.id))
        self._last_at: dict[str, int] = {}
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

    def run(self) -> None:
        """Deliver the journal, end its runs, delete it."""
        try:
            self._deliver()
        finally:
            ledger = self._folder.ledger
            self._report.runs |= {uid: ledger.bound[uid] for uid in ledger.local & ledger.bound.keys()}
            self._report.kept += [str(path) for path in self._kept if path.exists()]

    def _deliver(self) -> None:
        self._retry.call(lambda: settle_intents(self._backend, self._folder.ledger, abandoned=True))
        reader = JournalReader(self._folder)
        try:
            while (window := reader.window()) is not None:
                self._deliverer.deliver(window)
                self._note_times(window)
                self._write_local_ids()
                self._folder.acknowledged.move(window.end)
                self._folder.delete_segments(window.end.segment)
                self._spool.sweep()
        finally:
            reader.close()
            self._report.damaged += reader.damaged
        if reader.damaged:
            for local_id in sorted(self._folder.ledger.experiments | self._folder.ledger.local):
                self._deliverer.start_again(local_id)
        # Killed before it could journal the CREATE record of a run that was to start locally after all.
        self._retry.call(
            lambda: settle_intents(self._backend, self._folder.ledger, abandoned=True, delivered=True)
        )
        if self._folder.ledger.incomplete:
            self._ask_what_it_owned()
        for run in list(self._folder.ledger.owned):
            self._end(run)
        for uid, run_id in self._folder.ledger.bound.items():
            # Runs that started without the server stay known by their local IDs.
            if uid in self._folder.ledger.local:
                self._local_ids.add("run", uid, run_id)
        self._write_local_ids()
        self._folder.delete()

    def _write_local_ids(self) -> None:
        """Write what a full disk did not take: nothing that would tell it again is acknowledged before."""
        try:
            self._local_ids.write()
        except JournalFull:
            self._folder.trim()
            self._local_ids.write()

    def _ask_what_it_owned(self) -> None:
        logger.warning(
            "what journal %s noted of its runs is damaged, or found no room; the server is asked instead",
            self._folder.path,
        )
        owned = self._retry.call(lambda: list(find_owned(self._backend, self._folder.id)))
        for run in owned:
            if run.run_id not in self._folder.ledger.owned:
                self._folder.ledger.own(run.run_id, run.start_time or 0)

    def _note_times(self, window: Window) -> None:
        for no, steps in window.runs.items():
            run_id = self._deliverer.known_id(window.refs[no])
            times = [self._last_at.get(run_id, 0)]
            for step in steps:
                times.append(step.at)
                if isinstance(step, Batch) and step.metrics:
                    times.append(max(point.timestamp for point in step.metrics))
            self._last_at[run_id] = max(times)

    def _end(self, run: str) -> None:
        """End a run FAILED if the dead process owned it, nobody else does now, and it is still RUNNING."""
        ledger = self._folder.ledger
        run_id = ledger.bound.get(run) or self._local_ids.resolve("run", run) or run
        try:
            record = self._retry.call(lambda: self._backend.get_run(run_id))
        except NotFound:
            ledger.done(run)
            return
        tags = {tag.key: tag.value for tag in record.tags}
        if (
            record.status == "RUNNING"
            and record.lifecycle_stage == "active"
            and tags.get(OWNER_TAG) == self._folder.id
        ):
            times = [self._last_at.get(run_id, 0), record.start_time or 0, ledger.owned[run]]
            end_time = max([*times, *(point.timestamp for point in record.metrics)])
            self._retry.call(lambda: self._backend.update_run(run_id, status="FAILED", end_time=end_time))
            self._report.ended.append(run_id)
            logger.warning("run %s was ended FAILED: the process that it belonged to is gone", run_id)
        ledger.done(run)

    # --- accounts, told by the deliverer ---
    def settle(self, no: int, delivered: int, refusals: list[Refusal]) -> None:
        """Count values as delivered or refused."""
        with self._lock:
            self._report.delivered += delivered
            self._report.refused += len(refusals)

    def bound(self, no: int, run_id: str) -> None:
        """Nobody waits for the ID: the process is gone."""
