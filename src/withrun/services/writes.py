"""The seam of the write path: how params, metrics, tags and ends of runs reach the store.

Everything above writes through `WritePath` and waits by `flush`, whether writes go straight to the backend
(`DirectWrites`) or through a journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from withrun.backend import Backend, KeyValue, Metric
from withrun.schema import RunStatus

__all__ = ["DirectWrites", "WritePath"]

# MLflow's REST API, "Request Limits": https://mlflow.org/docs/latest/rest-api.html#log-batch
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100

T = TypeVar("T")


class WritePath(Protocol):
    """Takes what is logged, in order per run. Keys and values are checked and encoded already."""

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        synchronous: bool | None = None,
    ) -> None:
        """Take params, metrics and tags of a run; `synchronous` returns once the store has them."""

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take the deletion of a tag."""

    def end(self, run_id: str, status: RunStatus, end_time: int) -> None:
        """Take the end of a run (`end_time` in ms since the epoch), and wait until all of it is delivered."""

    def flush(self, run_id: str | None = None, timeout: float | None = None) -> None:
        """Return once everything taken so far, of one run or of all, is in the store.

        Raises:
            TimeoutError: it is not after `timeout` seconds.
        """

    def close(self) -> None:
        """Flush, and let go of what the write path holds."""


class DirectWrites:
    """A write path straight to the backend: each call is delivered, in batches, before it returns."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        synchronous: bool | None = None,
    ) -> None:
        """Send params, metrics and tags in as few batches as the store's limits allow."""
        metric_batches = _batches(metrics, MAX_METRICS - MAX_PARAMS - MAX_TAGS)
        param_batches = _batches([KeyValue(*item) for item in (params or {}).items()], MAX_PARAMS)
        tag_batches = _batches([KeyValue(*item) for item in (tags or {}).items()], MAX_TAGS)
        while True:
            batch = next(metric_batches, ()), next(param_batches, ()), next(tag_batches, ())
            if not any(batch):
                return
            self._backend.log_batch(run_id, metrics=batch[0], params=batch[1], tags=batch[2])

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete a tag."""
        self._backend.delete_tag(run_id, key)

    def end(self, run_id: str, status: RunStatus, end_time: int) -> None:
        """Set the final status."""
        self._backend.update_run(run_id, status=status.value, end_time=end_time)

    def flush(self, run_id: str | None = None, timeout: float | None = None) -> None:
        """Nothing ever waits here."""

    def close(self) -> None:
        """Nothing is held."""


def _batches(items: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch
