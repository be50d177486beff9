"""Sending a batch: in one call, or, where the server refuses that, in halves down to the values at fault."""

from __future__ import annotations

from typing import Any

import msgspec

from withrun.backend import Backend, KeyValue, Metric
from withrun.errors import NotFound, ServerError, WithrunError
from withrun.journal.describe import describe
from withrun.journal.pack import Batch
from withrun.journal.record import Kind
from withrun.journal.refused import Refusal, RefusedFile
from withrun.journal.retry import Failing, Retry

__all__ = ["RunIsGone", "Sender", "Values"]

SUSPICION = 60.0
"""Seconds of failing answers (500, or a gateway's own) to one batch, after which it is taken apart: it may be
a value's fault."""

PROBE_TAG = "withrun.probe"
"""Set and deleted again to tell a failing server from a value that it fails at."""


class RunIsGone(Exception):
    """A run can't be written to at all, for the reason in `error`."""

    def __init__(self, error: WithrunError) -> None:
        super().__init__(str(error))
        self.error = error


class _TooLarge(Exception):
    """Several values don't fit into one request of what stands before the server."""


class Values(msgspec.Struct):
    """Some of a batch's values."""

    metrics: list[Metric]
    params: list[KeyValue]
    tags: list[KeyValue]

    @classmethod
    def of(cls, batch: Batch) -> Values:
        """All of a batch's values."""
        return cls(
            batch.metrics,
            [KeyValue(key, value) for key, value in batch.params.items()],
            [KeyValue(key, value) for key, value in batch.tags.items()],
        )

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)

    def records(self) -> list[Any]:
        """Each value as a journal record without its run."""
        return [
            *(
                [Kind.METRIC, 0, point.key, point.value, point.timestamp, point.step]
                for point in self.metrics
            ),
            *([Kind.PARAMS, 0, 0, {param.key: param.value}] for param in self.params),
            *([Kind.TAGS, 0, 0, {tag.key: tag.value}] for tag in self.tags),
        ]

    def halves(self) -> tuple[Values, Values]:
        """Two parts: by kind where there are several, else in the middle."""
        if self.metrics and (self.params or self.tags):
            return Values(self.metrics, [], []), Values([], self.params, self.tags)
        if self.params and self.tags:
            return Values([], self.params, []), Values([], [], self.tags)
        m, p, t = len(self.metrics) // 2, len(self.params) // 2, len(self.tags) // 2
        first = Values(self.metrics[:m], self.params[:p], self.tags[:t])
        return first, Values(self.metrics[m:], self.params[p:], self.tags[t:])


class Sender:
    """Sends values of runs that are on the server.

    Args:
        backend: the store.
        refused: where refused values are kept.
        retry: how long to try.
    """

    def __init__(self, backend: Backend, refused: RefusedFile, retry: Retry) -> None:
        self._backend = backend
        self._refused = refused
        self._retry = retry

    def send(self, run_id: str, values: Values) -> list[Refusal]:
        """Send values and return those that the server refused; raises `RunIsGone`."""
        refusals: list[Refusal] = []
        self._send(run_id, values, refusals, SUSPICION)
        return refusals

    def _send(self, run_id: str, values: Values, refusals: list[Refusal], suspicion: float) -> None:
        reason: BaseException | None
        while True:
            try:
                self._retry.call(lambda: self._log(run_id, values), suspicion=suspicion)
                return
            except _TooLarge as large:
                reason = large.__cause__
                suspicion = SUSPICION / 30
            except Failing as failing:
                reason = failing.__cause__
                if not self._writable(run_id):
                    continue  # nothing gets through: the server's fault, and it is waited for
                if suspicion == SUSPICION:
                    suspicion = SUSPICION / 30
                    continue  # the server may have come back just now
            except WithrunError as error:
                reason = error
                if not refusals:
                    self.check_run(run_id, error)
            break
        if len(values) > 1:
            for half in values.halves():
                self._send(run_id, half, refusals, suspicion)
            return
        self._refuse(run_id, values, reason, refusals)

    def _refuse(
        self, run_id: str, values: Values, reason: BaseException | None, refusals: list[Refusal]
    ) -> None:
        [record] = values.records()
        refusal = Refusal(run_id, describe(record), str(reason), record)
        self._refused.add([refusal])
        refusals.append(refusal)

    def _log(self, run_id: str, values: Values) -> None:
        try:
            self._backend.log_batch(
                run_id, metrics=tuple(values.metrics), params=tuple(values.params), tags=tuple(values.tags)
            )
        except ServerError as error:
            if error.status == 413 and len(values) > 1:
                raise _TooLarge from error
            raise

    def _writable(self, run_id: str) -> bool:
        """Whether the store takes anything for this run just now; leaves nothing behind."""
        try:
            with self._retry.gate:
                self._backend.log_batch(run_id, tags=(KeyValue(PROBE_TAG, "1"),))
                self._backend.delete_tag(run_id, PROBE_TAG)
        except WithrunError:
            return False
        return True

    def check_run(self, run_id: str, error: WithrunError) -> None:
        """Raise `RunIsGone` if the whole run can't be written to: its values are not tried one by one."""
        try:
            run = self._retry.call(lambda: self._backend.get_run(run_id))
        except NotFound as missing:
            raise RunIsGone(missing) from error
        except WithrunError:
            return
        if run.lifecycle_stage != "active":
            raise RunIsGone(error) from error
