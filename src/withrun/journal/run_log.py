"""RunLog: what a run's handle writes to. Every verb appends one record and returns in microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from withrun.errors import JournalError
from withrun.journal.record import (
    MARK,
    MAX_PAYLOAD,
    ArtifactIntent,
    Kind,
    RunIntent,
    VersionIntent,
    crc32,
    encode,
    frame,
    pack_header,
)

if TYPE_CHECKING:
    from withrun.backend import DatasetInput, RunRecord
    from withrun.journal.journal import Journal
    from withrun.journal.refused import Refusal

__all__ = ["Delivery", "RunLog"]

_METRIC = Kind.METRIC
_KEYS_PER_RECORD = 100
"""Params or tags in one record: what one request takes, and bounded in size."""


class Delivery(NamedTuple):
    """How a run's logging stands, counted in values: params, points, tags, ends, artifacts, versions."""

    accepted: int
    delivered: int
    pending: int
    refused: int


def now_ms() -> int:
    """The time in milliseconds since the epoch, as stores keep it."""
    return int(time.time() * 1000)


class RunLog:
    """One run's way into this process's journal, from any thread, signal handler, finalizer or forked child.

    Attributes:
        no: the run's number in this journal.
        uid: the value of its tag `withrun.uid`, if it was created here.
        run_id: its ID as this process knows it: the server's, or the local one (the uid) if it started
        without the server.
        server_id: its ID on the server; None as long as the server does not know it.
        accepted: how many values were taken; the position to wait for.
        record: the run as the server created it here; None for one that was there, or started without it.
        refusals: what the server would not take, the first hundred.
        untold: those of them that nobody was given yet; see `Journal.take_refusals`.
    """

    __slots__ = (
        "__weakref__",
        "_journal",
        "_write",
        "accepted",
        "delivered",
        "no",
        "record",
        "refusals",
        "refused",
        "run_id",
        "server_id",
        "uid",
        "untold",
    )

    _write: Callable[[bytes], object]

    def __init__(self, journal: Journal, no: int, run_id: str, uid: str = "") -> None:
        self._journal = journal
        self.no = no
        self.run_id = run_id
        self.uid = uid
        self.server_id: str | None = None if uid == run_id else run_id
        self.accepted = 0
        self.delivered = 0
        self.refused = 0
        self.refusals: list[Refusal] = []
        self.untold: list[Refusal] = []
        self.record: RunRecord | None = None
        self._write = _unbound

    def __repr__(self) -> str:
        return f"<RunLog of run {self.run_id}: {self.delivery}>"

    # --- verbs ---
    def metric(self, key: str, value: float, timestamp: int, step: int = 0) -> None:
        """Log one point of a metric."""
        # The one call that training loops make millions of times: spelt out instead of calling `_put`.
        payload = encode((_METRIC, self.no, key, value, timestamp, step))
        if len(payload) > MAX_PAYLOAD:
            frame((_METRIC, self.no, key, value, timestamp, step))
        framed = pack_header(len(payload) | MARK, crc32(payload)) + payload
        try:
            self._write(framed)
        except (ValueError, JournalError):
            self._journal.append(self, framed)
        # Loads, adds and stores without a call in between: CPython switches threads and runs handlers at
        # calls only.
        self.accepted += 1

    def metrics(self, values: Mapping[str, float], timestamp: int, step: int = 0) -> None:
        """Log one point each of several metrics."""
        for part in _parts(values, 1000):
            self._put((Kind.METRICS, self.no, timestamp, step, part), len(part))

    def params(self, values: Mapping[str, str]) -> None:
        """Log params."""
        for part in _parts(values, _KEYS_PER_RECORD):
            self._put((Kind.PARAMS, self.no, now_ms(), part), len(part))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        for part in _parts(values, _KEYS_PER_RECORD):
            self._put((Kind.TAGS, self.no, now_ms(), part), len(part))

    def delete_tag(self, key: str) -> None:
        """Delete a tag."""
        self._put((Kind.DELETE_TAG, self.no, now_ms(), key), 1)

    def status(self, status: str, end_time: int | None = None) -> None:
        """Set the run's status; with an end time, that ends it."""
        self._put((Kind.STATUS, self.no, now_ms(), status, end_time), 1)

    def inputs(self, datasets: Sequence[DatasetInput]) -> None:
        """Record which datasets the run used."""
        self._put((Kind.INPUTS, self.no, now_ms(), list(datasets)), len(datasets))

    def create(self, intent: RunIntent) -> None:
        """Have the run created when the server is there; to be called before any other verb."""
        self._put((Kind.CREATE, self.no, now_ms(), intent), 1)

    def artifact(self, intent: ArtifactIntent) -> None:
        """Have an artifact published after all that was logged before."""
        self._put((Kind.ARTIFACT, self.no, now_ms(), intent), 1)

    def version(self, intent: VersionIntent) -> None:
        """Have a model version registered after all that was logged before."""
        self._put((Kind.VERSION, self.no, now_ms(), intent), 1)

    def _put(self, record: tuple[object, ...], values: int) -> None:
        framed = frame(record)
        try:
            self._write(framed)
        except (ValueError, JournalError):
            self._journal.append(self, framed)
        self.accepted += values

    # --- state ---
    @property
    def delivery(self) -> Delivery:
        """How many values were accepted, delivered, are pending, were refused."""
        settled = self.delivered + self.refused
        # A value may be delivered before the call that logged it has counted it.
        return Delivery(
            max(self.accepted, settled), self.delivered, max(self.accepted - settled, 0), self.refused
        )

    @property
    def settled(self) -> int:
        """How many values were delivered or refused."""
        return self.delivered + self.refused

    def wait(
        self,
        *,
        exit_timeout: float | None = None,
        timeout: float | None = None,
        tell: Callable[[], None] | None = None,
    ) -> bool:
        """Wait until all that was logged to this run before is settled; see `Journal.wait`."""
        return self._journal.wait(self, self.accepted, exit_timeout=exit_timeout, timeout=timeout, tell=tell)

    # --- for the journal ---
    def introduction(self) -> bytes:
        """The frame that introduces the run's number in a segment."""
        return frame((Kind.RUN, self.no, self.run_id, self.uid))

    def bind(self, write: Callable[[bytes], object]) -> None:
        """Write to another segment from now on."""
        self._write = write

    def leave_to_parent(self) -> None:
        """After a fork, in the child: what was pending is the parent's to deliver."""
        self.delivered = self.accepted - self.refused
        self.untold = []
        self._write = _unbound


def _unbound(framed: bytes) -> None:
    raise ValueError("not bound to a segment yet")


def _parts(values: Mapping[str, object], size: int) -> list[dict[str, object]]:
    """Split a mapping into dicts of at most `size` keys."""
    if len(values) <= size:
        return [dict(values)] if values else []
    items = iter(values.items())
    return [dict(part) for part in iter(lambda: list(islice(items, size)), [])]
