"""RunLogs: the logs of a journal's runs, and the accounts of what became of their values."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from withrun.journal.refused import Refusal
from withrun.journal.run_log import RunLog
from withrun.journal.waiting import Progress

if TYPE_CHECKING:
    from withrun.backend import RunRecord
    from withrun.journal.journal import Journal

__all__ = ["RunLogs"]

_KEPT_REFUSALS = 100
"""Refusals that a run's log remembers; all are in the file."""


class RunLogs:
    """Gives each run of a journal one log, and is told by the deliverer what is settled.

    Attributes:
        progress: what those who wait are told by.
        warned: whether the user was told that nothing goes through; reset when something does.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._next_no = 1
        self._by_id: weakref.WeakValueDictionary[str, RunLog] = weakref.WeakValueDictionary()
        # Strong as long as something is pending: the accounts of a run whose handle was dropped are still
        # kept.
        self._by_no: dict[int, RunLog] = {}
        self._with_untold: dict[int, RunLog] = {}
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.RLock()
        self.progress = Progress()
        self.warned = False

    # --- logs ---
    def known(self, run_id: str) -> RunLog | None:
        """The log of a run that was logged to here and is in use or has something pending, else None."""
        return self._by_id.get(run_id)

    def get(self, run_id: str, uid: str, server_id: str | None) -> RunLog:
        """The log of a run that exists; `server_id` is what a local ID stands for by now."""
        with self._lock:
            log = self._by_id.get(run_id) or (self._by_id.get(server_id) if server_id else None)
            if log is None:
                log = self.add(run_id, uid)
                log.server_id = log.server_id or server_id
            if server_id is not None:
                self._by_id[server_id] = log  # one log, whatever the run is called by
            return log

    def add(self, run_id: str, uid: str, record: RunRecord | None = None) -> RunLog:
        """The log of a run that was created just now."""
        with self._lock:
            log = self._by_id[run_id] = RunLog(self._journal, self._next_no, run_id, uid)
            log.record = record
            self._next_no += 1
            return log

    def has_pending(self, log: RunLog) -> None:
        """Keep a run's accounts, because something of it is to be delivered."""
        self._by_no[log.no] = log

    @property
    def pending(self) -> int:
        """How many values are neither delivered nor refused."""
        return sum(log.delivery.pending for log in list(self._by_no.values()))

    # --- accounts, told by the deliverer ---
    def settle(self, no: int, delivered: int, refusals: list[Refusal]) -> None:
        """Count values of a run as delivered or refused."""
        with self.progress.changed:
            log = self._by_no.get(no)
            if log is not None:
                log.delivered += delivered
                log.refused += len(refusals)
                log.refusals += refusals[: max(_KEPT_REFUSALS - len(log.refusals), 0)]
                log.untold += refusals[: max(_KEPT_REFUSALS - len(log.untold), 0)]
                if refusals:
                    self._with_untold[no] = log
            self.warned = False
            self.progress.moved()

    def bound(self, no: int, run_id: str) -> None:
        """A local run has an ID on the server now."""
        log = self._by_no.get(no)
        if log is not None:
            log.server_id = run_id
            with self._lock:
                self._by_id[run_id] = log

    def window_done(self) -> None:
        """A window is settled: forget the runs that nobody holds any more and that have nothing pending."""
        with self.progress.changed:
            self.progress.moved()
        with self._lock:
            for no in list(self._by_no):
                log = self._by_no[no]
                if log.settled >= log.accepted:
                    del self._by_no[no]
                    still_held = weakref.ref(log)
                    del log
                    kept = still_held()
                    if kept is not None:
                        self._by_no[no] = kept

    def take_refusals(self, log: RunLog | None = None) -> list[Refusal]:
        """The refusals, of one run or of all, that nobody was given yet; each is given once."""
        with self.progress.changed:
            logs = list(self._with_untold.values()) if log is None else [log]
            taken: list[Refusal] = []
            for each in logs:
                taken += each.untold
                each.untold = []
                self._with_untold.pop(each.no, None)
        return taken

    def forked(self) -> None:
        """In a forked child: what was pending is the parent's to deliver, and to tell of."""
        self._start_over()
        for log in [*self._by_no.values(), *self._by_id.values()]:
            log.leave_to_parent()
        self._by_no.clear()
        self._with_untold.clear()
