"""Ends: the runs of a process that is gone are ended FAILED, unless somebody else answers for them by now."""

from __future__ import annotations

import logging

from withrun.backend import Backend, RunRecord
from withrun.errors import NotFound
from withrun.journal.creation import OWNER_TAG
from withrun.journal.folder import JournalFolder, journals_in
from withrun.journal.ledger import Ledger
from withrun.journal.local_ids import LocalIds, looks_local
from withrun.journal.pack import Batch, Call
from withrun.journal.retry import Retry

__all__ = ["Ends"]

logger = logging.getLogger("withrun.journal")


class Ends:
    """Ends the runs that a journal's process owned, once all that it logged is delivered.

    A run that was taken over since is its new owner's. That one notes it in its ledger first, looks then
    whether the journal before is over, and sets the ownership tag and RUNNING after it was delivered
    (`Turns`). So either it sees that this recovery has begun, and waits for its end, or this sees the note.

    Args:
        folder: the journal.
        backend: the store.
        local_ids: the store's map of local IDs.
        retry: how long to try.
    """

    def __init__(self, folder: JournalFolder, backend: Backend, local_ids: LocalIds, retry: Retry) -> None:
        self._folder = folder
        self._backend = backend
        self._local_ids = local_ids
        self._retry = retry
        self._last_at: dict[str, int] = {}
        self._owners: dict[str, tuple[int, str]] | None = None

    def note_times(self, run_id: str, steps: list[Batch | Call]) -> None:
        """Note when a run was logged to, which is when it ended at the earliest."""
        times = [self._last_at.get(run_id, 0)]
        for step in steps:
            times.append(step.at)
            if isinstance(step, Batch) and step.metrics:
                times.append(max(point.timestamp for point in step.metrics))
        self._last_at[run_id] = max(times)

    def end_all(self) -> list[str]:
        """End what is still RUNNING in the name of the process that is gone; their IDs on the server."""
        return [run_id for run in list(self._folder.ledger.owned) if (run_id := self._end(run)) is not None]

    def _end(self, run: str) -> str | None:
        ledger = self._folder.ledger
        run_id = self._server_id(run)
        try:
            record = self._retry.call(lambda: self._backend.get_run(run_id))
        except NotFound:
            ledger.done(run)
            return None
        is_ours = self._is_ours(record) and not self._is_taken_over(run)
        if is_ours:
            times = [self._last_at.get(run_id, 0), record.start_time or 0, ledger.owned[run]]
            end_time = max([*times, *(point.timestamp for point in record.metrics)])
            self._retry.call(lambda: self._backend.update_run(run_id, status="FAILED", end_time=end_time))
            logger.warning("run %s was ended FAILED: the process that it belonged to is gone", run_id)
        ledger.done(run)
        return run_id if is_ours else None

    def _is_ours(self, record: RunRecord) -> bool:
        tags = {tag.key: tag.value for tag in record.tags}
        return (
            record.status == "RUNNING"
            and record.lifecycle_stage == "active"
            and tags.get(OWNER_TAG) == self._folder.id
        )

    def _is_taken_over(self, run: str) -> bool:
        """Whether another journal, in use or waiting, says that its process has owned the run since."""
        if self._owners is None:
            # Once: who notes it later sees that this journal is over, and waits for it.
            self._owners = self._other_owners()
        since = self._folder.ledger.owned[run], self._folder.id
        return any(self._owners.get(name, since) > since for name in (run, self._server_id(run)))

    def _other_owners(self) -> dict[str, tuple[int, str]]:
        """When each run was owned last in the name of another journal, and which, by what it is called."""
        owners: dict[str, tuple[int, str]] = {}
        for path in journals_in(self._folder.path.parent):
            if path == self._folder.path:
                continue
            try:
                owned = Ledger.look(path / "runs.log").owned
            except OSError as error:
                logger.warning("whether %s owns runs of %s can't be told: %s", path, self._folder.path, error)
                continue
            for run, at in owned.items():
                names = {run, self._server_id(run)} if looks_local(run) else {run}
                for name in names:
                    owners[name] = max(owners.get(name, (0, "")), (at, path.name))
        return owners

    def _server_id(self, run: str) -> str:
        return self._folder.ledger.bound.get(run) or self._local_ids.resolve("run", run) or run
