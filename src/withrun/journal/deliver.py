"""Delivering a window: the calls to the server, the search for what it refuses, the accounts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from withrun.backend import Backend, DatasetInput, KeyValue
from withrun.errors import JournalError, NotFound, ServerUnreachable, WithrunError
from withrun.journal.creation import PARENT_TAG, RunCreation, ensure_experiment, ensure_model
from withrun.journal.describe import describe
from withrun.journal.disk import JournalFull
from withrun.journal.ledger import Ledger
from withrun.journal.local_ids import LocalIds
from withrun.journal.pack import Batch, Call, RunRef, Window
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
from withrun.journal.refused import Refusal, RefusedFile
from withrun.journal.retry import Failing, Retry

__all__ = ["Accounts", "Deliverer"]

logger = logging.getLogger("withrun.journal")

_SUSPICION = 60.0
"""Seconds of failing answers (500) to one batch, after which it is taken apart: it may be a value's fault."""

OVER = frozenset({"FINISHED", "FAILED", "KILLED"})


class Accounts(Protocol):
    """Who is told what became of a run's values."""

    def settle(self, no: int, delivered: int, refusals: list[Refusal]) -> None:
        """Count values of run `no` as delivered, and others as refused."""

    def bound(self, no: int, run_id: str) -> None:
        """Run `no` has an ID on the server now."""


class Deliverer:
    """Sends windows to a store; when `deliver` returns, all in it is on the server or set aside.

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
    """

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        spool: Path,
        local_ids: LocalIds,
        refused: RefusedFile,
        retry: Retry,
        accounts: Accounts,
        *,
        publisher: Publisher | None = None,
        pool: Pool | None = None,
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
        self._sent = 0

    def deliver(self, window: Window) -> None:
        """Deliver a window; raises `GaveUp` if the server does not come back in time.

        May then be called again with the same window: what was delivered already changes nothing.
        """
        for call in window.firsts:
            self._first(call, window)
        jobs = [self._job(no, window.refs[no], steps) for no, steps in window.runs.items()]
        if self._pool is not None and len(jobs) > 1:
            self._pool.run(jobs)
        else:
            for job in jobs:
                job()

    def server_id(self, ref: RunRef) -> str:
        """The ID under which the server knows a run; waits until a local run of another process has one."""
        if ref.run_id != ref.uid:
            return self._resolve(ref.run_id)

        def look() -> str:
            found = self._known(ref.uid)
            if found is None:
                raise ServerUnreachable(
                    f"run {ref.run_id} started without the server and has not been delivered yet"
                )
            return found

        return self._retry.call(look, gated=False)

    def _known(self, run_id: str) -> str | None:
        return self._ledger.bound.get(run_id) or self._local_ids.resolve("run", run_id)

    def _resolve(self, run_id: str) -> str:
        return self._known(run_id) or run_id

    # --- what must be there first ---
    def _first(self, call: Call, window: Window) -> None:
        kind, no, _, fields = call.record[:4]
        if kind == Kind.CREATE:
            self._create(no, msgspec.convert(fields, RunIntent), call)
            return
        try:
            if kind == Kind.EXPERIMENT:
                intent = msgspec.convert(fields, ExperimentIntent)
                experiment_id = self._retry.call(lambda: ensure_experiment(self._backend, intent))
                self._note(lambda: self._local_ids.add("experiment", intent.local_id, experiment_id))
            else:
                model = msgspec.convert(fields, ModelIntent)
                self._retry.call(lambda: ensure_model(self._backend, model))
        except WithrunError as error:
            self._set_aside(no, "", [call], error)

    def _create(self, no: int, intent: RunIntent, call: Call) -> None:
        known = self._known(intent.uid)
        if known is None:
            experiment_id = (
                self._local_ids.resolve("experiment", intent.experiment_id) or intent.experiment_id
            )
            tags = self._with_parent(intent.tags)
            wanted = msgspec.structs.replace(intent, experiment_id=experiment_id, tags=tags)
            # An attempt noted before, by this or a dead process, may have been applied and its answer lost.
            creation = RunCreation(self._backend, wanted, uncertain=intent.uid in self._ledger.intents)
            self._note(lambda: self._ledger.intend(intent.uid, experiment_id))
            try:
                known = self._retry.call(creation.attempt).run_id
            except WithrunError as error:
                reason = str(error)
                self._note(lambda: self._ledger.refuse(intent.uid, reason))
                self._set_aside(no, intent.uid, [call], error)
                return
            server_id = known
            self._note(lambda: self._local_ids.add("run", intent.uid, server_id))
            self._note(lambda: self._ledger.bind(intent.uid, server_id))
        self._accounts.bound(no, known)
        self._accounts.settle(no, 1, [])

    def _note(self, note: Callable[[], None]) -> None:
        """Write down what was done; on a full disk go on without: unique tags tell it again."""
        try:
            note()
        except JournalFull as full:
            logger.warning("delivery goes on without a note on disk: %s", full)

    def _with_parent(self, tags: Mapping[str, str]) -> dict[str, str]:
        parent = tags.get(PARENT_TAG)
        return dict(tags) if parent is None else {**tags, PARENT_TAG: self._resolve(parent)}

    # --- a run's steps ---
    def _job(self, no: int, ref: RunRef, steps: list[Batch | Call]) -> Callable[[], None]:
        return lambda: self._deliver_run(no, ref, steps)

    def _deliver_run(self, no: int, ref: RunRef, steps: list[Batch | Call]) -> None:
        refused = self._ledger.refused.get(ref.uid)
        if refused is not None:
            self._set_aside(no, ref.run_id, steps, WithrunError(refused), whole_run=True)
            return
        run_id = self.server_id(ref)
        for index, step in enumerate(steps):
            try:
                if isinstance(step, Batch):
                    self._send_batch(no, run_id, step)
                else:
                    self._send_call(no, ref, run_id, step)
            except _RunIsGone as gone:  # noqa: PERF203 - beside a request, no cost
                self._set_aside(no, run_id, steps[index:], gone.error, whole_run=True)
                return

    def _send_batch(self, no: int, run_id: str, batch: Batch) -> None:
        if PARENT_TAG in batch.tags:
            batch.tags = self._with_parent(batch.tags)
        values = _Values(
            batch.metrics,
            [KeyValue(key, value) for key, value in batch.params.items()],
            [KeyValue(key, value) for key, value in batch.tags.items()],
        )
        refusals: list[Refusal] = []
        self._send(run_id, values, refusals)
        self._accounts.settle(no, batch.count - len(refusals), refusals)

    def _send(
        self, run_id: str, values: _Values, refusals: list[Refusal], suspicion: float = _SUSPICION
    ) -> None:
        """Send values; of a batch that is refused, or fails for long, halves, down to the bad ones."""
        before = self._sent
        reason: BaseException | None
        try:
            self._retry.call(lambda: self._log(run_id, values), suspicion=suspicion)
            self._sent += 1
            return
        except Failing as failing:
            reason = failing.__cause__
            if len(values) == 1 and self._sent == before:
                self._insist(run_id, values, refusals)
                return
            suspicion = _SUSPICION / 30
        except WithrunError as error:
            reason = error
            if not refusals:
                self._check_run(run_id, error)
        if len(values) > 1:
            for half in values.halves():
                self._send(run_id, half, refusals, suspicion)
            return
        self._refuse(run_id, values, reason, refusals)

    def _insist(self, run_id: str, values: _Values, refusals: list[Refusal]) -> None:
        """Send a value while nothing else gets through: more likely the server's fault than the value's."""
        while True:
            try:
                self._retry.call(lambda: self._log(run_id, values), suspicion=10 * _SUSPICION)
                self._sent += 1
                return
            except Failing as failing:  # noqa: PERF203 - beside a request, no cost
                if self._readable(run_id):
                    self._refuse(run_id, values, failing.__cause__, refusals)
                    return

    def _refuse(
        self, run_id: str, values: _Values, reason: BaseException | None, refusals: list[Refusal]
    ) -> None:
        refusal = Refusal(run_id, describe(values.only), str(reason), values.only)
        self._refused.add([refusal])
        refusals.append(refusal)

    def _log(self, run_id: str, values: _Values) -> None:
        self._backend.log_batch(
            run_id, metrics=tuple(values.metrics), params=tuple(values.params), tags=tuple(values.tags)
        )

    def _readable(self, run_id: str) -> bool:
        """Whether the store answers for this run."""
        try:
            with self._retry.gate:
                self._backend.get_run(run_id)
        except WithrunError:
            return False
        return True

    def _check_run(self, run_id: str, error: WithrunError) -> None:
        """Raise `_RunIsGone` if the whole run can't be written to: its values are not tried one by one."""
        try:
            run = self._retry.call(lambda: self._backend.get_run(run_id))
        except NotFound as missing:
            raise _RunIsGone(missing) from error
        except WithrunError:
            return
        if run.lifecycle_stage != "active":
            raise _RunIsGone(error) from error

    def _send_call(self, no: int, ref: RunRef, run_id: str, call: Call) -> None:
        try:
            published = call.kind in (Kind.ARTIFACT, Kind.VERSION)
            self._retry.call(lambda: self._do(ref, run_id, call), gated=not published)
        except WithrunError as error:
            if call.kind in (Kind.DELETE_TAG, Kind.STATUS, Kind.INPUTS):
                self._check_run(run_id, error)
            elif self._publisher is None:
                raise
            self._set_aside(no, run_id, [call], error)
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
                    self._note(partial(self._ledger.done, key))
        elif call.kind == Kind.INPUTS:
            self._backend.log_inputs(run_id, tuple(msgspec.convert(record[3], list[DatasetInput])))
        else:
            self._publish(run_id, call)

    def _publish(self, run_id: str, call: Call) -> None:
        publisher = self._publisher
        if publisher is None:
            raise JournalError(
                f"journal {self._spool.parent} holds artifacts to publish, but no publisher was given"
            )
        if call.kind == Kind.ARTIFACT:
            artifact = msgspec.convert(call.record[3], ArtifactIntent)
            publisher.publish_artifact(artifact, self._spool / artifact.spooled, run_id)
            return
        version = msgspec.convert(call.record[3], VersionIntent)
        source = self._spool / version.spooled if version.spooled else None
        number = publisher.publish_version(version, source, run_id, self._resolve)
        if version.local_version:
            local = f"{version.model}/{version.local_version}"
            self._note(lambda: self._local_ids.add("version", local, number))

    def _set_aside(
        self,
        no: int,
        run_id: str,
        steps: list[Batch | Call] | list[Call],
        error: WithrunError,
        *,
        whole_run: bool = False,
    ) -> None:
        """Keep refused steps aside, and count them."""
        refusals: list[Refusal] = []
        for step in steps:
            values: list[Any] = [step.record] if isinstance(step, Call) else _all_values(step)
            refusals += [Refusal(run_id, describe(value), str(error), value) for value in values]
        summary = (
            f"run {run_id} can't be written to, {len(refusals)} values were refused: {error}"
            if whole_run
            else ""
        )
        self._refused.add(refusals, summary=summary)
        missing = sum(step.count for step in steps) - len(refusals)
        self._accounts.settle(no, max(missing, 0), refusals)


class _RunIsGone(Exception):
    def __init__(self, error: WithrunError) -> None:
        super().__init__(str(error))
        self.error = error


class _Values(msgspec.Struct):
    """Some of a batch's values."""

    metrics: list[Any]
    params: list[KeyValue]
    tags: list[KeyValue]

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)

    @property
    def only(self) -> Any:
        """The one value, as a journal record without its run."""
        if self.metrics:
            point = self.metrics[0]
            return [Kind.METRIC, 0, point.key, point.value, point.timestamp, point.step]
        kind, pair = (Kind.PARAMS, self.params[0]) if self.params else (Kind.TAGS, self.tags[0])
        return [kind, 0, 0, {pair.key: pair.value}]

    def halves(self) -> tuple[_Values, _Values]:
        """Two parts: by kind where there are several, else in the middle."""
        if self.metrics and (self.params or self.tags):
            return _Values(self.metrics, [], []), _Values([], self.params, self.tags)
        if self.params and self.tags:
            return _Values([], self.params, []), _Values([], [], self.tags)
        m, p, t = len(self.metrics) // 2, len(self.params) // 2, len(self.tags) // 2
        first = _Values(self.metrics[:m], self.params[:p], self.tags[:t])
        return first, _Values(self.metrics[m:], self.params[p:], self.tags[t:])


def _all_values(batch: Batch) -> list[Any]:
    """A batch's values, each as a journal record without its run."""
    params = [KeyValue(key, value) for key, value in batch.params.items()]
    tags = [KeyValue(key, value) for key, value in batch.tags.items()]
    return (
        [_Values([point], [], []).only for point in batch.metrics]
        + [_Values([], [param], []).only for param in params]
        + [_Values([], [], [tag]).only for tag in tags]
    )
