"""Keeping aside what can't be delivered: in a file, counted, and the files of its artifacts with it."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from withrun.errors import WithrunError
from withrun.journal.describe import describe
from withrun.journal.introductions import UNKNOWN
from withrun.journal.pack import Batch, Call, Window
from withrun.journal.record import ArtifactIntent, Kind, VersionIntent
from withrun.journal.refused import Refusal, RefusedFile
from withrun.journal.sending import Values
from withrun.journal.spool import Spool

__all__ = ["Accounts", "Aside"]


class Accounts(Protocol):
    """Who is told what became of a run's values."""

    def settle(self, no: int, delivered: int, refusals: list[Refusal]) -> None:
        """Count values of run `no` as delivered, and others as refused."""

    def bound(self, no: int, run_id: str) -> None:
        """Run `no` has an ID on the server now."""


class Aside:
    """Keeps aside what the server refuses, and what makes no sense to send.

    Args:
        refused: the file.
        spool: where artifacts wait.
        accounts: told what was kept.
    """

    def __init__(self, refused: RefusedFile, spool: Spool, accounts: Accounts) -> None:
        self._refused = refused
        self._spool = spool
        self._accounts = accounts

    def keep(
        self,
        no: int,
        run_id: str,
        steps: list[Batch | Call] | list[Call],
        error: WithrunError,
        *,
        whole_run: bool = False,
    ) -> None:
        """Keep refused steps of a run, and count them.

        Args:
            no: the run's number.
            run_id: what it is called in the file.
            steps: what was refused.
            error: why.
            whole_run: report them in one line.
        """
        refusals: list[Refusal] = []
        for step in steps:
            values: list[Any] = [step.record] if isinstance(step, Call) else Values.of(step).records()
            kept = self._files(step) if isinstance(step, Call) else ""
            refusals += [Refusal(run_id, describe(value), f"{error}{kept}", value) for value in values]
        summary = (
            f"run {run_id} can't be written to, {len(refusals)} values were refused: {error}"
            if whole_run
            else ""
        )
        self._refused.add(refusals, summary=summary)
        missing = sum(step.count for step in steps) - len(refusals)
        self._accounts.settle(no, max(missing, 0), refusals)

    def keep_malformed(self, window: Window) -> None:
        """Keep the records of a window that make no sense, and count them."""
        by_run: dict[int, list[Refusal]] = {}
        for one in window.malformed:
            run = window.refs.get(one.no, UNKNOWN).run_id
            refusal = Refusal(run, f"{one.record!r:.200}", f"it makes no sense: {one.reason}", one.record)
            by_run.setdefault(one.no, []).append(refusal)
        for no, refusals in by_run.items():
            journal = self._spool.folder.parent
            self._refused.add(refusals, summary=f"{len(refusals)} records of {journal} make no sense")
            self._accounts.settle(no, 0, refusals)
            window.malformed = [one for one in window.malformed if one.no != no]

    def _files(self, call: Call) -> str:
        """Move what a refused call was to publish out of the journal, which is to be deleted; say where."""
        if call.kind not in (Kind.ARTIFACT, Kind.VERSION):
            return ""
        shape: type[ArtifactIntent | VersionIntent] = (
            ArtifactIntent if call.kind == Kind.ARTIFACT else VersionIntent
        )
        name = msgspec.convert(call.record[3], shape).spooled
        return f"; what was to be published is kept in {self._spool.keep(name)}" if name else ""
