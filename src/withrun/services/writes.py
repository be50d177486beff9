"""The write path: how what is logged to an API's runs reaches the store, through this process's journal."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from withrun.deadline import within
from withrun.errors import JournalError, OfflineError, Refused, ServerUnreachable, WithrunError
from withrun.journal import (
    ArtifactIntent,
    Delivery,
    Durability,
    Hold,
    Journal,
    Lease,
    RunIntent,
    RunLog,
    lease,
    looks_local,
    new_uid,
)
from withrun.journal.creation import PARENT_TAG
from withrun.journal.disk import write_private
from withrun.journal.retry import is_passing
from withrun.journal.spool import artifact_folder, artifact_folders, complete
from withrun.schema import RunStatus
from withrun.transfer.progress import Bar

if TYPE_CHECKING:
    from withrun.backend import Backend, RunRecord
    from withrun.journal import Publisher
    from withrun.journal.background import BackgroundRecovery
    from withrun.journal.refused import Refusal

__all__ = ["OnUnreachable", "Spool", "WritePath", "WritePolicy"]

T = TypeVar("T")

logger = logging.getLogger("withrun")

OnUnreachable = Literal["raise", "offline"]

_ONE_ATTEMPT = 1.0
"""Seconds that a server gets which did not answer before."""

_AWAY = 2.0
"""Seconds for which a server that was just found away is not waited for again."""

_SHOWN_REFUSALS = 5
"""Refusals that an error spells out; all are in the log and kept aside."""


@dataclass(frozen=True)
class WritePolicy:
    """What of an API's configuration the write path needs; see the fields of `BaseMlflowApi`."""

    journal_dir: Path
    offline: bool
    exit_timeout: float | None
    connect_timeout: float
    on_unreachable: OnUnreachable
    strict: bool
    durability: Durability


@dataclass(frozen=True)
class Spool:
    """Where the artifacts of a run that the server does not know yet wait, and how they are announced.

    Attributes:
        folder: the run's artifact folder till then; what is published is to lie there first.
        log: the run's log.
        hold: keeps the journal that the folder lies in open, so that it takes the announcement too.
    """

    folder: Path
    log: RunLog
    hold: Hold

    def add(self, path_in_run: str) -> None:
        """Have what lies at that path published once the run is on the server."""
        with self.hold:
            self.log.artifact(ArtifactIntent(self.name(path_in_run), path_in_run))

    def name(self, path_in_run: str) -> str:
        """How the journal names what lies at that path."""
        return "/".join(("runs", self.log.run_id, "artifacts", *filter(None, [path_in_run])))


class WritePath:
    """Takes what is logged, in order per run. Keys and values are checked and encoded already.

    Args:
        store_uri: the store's name.
        policy: how to write; None: this API has no store that anything could be delivered to.
        connect: makes a backend for the journal to deliver by.
        publisher: makes of that backend what publishes spooled artifacts.
        recovery: delivers what dead processes left; None if that is not this API's business.
        threads: runs delivered side by side.
        identity: users with different ones share no journal.
    """

    def __init__(
        self,
        store_uri: str,
        policy: WritePolicy | None,
        *,
        connect: Callable[[], Backend],
        publisher: Callable[[Backend], Publisher],
        recovery: BackgroundRecovery | None,
        threads: int,
        identity: str,
    ) -> None:
        self._store_uri = store_uri
        self._policy = policy
        self._connect = connect
        self._publisher = publisher
        self._recovery = recovery
        self._threads = threads
        self._identity = identity
        self._lease: Lease | None = None
        self._closed = False
        self._shortcuts: weakref.WeakSet[Any] = weakref.WeakSet()
        self._told_of_local = False
        self._away_until = 0.0
        self._lock = threading.RLock()
        _paths.add(self)

    @property
    def journal(self) -> Journal:
        """The journal of this process and store; taken with the first write.

        Raises:
            JournalError: the API was closed.
        """
        self._check_open()
        held = self._lease
        if held is None:
            policy = self._settled_policy()
            with self._lock:
                self._check_open()
                held = self._lease
                if held is None:
                    held = self._lease = lease(
                        policy.journal_dir,
                        self._store_uri,
                        connect=None if policy.offline else self._connect,
                        publisher=self._publisher,
                        durability=policy.durability,
                        threads=self._threads,
                        exit_timeout=policy.exit_timeout,
                        identity=self._identity,
                    )
        return held.journal

    def _check_open(self) -> None:
        if self._closed:
            raise JournalError(
                f"this API on {self._store_uri} was closed: log and read before `api.close()`, or with "
                "another API instance"
            )

    def cut_when_closed(self, shortcut: Any) -> None:
        """Have something cleared when this is closed, which holds a way to a run's log that goes past this.

        Raises:
            JournalError: the API was closed.
        """
        with self._lock:
            self._check_open()
            self._shortcuts.add(shortcut)

    def _settled_policy(self) -> WritePolicy:
        if self._policy is None:
            raise OfflineError(
                "this API serves what was cached or exported, and has no store to write to; use one on the "
                "store, offline if need be"
            )
        return self._policy

    # --- runs ---

    def create_run(self, intent: RunIntent, *, must_start: bool = False) -> RunRecord | None:
        """Create a run that this process answers for; None if it has started without the server.

        Args:
            intent: what to create.
            must_start: go on with a local run if the server is away, whatever is configured.

        Raises:
            ServerUnreachable: no answer within `connect_timeout`, and no local run was asked for.
        """
        journal, policy = self.journal, self._settled_policy()
        wanted = self._with_server_ids(intent)
        if policy.offline or not journal.delivers or wanted is None:
            journal.create_local_run(intent)
            return None
        may_be_local = must_start or policy.on_unreachable == "offline"
        if may_be_local and (_is_away(journal.trouble) or time.monotonic() < self._away_until):
            log = journal.create_local_run(intent)  # known to be away: why wait again
        else:
            log = journal.create_run(
                wanted,
                timeout=policy.connect_timeout,
                on_unreachable="offline" if may_be_local else "raise",
            )
        self._tell_of_local(log, journal)
        return log.record

    def _tell_of_local(self, log: RunLog, journal: Journal) -> None:
        """Warn that runs start without the server; once, until one starts with it again."""
        if log.record is None and not self._told_of_local:
            logger.warning(
                "%s does not answer: run %s, and those after it, start with local IDs. All that is logged is "
                "kept in %s, and delivered once the server is back, by this process, the next one on this "
                "store, or `withrun sync`.",
                self._store_uri,
                log.run_id,
                journal.store_folder,
            )
        self._told_of_local = log.record is None

    def _with_server_ids(self, intent: RunIntent) -> RunIntent | None:
        """A run to be created, with the server's IDs of what it refers to; None if it has not all of them."""
        exp_id: str | None = intent.experiment_id
        if looks_local(intent.experiment_id):
            exp_id = self.journal.local_ids.resolve("experiment", intent.experiment_id)
        parent_id = intent.tags.get(PARENT_TAG)
        if parent_id is not None and looks_local(parent_id):
            parent_id = self._server_id(self.log_of(parent_id))
            if parent_id is None:
                return None
        if exp_id is None:
            return None
        tags = intent.tags if parent_id is None else {**intent.tags, PARENT_TAG: parent_id}
        return msgspec.structs.replace(intent, experiment_id=exp_id, tags=tags)

    def log_of(self, run_id: str) -> RunLog:
        """Where to log to a run."""
        return self.journal.run(run_id, uid=run_id if looks_local(run_id) else "")

    def spool_of(self, run_id: str) -> Spool | None:
        """Where the artifacts of a run wait that the server does not know yet; None if it knows it."""
        if self._policy is None or not looks_local(run_id):
            return None
        log = self.log_of(run_id)
        if self._server_id(log) is not None:
            return None
        hold = self.journal.hold()
        return Spool(self.local_repo(run_id), log, hold)

    def local_repo(self, run_id: str) -> Path:
        """The folder that keeps the artifacts of a run as long as the server does not know it.

        What was logged to the run before, by others or before a pause, is in it too.
        """
        journal = self.journal
        folder = artifact_folder(journal.spool.parent, run_id)
        if not folder.is_dir():
            complete(folder, artifact_folders(journal.store_folder, run_id))
        journal.let_go()  # that of a run which is not open is not needed for its name alone
        return folder

    def spool_file(self, run_id: str, path_in_run: str, content: bytes) -> None:
        """Have a file of that content published to a run, after all that was logged before.

        Raises:
            JournalError: it can't be kept on this machine's disk.
        """
        spool = self.spool_of(run_id)
        if spool is not None:
            write_private(spool.folder / path_in_run, content)
            spool.add(path_in_run)
        else:
            name = f"values/{new_uid()}"
            with self.journal.hold():
                write_private(self.journal.spool / name, content)
                self.log_of(run_id).artifact(ArtifactIntent(name, path_in_run))

    @property
    def is_in_trouble(self) -> bool:
        """Whether the store takes nothing just now, as far as is known without asking it."""
        policy = self._policy
        return (
            policy is None or policy.offline or (self._lease is not None and self.journal.trouble is not None)
        )

    def server_id(self, run_id: str) -> str | None:
        """What the server calls a run of a local ID; None of others, and if it is unknown there."""
        if self._policy is None or not looks_local(run_id):
            return None
        return self._server_id(self.log_of(run_id))

    def _server_id(self, log: RunLog) -> str | None:
        """What the server calls a run; None as long as nobody has delivered it, this process or another."""
        if log.server_id is None:
            log.server_id = self.journal.local_ids.resolve("run", log.run_id)
        return log.server_id

    def attempt(self, call: Callable[[], T]) -> T:
        """Make a call that may be repeated, until the server answers or `connect_timeout` is over."""
        return self.journal.attempt(call, self._settled_policy().connect_timeout)

    def briefly(self) -> contextlib.AbstractContextManager[None]:
        """Within the block calls wait no longer for the store than starting a run does, `connect_timeout`."""
        return contextlib.nullcontext() if self._policy is None else within(self._policy.connect_timeout)

    def may_go_on_without(self, error: WithrunError, *, must_start: bool = False) -> bool:
        """Whether what failed for want of the server is to be done locally, and delivered later.

        Args:
            error: how it failed.
            must_start: it is needed by a run that goes on without the server, whatever is configured.
        """
        policy = self._policy
        if policy is None:
            return False
        if isinstance(error, OfflineError):
            return policy.offline
        may = must_start or policy.on_unreachable == "offline"
        # Other credentials are the user's to give, before anything starts.
        if not may or not is_passing(error, renewable=must_start):
            return False
        self._away_until = time.monotonic() + _AWAY
        return True

    def resume(self, run_id: str, set_running: Callable[[], None]) -> None:
        """Answer for the end of a run from now on, and have it RUNNING.

        Args:
            run_id: the run.
            set_running: sets a run that the server knows RUNNING there: the caller hears of what is wrong.
        """
        log = self.log_of(run_id)
        with self.journal.hold():
            if self._server_id(log) is None or self._settled_policy().offline:
                log.status(RunStatus.RUNNING.value)
            else:
                self.show(run_id)
                set_running()
            self.journal.own(log)

    def end(self, run_id: str, status: RunStatus, end_time: int) -> None:
        """End a run (`end_time` in ms since the epoch), and wait until all of it is delivered.

        Without progress for `exit_timeout` seconds, a warning says what is kept, and the program goes on.

        Raises:
            Refused: the store refused some of it, and the API is `strict`.
        """
        journal, policy = self.journal, self._settled_policy()
        log = self.log_of(run_id)
        log.status(status.value, end_time)
        if policy.offline:
            journal.let_go(log)
            return
        try:
            with Bar(f"Delivering to {self._store_uri}", unit="values") as bar:
                is_there = log.wait(
                    exit_timeout=policy.exit_timeout, tell=lambda: bar.set(log.settled, log.accepted)
                )
            if not is_there:
                journal.warn_kept()
        except JournalError as error:
            logger.error("%s", error)  # not raised: the program's own work is done, and nothing is lost
        except (KeyboardInterrupt, SystemExit):
            journal.be_impatient()
            raise
        finally:
            journal.let_go(log)
        if policy.strict:
            self._raise_refused(journal.take_refusals(log))

    def delivery(self, run_id: str) -> Delivery:
        """How what this process logged to a run stands."""
        held = self._lease
        log = None if held is None else held.journal.known(run_id)
        return Delivery(0, 0, 0, 0) if log is None else log.delivery

    # --- waiting ---

    def confirm(self, log: RunLog) -> None:
        """Return once the store has all that was logged to a run; offline, where the journal has it.

        Raises:
            ServerUnreachable: it can't be delivered now; it is kept, and will be.
            Refused: the store refused some of it.
        """
        policy = self._settled_policy()
        if policy.offline:
            return
        if not _is_there(log.wait, policy.exit_timeout):
            raise self._undelivered(f"what was logged to run {log.run_id}")
        self._raise_refused(self.journal.take_refusals(log))

    def flush(self, run_id: str | None = None, timeout: float | None = None) -> None:
        """Return once everything taken so far, of one run or of all, is in the store; at once if offline.

        Of all, that includes what dead processes left.

        Raises:
            TimeoutError: it is not after `timeout` seconds.
            Refused: the store refused something, and no error told of it yet.
        """
        self._check_open()
        started = time.monotonic()
        held, policy = self._lease, self._policy
        if policy is None or policy.offline:
            if held is not None:
                held.journal.let_go()
            return
        if self._recovery is not None:
            # A process may have died since this API was made, with what this one waits for.
            self._recovery.start()
        log = None
        if held is not None:
            journal = held.journal
            log = None if run_id is None else journal.known(run_id)
            done = journal.flush(timeout) if run_id is None else log is None or log.wait(timeout=timeout)
            if not done:
                raise self._late(timeout)
        if run_id is None and self._recovery is not None:
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
            if not self._recovery.wait(left):
                raise TimeoutError(
                    f"what earlier processes logged is not all on {self._store_uri} after {timeout:g} s; "
                    "nothing is lost, and it stays to be delivered"
                )
        if held is not None and (run_id is None or log is not None):
            self._raise_refused(held.journal.take_refusals(log))

    def show(self, run_id: str | None = None) -> None:
        """Wait until a read from the store shows what was logged here, to one run or to all.

        Raises:
            ServerUnreachable: the server is away for `connect_timeout`, or takes nothing for `exit_timeout`.
            JournalError: the API was closed.
        """
        self._check_open()
        held, policy = self._lease, self._policy
        if held is None or policy is None or policy.offline:
            return
        journal = held.journal

        def is_there(wait: Callable[..., bool]) -> bool:
            if _is_there(wait, policy.connect_timeout):
                return True
            # Without trouble it is on its way: a large artifact, say.
            return journal.held_up is None and wait(exit_timeout=policy.exit_timeout)

        if run_id is None:
            # What waits for other journals is of runs that the store does not know.
            if not is_there(partial(journal.flush, apart=False)):
                raise self._undelivered("what was logged")
            return
        log = journal.known(run_id)
        if log is None or is_there(log.wait):
            return
        if log.server_id is not None:  # else it is read from the journal
            raise self._undelivered(f"what was logged to run {run_id}")

    def close(self) -> None:
        """Deliver, and let go of the journal; what can't be delivered is kept, and said."""
        with self._lock:
            self._closed = True
            held, shortcuts = self._lease, list(self._shortcuts)
        for shortcut in shortcuts:
            shortcut.clear()
        if held is not None and self._policy is not None:
            held.close(exit_timeout=self._policy.exit_timeout)

    def _late(self, timeout: float | None) -> Exception:
        why = self._why()
        if timeout is None:
            return JournalError(
                f"this process can't deliver what was logged to {self._store_uri}{why}; it is kept"
            )
        return TimeoutError(
            f"what was logged is not all on {self._store_uri} after {timeout:g} s{why}; nothing is lost, and "
            "it stays to be delivered"
        )

    def _undelivered(self, what: str) -> WithrunError:
        return ServerUnreachable(
            f"{what} is not on {self._store_uri} yet{self._why()}; nothing is lost, and it is delivered "
            "once the server takes it"
        )

    def _why(self) -> str:
        reason = self.journal.held_up
        return f" ({reason})" if reason is not None else ""

    def _raise_refused(self, refusals: list[Refusal]) -> None:
        if not refusals:
            return
        shown = "\n".join(
            f"  {each.call} of run {each.run_id}: {each.reason}" for each in refusals[:_SHOWN_REFUSALS]
        )
        more = f"\n  and {len(refusals) - _SHOWN_REFUSALS} more" if len(refusals) > _SHOWN_REFUSALS else ""
        raise Refused(
            f"{self._store_uri} refused {len(refusals)} of the values that were logged; all others are there,"
            f" and these are kept in {self.journal.refused_folder}:\n{shown}{more}",
            tuple(refusals),
        )


def _is_there(wait: Callable[..., bool], patience: float | None) -> bool:
    """Wait for delivery, at least for one attempt: patience may be spent, and the server back since."""
    return wait(exit_timeout=patience) or (patience is not None and wait(timeout=min(_ONE_ATTEMPT, patience)))


def _is_away(trouble: WithrunError | None) -> bool:
    """Whether nothing gets through to the server: it does not answer, or a gateway does in its place."""
    return isinstance(trouble, ServerUnreachable) or getattr(trouble, "status", None) in (502, 503, 504)


_paths: weakref.WeakSet[WritePath] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A lock that another thread of the parent held would stay held for ever.
    for path in list(_paths):
        path._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
