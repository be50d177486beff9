"""Journal: the write path of one store in this process.

All that is logged is appended here first (`RunLog`), and a drain delivers it. Nothing is opened before the
first record, so a program that only reads leaves no trace.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from withrun.backend import Backend
from withrun.errors import JournalError, WithrunError
from withrun.journal.apart import Apart
from withrun.journal.background import BackgroundRecovery
from withrun.journal.deliver import Deliverer
from withrun.journal.disk import JournalFull, JournalGone
from withrun.journal.folder import store_folder_of
from withrun.journal.gate import Gate, was_forked_in_a_call
from withrun.journal.idle import Hold, Users
from withrun.journal.introductions import RunRef
from withrun.journal.ledger import Ledger
from withrun.journal.live import Live, kept_path, refused_path
from withrun.journal.local_ids import LocalIds, looks_local
from withrun.journal.owned_runs import OwnedRuns
from withrun.journal.pack import Window
from withrun.journal.pool import Pool
from withrun.journal.position import Position
from withrun.journal.publisher import Publisher
from withrun.journal.record import HEADER, ExperimentIntent, Kind, ModelIntent
from withrun.journal.refused import Refusal, RefusedFile
from withrun.journal.retry import GaveUp, Retry
from withrun.journal.run_log import RunLog, now_ms
from withrun.journal.run_logs import RunLogs
from withrun.journal.spool import Spool
from withrun.journal.turns import Turns
from withrun.journal.waits import Waits

__all__ = ["Durability", "Journal"]

logger = logging.getLogger("withrun.journal")

T = TypeVar("T")

Durability = Literal["process", "power"]
"""What an accepted record survives: the death of the process, or also a power cut a second later."""

_LAST_ATTEMPT = 1.0
"""Seconds that closing gives a server that did not answer before."""

_STOPPING = 5.0
"""Seconds that closing waits for a call under way."""

_DIRECT_PATIENCE = 10.0
"""Seconds that a call waits for the server when the disk is full."""


class Journal:
    """The journal of this process for one store; safe from any thread, and usable on after a fork.

    Args:
        journal_dir: holds the journals of all stores.
        store_uri: the store, normalised and without credentials.
        connect: makes the backend that the drain uses, at the first record; closed with the journal. None:
            nothing is delivered by this process (offline), `recover` or another process does it later.
        publisher: makes, of that backend, what publishes artifacts and model versions.
        durability: see `Durability`.
        threads: runs delivered side by side; 1 for stores that take one writer (sqlite).
        mapped: write through a memory map; None: where the file system is known to allow it.
        opened: called when the journal's folder has been made, in a forked child again.
        brief: offline, let go of what is journaled while no run is open, too, for others to deliver.
    """

    def __init__(
        self,
        journal_dir: Path,
        store_uri: str,
        *,
        connect: Callable[[], Backend] | None = None,
        publisher: Callable[[Backend], Publisher] | None = None,
        durability: Durability = "process",
        threads: int = 4,
        mapped: bool | None = None,
        opened: Callable[[], None] | None = None,
        brief: bool = False,
    ) -> None:
        self.store_uri = store_uri
        self.store_folder = store_folder_of(journal_dir, store_uri)
        self.local_ids = LocalIds(self.store_folder)
        self._connect = connect
        self._make_publisher = publisher
        self._backend: Backend | None = None
        self._durability = durability
        self._threads = threads
        self._mapped = mapped
        self._when_opened = opened
        self.logs = RunLogs(self)
        self.owned = OwnedRuns(self)
        self._itself = RunLog(self, 0, "")
        self._is_brief = brief and connect is None
        self._users = Users(self._let_go)
        self._waits = Waits(store_uri, self.logs, lambda: self._live, lambda: self._recovery)
        self._closed = False
        self._is_gone = False
        self._live: Live | None = None
        self._recovery: BackgroundRecovery | None = None
        self._start_over()
        _journals.add(self)

    def __repr__(self) -> str:
        return f"<Journal of {self.store_uri} in {self.store_folder}>"

    def _start_over(self) -> None:
        """What a forked child must have of its own."""
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._kick = threading.Event()
        self._gate = Gate()

    # --- runs ---
    @property
    def delivers(self) -> bool:
        """Whether this process delivers what it journals."""
        return self._connect is not None and not was_forked_in_a_call()

    @property
    def owner(self) -> str:
        """The value of the ownership tag of runs that this process owns; opens the journal."""
        return self.open().folder.id

    @property
    def refused_folder(self) -> Path:
        """Where what the server refused is kept."""
        return self.store_folder / "refused"

    @property
    def spool(self) -> Path:
        """Where artifacts to be published are put; opens the journal."""
        with self._lock:
            live = self.open()
            live.folder.spool.mkdir(mode=0o700, exist_ok=True)
            at = live.writer.position
        if self._is_brief:
            self._users.look_later(at)
        return live.folder.spool

    def hold(self) -> Hold:
        """Keep the journal open for as long as what this returns lives, or inside its block.

        For what must lie in one journal, such as a spooled file and the record that names it.
        """
        return self._users.hold()

    def known(self, run_id: str) -> RunLog | None:
        """The log of a run that was logged to here and is in use or has something pending, else None."""
        log = self.logs.known(run_id)
        if log is None and not looks_local(run_id):
            local_id = self.local_ids.local_of("run", run_id)
            log = None if local_id is None else self.logs.known(local_id)
        return log

    def run(self, run_id: str, *, uid: str = "") -> RunLog:
        """The log of a run that exists; the same object for the same run, as long as it is in use.

        Args:
            run_id: its ID on the server, or its local ID.
            uid: the same local ID, if it may not have been delivered yet.
        """
        if uid:
            return self.logs.get(run_id, uid, self.local_ids.resolve("run", run_id))
        return self.known(run_id) or self.logs.get(run_id, uid, None)

    def attempt(self, call: Callable[[], T], timeout: float) -> T:
        """Make a call that may be repeated, until the server answers.

        Args:
            call: what to call.
            timeout: seconds to wait for the server; then its last error is raised.
        """
        try:
            return self.patient(timeout).call(call)
        except GaveUp as gave_up:
            raise gave_up.__cause__ or gave_up from None

    def patient(self, timeout: float) -> Retry:
        """What repeats a call for so many seconds, while the server does not answer."""
        return Retry(
            stop=self._stop, kick=threading.Event(), gate=self._gate, patience=timeout, renewable=False
        )

    def ensure_experiment(self, intent: ExperimentIntent) -> None:
        """Have an experiment found or created before the runs that are journaled after this."""
        with self._lock:  # so that both are in one journal
            self.open().folder.ledger.start_experiment(intent)
            self._itself._put((Kind.EXPERIMENT, 0, now_ms(), intent), 1)

    def ensure_model(self, intent: ModelIntent) -> None:
        """Have a registered model found or created before the versions that are journaled after this."""
        self._itself._put((Kind.MODEL, 0, now_ms(), intent), 1)

    # --- appending, behind RunLog ---
    def append(self, log: RunLog, framed: bytes) -> None:
        """Append a frame where the quick way did not: first use, full segment, after a fork, full disk."""
        try:
            self._append(log, framed)
        except JournalFull as full:
            self._send_now(log, framed, full)

    def _append(self, log: RunLog, framed: bytes) -> None:
        with self._lock:
            # In one write: no record is ever read before its run's introduction.
            text = log.introduction() + framed if log.no else framed
            while True:
                live = self.open()  # another one, if a signal handler forks here
                if log.no:
                    live.turns.note(log.run_id, log.uid)
                writer = live.writer
                segment = writer.current
                try:
                    segment.write(text)
                    break
                except ValueError:
                    writer.roll(segment, len(text))
            log.bind(segment.write)
            if log.no:
                live.folder.ledger.introduce(log.no, log.run_id, log.uid)
            self.logs.has_pending(log)
            at = writer.position
        if self._is_brief:
            self._users.written(at)

    def _send_now(self, log: RunLog, framed: bytes, full: JournalFull) -> None:
        """On a full disk: deliver what is pending of this run, which may make room; else send it directly."""
        if not self.delivers:
            raise full
        if isinstance(full, JournalGone) and not self._is_gone:
            self._is_gone = True
            logger.error("%s; meanwhile each call waits until the server has what it logs", full)
        if not self.wait(log, log.accepted, timeout=None, exit_timeout=_DIRECT_PATIENCE):
            raise JournalError(f"{full}; and {self.store_uri} can't be written to meanwhile") from full
        with contextlib.suppress(JournalFull):
            self._append(log, framed)
            return
        window = Window()
        window.add([framed[HEADER.size :]], {log.no: RunRef(log.run_id, log.uid)})
        retry = Retry(stop=self._stop, kick=threading.Event(), gate=self._gate, patience=_DIRECT_PATIENCE)
        live = self._live
        if live is not None:
            deliverer = self._deliverer(live.folder.ledger, live.spool, live.refused, retry, turns=live.turns)
        else:
            spool = Spool(self.store_folder, kept_path(self.store_folder, "direct"))
            refused = RefusedFile(refused_path(self.store_folder, "direct"))
            deliverer = self._deliverer(Ledger(None), spool, refused, retry)
        self.logs.has_pending(log)
        try:
            deliverer.deliver(window)
        except GaveUp as gave_up:
            raise JournalError(f"{full}; and the server can't be written to: {gave_up.__cause__}") from full

    # --- waiting ---
    def wait(
        self,
        log: RunLog,
        position: int,
        *,
        exit_timeout: float | None = None,
        timeout: float | None = None,
        tell: Callable[[], None] | None = None,
    ) -> bool:
        """Wait until a run's first `position` values are on the server or refused.

        Args:
            log: the run.
            position: `log.accepted` as it was after the last call to wait for.
            exit_timeout: give up after so many seconds without progress of the journal; None: never.
            timeout: give up after so many seconds in any case; None: never.
            tell: called now and then meanwhile, to show how it goes on.

        Returns:
            Whether it is; False also if this process delivers nothing, or, with no limit to the time, if the
            run waits for what another journal starts and nobody delivers.

        Raises:
            JournalError: the drain has died.
        """
        return self._waits.for_run(log, position, exit_timeout, timeout, tell)

    def flush(
        self, timeout: float | None = None, *, exit_timeout: float | None = None, apart: bool = True
    ) -> bool:
        """Wait until all that was journaled here before is on the server or refused; see `wait`.

        Args:
            timeout: give up after so many seconds in any case; None: never.
            exit_timeout: give up after so many seconds without progress; None: never.
            apart: wait also for the runs that wait for other journals.
        """
        return self._waits.for_all(timeout, exit_timeout, apart=apart)

    def is_apart(self, log: RunLog) -> bool:
        """Whether a run waits for another journal."""
        return self._waits.is_apart(log)

    def await_turn(self, log: RunLog, patience: float | None) -> bool:
        """Wait until all is delivered that other processes, gone by now, logged to a run.

        Args:
            log: the run.
            patience: seconds in which nothing of it is delivered, after which to give up; None: never.

        Returns:
            Whether it is: then nothing that is older can reach the run any more.
        """
        turns = self.open().turns
        turns.note_again(log.run_id)
        return turns.wait(log.run_id, patience, self._recover)

    def _recover(self) -> bool:
        """Have delivered what runs wait for, as far as nobody holds it; tells whether that is going on.

        How it goes on, here or in another process, is told to those who wait.
        """
        live = self._live
        if live is not None and live.drain is not None and live.turns.moved():
            live.drain.apart.moved()
            with self.logs.progress.changed:
                self.logs.progress.moved()
        recovery, connect = self._recovery, self._connect
        if recovery is None and connect is not None:
            recovery = self._recovery = BackgroundRecovery(
                self.store_folder.parent, self.store_uri, connect, self._make_publisher, self._threads
            )
        if recovery is not None:
            recovery.look_again()
        return self._waits.is_recovering

    def open_for(self, run_id: str) -> Live:
        """What this holds open, for as long as that run is."""
        with self._lock:
            live = self.open()
            self._users.runs.add(run_id)
        return live

    def let_go_later(self, run_id: str) -> None:
        """Stay open for that run no more, but for what its handle asks next."""
        with self._lock:
            at = self.open().writer.position
            self._users.runs.discard(run_id)
        if self._is_brief:
            self._users.look_later(at)

    def let_go(self, ended: str | None = None) -> None:
        """Offline, leave all to `sync`, unless a run is open, as soon as nobody needs the journal.

        Without that, what a notebook logged could not be delivered before it is closed. The next record opens
        another journal.

        Args:
            ended: the ID of a run that was ended just now.
        """
        if ended is None:
            self._users.look()
        else:
            self._users.ended(ended)

    def _let_go(self, unmoved: Position | None = None) -> Position | None:
        """Let go if nobody needs the journal, nor has written past `unmoved`; else tells where it stands."""
        with self._lock:
            live = self._live
            if live is None or self._connect is not None:
                return None
            position = live.writer.position
            if self._users or (unmoved is not None and position != unmoved):
                return position
            self._live = None
            live.close(0.0)
            return None

    @property
    def trouble(self) -> WithrunError | None:
        """Why no records go through; None while they do."""
        return self._waits.trouble

    @property
    def held_up(self) -> WithrunError | None:
        """Why some records wait; None if all go through."""
        return self._waits.held_up(self._live)

    def take_refusals(self, log: RunLog | None = None) -> list[Refusal]:
        """The refusals, of one run or of all, that nobody was given yet; each is given once."""
        return self.logs.take_refusals(log)

    # --- opening and closing ---
    @property
    def backend(self) -> Backend:
        """What the drain delivers by."""
        if self._connect is None:
            raise JournalError("this journal was opened offline: it can't create runs on the server")
        if self._backend is None:
            self._backend = self._connect()
        return self._backend

    def open(self) -> Live:
        """What this holds open; made at the first call, and again after it was let go of or a fork."""
        if self._live is not None:
            return self._live
        with self._lock:
            quicker = self._opened()
            if quicker is not None:
                return quicker
            if self._closed:
                raise JournalError(
                    f"the journal of {self.store_uri} was closed, and a record was to be written; log before "
                    "`api.close()`, or use a new API instance"
                )
            pid = os.getpid()
            live = Live.create(self.store_folder, self.store_uri, self.local_ids, mapped=self._mapped)
            if os.getpid() != pid:  # forked by a signal handler in the midst of this: it is all the parent's
                live.leave()
                return self.open()
            quicker = self._opened()
            if quicker is not None:  # a signal handler logged while we were at it
                live.discard()
                return quicker
            self._live = live
            if self._when_opened is not None:
                self._when_opened()
            if self.delivers:
                self._start_drain(live)
            if self._durability == "power":
                live.start_syncing()
            self.owned.opened(live)
            return live

    def _opened(self) -> Live | None:
        return self._live

    def _start_drain(self, live: Live) -> None:
        retry = Retry(stop=self._stop, kick=self._kick, gate=self._gate)
        live.pool = Pool(self._threads) if self._threads > 1 else None
        apart = Apart(live.folder.acknowledged.position)
        deliverer = self._deliverer(
            live.folder.ledger, live.spool, live.refused, retry, live.pool, apart, live.turns
        )
        live.start_drain(deliverer, apart, retry, self.backend, self.logs.window_done, self._recover)

    def _deliverer(
        self,
        ledger: Ledger,
        spool: Spool,
        refused: RefusedFile,
        retry: Retry,
        pool: Pool | None = None,
        apart: Apart | None = None,
        turns: Turns | None = None,
    ) -> Deliverer:
        backend = self.backend
        return Deliverer(
            backend,
            ledger,
            spool,
            self.local_ids,
            refused,
            retry,
            self.logs,
            publisher=None if self._make_publisher is None else self._make_publisher(backend),
            pool=pool,
            apart=apart,
            turns=turns,
        )

    def close(self, *, exit_timeout: float | None = 30.0) -> bool:
        """Deliver what is pending and let go of the journal; deletes it if all is settled.

        Returns:
            Whether all is on the server or refused. If not, one warning says what is kept, and where; the
            next program that uses this store delivers it.
        """
        self._closed = True
        self._users.close()
        live = self._live
        settled = stopped = True
        if live is not None:
            try:
                if not self.flush(exit_timeout=exit_timeout, apart=False) and exit_timeout is not None:
                    # Patience may have been spent before: one more attempt, the server may be back.
                    self.flush(min(_LAST_ATTEMPT, exit_timeout), apart=False)
                if live.drain is not None and live.drain.apart:
                    # What dead processes left may be on its way; what living ones hold is not waited for.
                    is_coming = self._waits.is_recovering
                    self.flush(None if is_coming else _LAST_ATTEMPT, exit_timeout=exit_timeout)
            except JournalError as error:
                logger.error("%s", error)
            stopping = _STOPPING if exit_timeout is None else min(_STOPPING, exit_timeout)
            settled, stopped = live.close(max(stopping, _LAST_ATTEMPT))
            self._live = None
            if self._recovery is not None:
                self._recovery.close()
            if live.drain is not None and not settled:
                self._waits.warn_kept(live)
        if stopped and self._backend is not None:
            self._backend.close()
            self._backend = None
        return settled

    def warn_kept(self) -> None:
        """Say that what is pending is not delivered yet, and what becomes of it; once, until it goes on."""
        self._waits.warn_kept(self._live)

    def be_impatient(self) -> None:
        """Wait for nothing more that does not move: the user has interrupted a wait."""
        self.logs.progress.be_impatient()

    def forked(self) -> None:
        """In a forked child: leave the parent's journal alone; the next record opens another."""
        live, self._live = self._live, None
        self._start_over()
        self._backend = self._recovery = None
        self._users = Users(self._let_go)
        self.logs.forked()
        self.owned.forked()
        self._itself.leave_to_parent()
        if live is not None:
            live.leave()


_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for journal in list(_journals):
        journal.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
