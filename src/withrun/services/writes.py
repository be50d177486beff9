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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from withrun.deadline import within
from withrun.errors import JournalError, OfflineError, WithrunError
from withrun.journal import (
    Delivery,
    Durability,
    Journal,
    Lease,
    RunIntent,
    RunLog,
    lease,
    looks_local,
)
from withrun.journal.retry import is_passing
from withrun.schema import RunStatus
from withrun.services.resuming import resume
from withrun.services.starting import Starts, log_of, server_id_of
from withrun.services.waiting_artifacts import Spool, repo_in, spool_file
from withrun.services.waits import Waits, raise_refused, wait_for_recovery
from withrun.transfer.progress import Bar

if TYPE_CHECKING:
    from withrun.backend import Backend, RunRecord
    from withrun.journal import Publisher
    from withrun.journal.background import BackgroundRecovery

__all__ = ["OnUnreachable", "WritePath", "WritePolicy"]

T = TypeVar("T")

logger = logging.getLogger("withrun")

OnUnreachable = Literal["raise", "offline"]


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
        self._starts = Starts()
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
        if policy.offline or not journal.delivers:
            journal.owned.create_locally(intent)
            return None
        return self._starts.create(
            journal,
            intent,
            timeout=policy.connect_timeout,
            may_be_local=policy.on_unreachable == "offline",
            must_start=must_start,
        )

    def log_of(self, run_id: str) -> RunLog:
        """Where to log to a run."""
        return log_of(self.journal, run_id)

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
        """The folder that keeps the artifacts of a run as long as the server does not know it."""
        return repo_in(self.journal, run_id)

    def spool_file(self, run_id: str, path_in_run: str, content: bytes) -> None:
        """Have a file of that content published to a run, after all that was logged before.

        Raises:
            JournalError: it can't be kept on this machine's disk.
        """
        spool_file(self.journal, self.spool_of(run_id), self.log_of(run_id), path_in_run, content)

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
        return server_id_of(self.journal, log)

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
        self._starts.found_away()
        return True

    def resume(self, run_id: str, set_running: Callable[[str], None]) -> None:
        """Answer for the end of a run from now on, and have it RUNNING after all that was logged before.

        Args:
            run_id: the run.
            set_running: given its value, sets the ownership tag, and RUNNING, of a run that the server knows:
                the caller hears of what is wrong.
        """
        journal, policy, log = self.journal, self._settled_policy(), self.log_of(run_id)
        is_there = not policy.offline and self._server_id(log) is not None
        if is_there:
            self.show(run_id)
        with journal.hold():
            on_the_server = set_running if is_there else None
            resume(journal, log, on_the_server, policy.connect_timeout, policy.exit_timeout)

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
            journal.let_go(log.run_id)
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
            journal.let_go(log.run_id)
        if policy.strict:
            raise_refused(journal, log)

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
        self._waits(self.journal, policy).confirm(log)

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
        log = None if held is None or run_id is None else held.journal.known(run_id)
        is_any = held is not None and (run_id is None or log is not None)
        if held is not None and is_any:
            self._waits(held.journal, policy).flush(log, timeout)
        if run_id is None and self._recovery is not None:
            wait_for_recovery(self._recovery, self._store_uri, timeout, started)
        if held is not None and is_any:
            raise_refused(held.journal, log)

    def show(self, run_id: str | None = None) -> None:
        """Wait until a read from the store shows what was logged here, to one run or to all.

        Raises:
            ServerUnreachable: the server is away for `connect_timeout`, or takes nothing for `exit_timeout`.
            JournalError: the API was closed.
        """
        self._check_open()
        held, policy = self._lease, self._policy
        if held is not None and policy is not None and not policy.offline:
            self._waits(held.journal, policy).show(run_id)

    def _waits(self, journal: Journal, policy: WritePolicy) -> Waits:
        return Waits(journal, policy.connect_timeout, policy.exit_timeout)

    def close(self) -> None:
        """Deliver, and let go of the journal; what can't be delivered is kept, and said."""
        with self._lock:
            self._closed = True
            held, shortcuts = self._lease, list(self._shortcuts)
        for shortcut in shortcuts:
            shortcut.clear()
        if held is not None and self._policy is not None:
            held.close(exit_timeout=self._policy.exit_timeout)


_paths: weakref.WeakSet[WritePath] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A lock that another thread of the parent held would stay held for ever.
    for path in list(_paths):
        path._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
