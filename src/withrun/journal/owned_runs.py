"""OwnedRuns: the runs that this process started or took over, and whose end it answers for."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Literal

import msgspec

from withrun.deadline import within
from withrun.errors import ServerUnreachable, WithrunError
from withrun.journal.creation import OWNER_TAG, RunCreation
from withrun.journal.disk import JournalFull
from withrun.journal.ledger import Ledger
from withrun.journal.live import Live
from withrun.journal.record import RunIntent
from withrun.journal.retry import GaveUp
from withrun.journal.run_log import RunLog, now_ms

if TYPE_CHECKING:
    from withrun.journal.journal import Journal

__all__ = ["OwnedRuns"]

logger = logging.getLogger("withrun.journal")


class OwnedRuns:
    """Starts runs in a journal's name, and notes in its ledger that recovery is to end them.

    Args:
        journal: where they are logged to.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.forked()

    def forked(self) -> None:
        """In a forked child: what was started before is the parent's."""
        self._unnoted: weakref.WeakKeyDictionary[RunLog, int] = weakref.WeakKeyDictionary()

    def create(
        self,
        intent: RunIntent,
        *,
        timeout: float = 10.0,
        on_unreachable: Literal["raise", "offline"] = "raise",
    ) -> RunLog:
        """Create a run on the server, owned by this process; the intent is journaled before.

        Args:
            intent: what to create; its experiment and parent may be local.
            timeout: seconds to wait for the server.
            on_unreachable: raise `ServerUnreachable`, or go on with a local run that is created later.
        """
        journal = self._journal
        try:
            live = journal.open()
            intent = _owned(intent, live)
            ledger = live.folder.ledger
            ledger.intend(intent.uid, intent.experiment_id)
        except JournalFull as full:
            logger.warning(
                "a run is started without a note on disk; should this process be killed before there is "
                "room, the run stays RUNNING: %s",
                full,
            )
            ledger = Ledger(None)
        creation = RunCreation(journal.backend, intent)
        try:
            with within(timeout):
                record = journal.patient(timeout).call(creation.attempt)
        except GaveUp as gave_up:
            if on_unreachable == "offline":
                return self.create_locally(intent)
            ledger.withdraw(intent.uid)
            raise _unreachable(intent, timeout, gave_up.__cause__) from gave_up.__cause__
        except (WithrunError, ValueError):
            ledger.done(intent.uid)
            raise
        ledger.bind(intent.uid, record.run_id)
        ledger.own(record.run_id, intent.start_time)
        log = journal.logs.add(record.run_id, intent.uid, record)
        if ledger.path is None:
            self._unnoted[log] = intent.start_time
        return log

    def opened(self, live: Live) -> None:
        """Own the runs that were started when there was no room for a journal, now that there is."""
        unnoted = list(self._unnoted.items())
        self._unnoted.clear()
        for log, since in unnoted:
            live.folder.ledger.own(log.run_id, since)
            log.tags({OWNER_TAG: live.folder.id})

    def create_locally(self, intent: RunIntent) -> RunLog:
        """Start a run that the server does not know yet; its local ID is the intent's uid."""
        journal = self._journal
        live = journal.open_for(intent.uid)  # so that another's `let_go` keeps this journal
        try:
            intent = _owned(intent, live)
            # Before the run: killed in between, there is no run to end; the other way round nobody would
            # end it.
            live.folder.ledger.start_locally(intent)
            live.folder.ledger.own(intent.uid, intent.start_time)
            log = journal.logs.add(intent.uid, intent.uid)
            log.create(intent)
        except BaseException:
            journal.let_go(intent.uid)
            raise
        if intent.status != "RUNNING":
            # Declared: whoever starts it answers for its end.
            journal.let_go_later(intent.uid)
        return log

    def take_over(self, log: RunLog) -> str:
        """Answer for the end of a run that is resumed or entered here.

        From then on no recovery ends it, which would be for a process that had it before. The run is to get
        the ownership tag, and be set RUNNING, after what such a process logged.

        Returns:
            The value of the ownership tag.
        """
        live = self._journal.open_for(log.run_id)
        live.folder.ledger.own(log.run_id, now_ms())
        # Only now: a process that dies after this look finds in its recovery that the run is owned here.
        live.turns.note_again(log.run_id)
        return live.folder.id

    def give_back(self, log: RunLog) -> None:
        """Answer for the run's end no more: it could not be taken over."""
        live = self._journal.open()
        live.folder.ledger.done(log.run_id)
        self._journal.let_go(log.run_id)

    def leave_to_recovery(self, log: RunLog) -> None:
        """Have recovery find out whether the run was taken over, and end it then: the answer was lost."""
        self._journal.open().in_doubt = True
        self._journal.let_go(log.run_id)


def _owned(intent: RunIntent, live: Live) -> RunIntent:
    return msgspec.structs.replace(intent, tags={**intent.tags, OWNER_TAG: live.folder.id})


def _unreachable(intent: RunIntent, timeout: float, cause: BaseException | None) -> ServerUnreachable:
    return ServerUnreachable(
        f"run {intent.name or intent.uid!r} could not be started within {timeout:g} s: {cause}. "
        'Start the server, or choose on_unreachable="offline": the run then starts with a local ID '
        "and is delivered later."
    )
