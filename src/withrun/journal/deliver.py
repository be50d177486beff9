"""Delivering a window: the calls to the server, the search for what it refuses, the accounts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import msgspec

from withrun.backend import Backend, DatasetInput
from withrun.errors import JournalError, NotFound, WithrunError
from withrun.journal.apart import Apart, Behind, StartedElsewhere
from withrun.journal.aside import Accounts, Aside
from withrun.journal.creation import PARENT_TAG, RunCreation, ensure_experiment, ensure_model
from withrun.journal.disk import JournalFull
from withrun.journal.introductions import UNKNOWN, RunRef
from withrun.journal.ledger import Ledger
from withrun.journal.local_ids import LocalIds, looks_local
from withrun.journal.pack import Batch, Call, Window
from withrun.journal.pool import Pool
from withrun.journal.publisher import Publisher
from withrun.journal.record import (
    ArtifactIntent,
    ExperimentIntent,
    Kind,
    ModelIntent,
    RunIntent,
    VersionIntent,
)
from withrun.journal.refused import RefusedFile
from withrun.journal.retry import Retry
from withrun.journal.sending import RunIsGone, Sender, Values
from withrun.journal.spool import Spool
from withrun.journal.turns import OlderFirst, Turns, whereabouts

__all__ = ["Deliverer"]

logger = logging.getLogger("withrun.journal")

_NO_NUMBER = -1
"""Of a run that no record speaks of: nobody keeps accounts of it."""

_UNKNOWN = "which run this was is not known any more: the records that say so are damaged"

OVER = frozenset({"FINISHED", "FAILED", "KILLED"})


class Deliverer:
    """Sends windows to a store; when `deliver` returns, all in it is on the server, refused, or set apart.

    Args:
        backend: the store.
        ledger: what became of the runs in the windows.
        spool: where their artifacts wait.
        local_ids: the store's map of local IDs.
        refused: where refused records are kept.
        retry: how long to try.
        accounts: told what became of each run's values.
        publisher: publishes artifacts and versions; a journal that holds some needs one.
        pool: delivers runs side by side; None: one after another.
        apart: takes the runs that wait for another journal, which are passed over from then on; None:
            `Behind` is raised.
        turns: tells which runs have to wait for older journals; None: none has.
    """

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        spool: Spool,
        local_ids: LocalIds,
        refused: RefusedFile,
        retry: Retry,
        accounts: Accounts,
        *,
        publisher: Publisher | None = None,
        pool: Pool | None = None,
        apart: Apart | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._backend = backend
        self._ledger = ledger
        self._spool = spool
        self._local_ids = local_ids
        self._refused = refused
        self._retry = retry
        self._accounts = accounts
        self._publisher = publisher
        self._pool = pool
        self._apart = apart
        self._turns = turns
        self._sender = Sender(backend, refused, retry)
        self._aside = Aside(refused, spool, accounts)
        self._starting = threading.RLock()

    def deliver(self, window: Window) -> None:
        """Deliver a window; raises `GaveUp` if the server does not come back in time.

        Whatever is raised, it may then be called again with the same window: it goes on with what failed.
        """
        self.start(window)
        jobs = [self._job(no, window) for no in window.runs if not self._is_apart(no)]
        if self._pool is not None and len(jobs) > 1:
            self._pool.run(jobs)
        else:
            for job in jobs:
                job()
        self._aside.keep_malformed(window)

    def start(self, window: Window) -> None:
        """Deliver what a window has others begin with: experiments, models, the creation of runs."""
        for call in window.firsts[window.firsts_settled :]:
            self._first(call)
            window.firsts_settled += 1

    def has_noted(self) -> bool:
        """Whether all is on the disk that is to be there before anything is acknowledged; tries it again."""
        try:
            self._local_ids.write()
        except JournalFull:
            return False
        return True

    def known_id(self, ref: RunRef) -> str:
        """The ID under which the server knows a run; the one at hand if it does not."""
        return self._resolve(ref.run_id)

    def _server_id(self, ref: RunRef) -> str:
        """The ID under which the server knows a run; raises `StartedElsewhere`."""
        if ref.run_id != ref.uid:
            return self._resolve(ref.run_id)
        server_id = self._known(ref.uid)
        if server_id is None:
            raise self._started_elsewhere("run", ref.uid)
        return server_id

    def _referred(self, kind: str, given: str) -> str:
        """The server's ID of the experiment or parent that a run names.

        One that will never be there, because it was refused, stays as it is; raises `StartedElsewhere`.
        """
        self.start_again(given)
        known = self._resolve_kind(kind, given)
        if known is None and looks_local(given) and not self._local_ids.resolve("refused", given):
            raise self._started_elsewhere(kind, given)
        return known or given

    def _started_elsewhere(self, kind: str, local_id: str) -> StartedElsewhere:
        return StartedElsewhere(kind, local_id, whereabouts(local_id, self._spool.folder.parent))

    def is_settled(self, why: Behind) -> bool:
        """Whether what a run waits for is on the server by now, or was refused."""
        if isinstance(why, OlderFirst):
            return self._turns is None or self._turns.has_come(why.run)
        if not isinstance(why, StartedElsewhere):
            return False
        kind, local_id = why.kind, why.local_id
        return bool(self._resolve_kind(kind, local_id) or self._local_ids.resolve("refused", local_id))

    def _is_apart(self, no: int) -> bool:
        return self._apart is not None and no in self._apart

    def _set_apart(self, no: int, why: Behind) -> None:
        if self._apart is None:
            raise why
        self._apart.add(no, why)

    def _resolve_kind(self, kind: str, given: str) -> str | None:
        return self._known(given) if kind == "run" else self._local_ids.resolve(kind, given)

    def _known(self, run_id: str) -> str | None:
        return self._ledger.bound.get(run_id) or self._local_ids.resolve("run", run_id)

    def _resolve(self, run_id: str) -> str:
        return self._known(run_id) or run_id

    # --- what must be there first ---
    def _first(self, call: Call) -> None:
        kind, no, _, fields = call.record[:4]
        if kind == Kind.CREATE:
            try:
                if not self._is_apart(no):
                    self._create(no, msgspec.convert(fields, RunIntent), call)
            except StartedElsewhere as why:
                self._set_apart(no, why)
            return
        if kind == Kind.EXPERIMENT:
            self._find_experiment(msgspec.convert(fields, ExperimentIntent), call)
            return
        model = msgspec.convert(fields, ModelIntent)
        try:
            self._retry.call(lambda: ensure_model(self._backend, model))
        except WithrunError as error:
            self._aside.keep(no, "", [call], error)

    def _find_experiment(self, intent: ExperimentIntent, call: Call) -> None:
        try:
            experiment_id = self._retry.call(lambda: ensure_experiment(self._backend, intent))
        except WithrunError as error:
            self._local_ids.add("refused", intent.local_id, str(error))
            self._aside.keep(call.record[1], "", [call], error)
        else:
            self._local_ids.add("experiment", intent.local_id, experiment_id)

    def _create(self, no: int, intent: RunIntent, call: Call) -> None:
        known = self._known(intent.uid)
        if known is None:
            experiment_id = self._referred("experiment", intent.experiment_id)
            tags = self._with_parent(intent.tags)
            wanted = msgspec.structs.replace(intent, experiment_id=experiment_id, tags=tags)
            # An attempt before, by this or a dead process, may have been applied and its answer lost.
            uncertain = self._ledger.incomplete or intent.uid in self._ledger.intents
            creation = RunCreation(self._backend, wanted, uncertain=uncertain)
            self._ledger.intend(intent.uid, experiment_id)
            try:
                self._check_experiment(intent.experiment_id)
                known = self._retry.call(creation.attempt).run_id
            except WithrunError as error:
                self._ledger.refuse(intent.uid, str(error))
                self._local_ids.add("refused", intent.uid, str(error))
                self._aside.keep(no, intent.uid, [call], error)
                return
            self._local_ids.add("run", intent.uid, known)
            self._ledger.bind(intent.uid, known)
        self._accounts.bound(no, known)
        self._accounts.settle(no, 1, [])

    def _check_experiment(self, given: str) -> None:
        refused = self._local_ids.resolve("refused", given) if looks_local(given) else None
        if refused is not None:
            raise NotFound(f"its experiment is not there: {refused}")

    def start_again(self, local_id: str) -> None:
        """Start a run or experiment that this journal started, should the record of it be damaged.

        The ledger repeats how it did. Nothing happens if it is there, or was refused.
        """
        if local_id not in self._ledger.local and local_id not in self._ledger.experiments:
            return
        with self._starting:
            is_refused = local_id in self._ledger.refused or self._local_ids.resolve("refused", local_id)
            kind = "run" if local_id in self._ledger.local else "experiment"
            if is_refused or self._resolve_kind(kind, local_id):
                return
            intent = self._ledger.start_of(local_id)
            if isinstance(intent, RunIntent):
                no = next((no for no, ref in self._ledger.runs.items() if ref.uid == local_id), _NO_NUMBER)
                if self._is_apart(no):
                    no = _NO_NUMBER  # its own record is read again, and counts then
                self._create(no, intent, Call(Kind.CREATE, [Kind.CREATE, no, intent.start_time, intent]))
            elif intent is not None:
                record = [Kind.EXPERIMENT, 0, 0, intent]
                self._find_experiment(intent, Call(Kind.EXPERIMENT, record))

    def _with_parent(self, tags: Mapping[str, str]) -> dict[str, str]:
        parent = tags.get(PARENT_TAG)
        return dict(tags) if parent is None else {**tags, PARENT_TAG: self._referred("run", parent)}

    # --- a run's steps ---
    def _job(self, no: int, window: Window) -> Callable[[], None]:
        return lambda: self._deliver_run(no, window)

    def _deliver_run(self, no: int, window: Window) -> None:
        ref, steps = window.refs[no], window.runs[no]
        begin = window.settled.get(no, 0)
        if begin == len(steps):
            return
        try:
            self.start_again(ref.uid)
            refused = self._refusal(ref)
            if refused is not None:
                named = ref.run_id or f"number {no} of journal {self._spool.folder.parent.name}"
                self._aside.keep(no, named, steps[begin:], WithrunError(refused), whole_run=True)
                window.settled[no] = len(steps)
                return
            run_id = self._server_id(ref)
            if self._turns is not None:
                self._turns.check(ref.run_id)
            # Before anything is sent: a run is set apart with all that a window holds of it.
            for step in steps:
                if isinstance(step, Batch) and PARENT_TAG in step.tags:
                    step.tags = self._with_parent(step.tags)
        except Behind as why:
            self._set_apart(no, why)
            return
        for index, step in enumerate(steps[begin:], begin):
            try:
                if isinstance(step, Batch):
                    self._send_batch(no, run_id, step)
                else:
                    self._send_call(no, ref, run_id, step)
            except RunIsGone as gone:
                self._aside.keep(no, run_id, steps[index:], gone.error, whole_run=True)
                window.settled[no] = len(steps)
                return
            window.settled[no] = index + 1

    def _refusal(self, ref: RunRef) -> str | None:
        """Why a run was not created, by this journal or by the one that started it; None if it was."""
        if ref == UNKNOWN:
            return _UNKNOWN
        if ref.uid in self._ledger.refused or ref.run_id != ref.uid or self._known(ref.uid):
            return self._ledger.refused.get(ref.uid)
        return self._local_ids.resolve("refused", ref.uid)

    def _send_batch(self, no: int, run_id: str, batch: Batch) -> None:
        refusals = self._sender.send(run_id, Values.of(batch))
        self._accounts.settle(no, batch.count - len(refusals), refusals)

    def _send_call(self, no: int, ref: RunRef, run_id: str, call: Call) -> None:
        try:
            published = call.kind in (Kind.ARTIFACT, Kind.VERSION)
            self._retry.call(lambda: self._do(ref, run_id, call), gated=not published)
        except WithrunError as error:
            if call.kind in (Kind.DELETE_TAG, Kind.STATUS, Kind.INPUTS):
                self._sender.check_run(run_id, error)
            elif self._publisher is None:
                raise
            self._aside.keep(no, run_id, [call], error)
            return
        self._accounts.settle(no, call.count, [])

    def _do(self, ref: RunRef, run_id: str, call: Call) -> None:
        record = call.record
        if call.kind == Kind.DELETE_TAG:
            self._backend.delete_tag(run_id, record[3])
        elif call.kind == Kind.STATUS:
            self._backend.update_run(run_id, status=record[3], end_time=record[4])
            if record[3] in OVER:
                for key in {ref.run_id, ref.uid, run_id} & self._ledger.owned.keys():
                    self._ledger.done(key)
        elif call.kind == Kind.INPUTS:
            self._backend.log_inputs(run_id, tuple(msgspec.convert(record[3], list[DatasetInput])))
        else:
            self._publish(run_id, call)

    def _publish(self, run_id: str, call: Call) -> None:
        publisher = self._publisher
        if publisher is None:
            raise JournalError(
                f"journal {self._spool.folder.parent} holds artifacts to publish, but no publisher was given"
            )
        if call.kind == Kind.ARTIFACT:
            artifact = msgspec.convert(call.record[3], ArtifactIntent)
            publisher.publish_artifact(artifact, self._spool.source(artifact.spooled), run_id)
            self._spool.published(artifact.spooled)
            return
        version = msgspec.convert(call.record[3], VersionIntent)
        source = self._spool.source(version.spooled) if version.spooled else None
        number = publisher.publish_version(version, source, run_id, self._resolve)
        if version.local_version:
            self._local_ids.add("version", f"{version.model}/{version.local_version}", number)
        self._spool.published(version.spooled)
