"""Packing: a window of records, sorted by run, in the fewest calls that keep the order within each run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from withrun.backend import Metric
from withrun.journal.introductions import RunRef
from withrun.journal.position import Position
from withrun.journal.record import (
    ArtifactIntent,
    ExperimentIntent,
    Kind,
    ModelIntent,
    RunIntent,
    VersionIntent,
    decode,
)

__all__ = ["Batch", "Call", "Malformed", "Window"]

MAX_METRICS, MAX_PARAMS, MAX_TAGS, MAX_VALUES = 1000, 100, 100, 1000
MAX_BYTES = 900_000
"""What one request may carry: MLflow's limits, the last one (1 MB) with room for what JSON adds."""

_JSON_OVERHEAD = 64
"""Bytes that a value takes in JSON besides its own text, at most."""


class Malformed(msgspec.Struct, frozen=True):
    """A record that verified but makes no sense: written by another version, say.

    Attributes:
        no: the number of the run that it is of, 0 if that can't be told.
        record: what it says, or its bytes.
        reason: what is wrong with it.
    """

    no: int
    record: Any
    reason: str


class Batch:
    """Params, metrics and tags of one run that travel in one `log_batch`.

    Attributes:
        count: values as they were logged; repeated ones are sent once, and counted each.
        room: how many metrics it takes beside the params and tags in it.
        at: when the last param or tag was logged, in milliseconds.
    """

    __slots__ = ("at", "count", "metrics", "params", "room", "size", "tags")

    def __init__(self) -> None:
        self.metrics: list[Metric] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.count = 0
        self.size = 0
        self.room = MAX_METRICS
        self.at = 0

    @property
    def values(self) -> int:
        """How many values are sent."""
        return len(self.metrics) + len(self.params) + len(self.tags)


class Call:
    """A record that is a call of its own."""

    __slots__ = ("at", "count", "kind", "record")

    def __init__(self, kind: int, record: list[Any], count: int = 1) -> None:
        self.kind = kind
        self.record = record
        self.count = count
        self.at = record[2]


class Window:
    """A bounded stretch of the journal, ready to be delivered.

    Attributes:
        end: the position behind it.
        firsts: what must be there before anything else: experiments, models, runs to be created, in order.
        runs: the steps of each run, by its number.
        refs: the runs by number.
        read: records in it.
        firsts_settled: how many of the firsts are there by now, or refused.
        settled: how many steps of each run are delivered or refused; what is delivered again begins there.
        malformed: records that make no sense, to be kept aside.
    """

    def __init__(self) -> None:
        self.end = Position(0, 0)
        self.firsts: list[Call] = []
        self.runs: dict[int, list[Batch | Call]] = {}
        self.refs: dict[int, RunRef] = {}
        self.firsts_settled = 0
        self.settled: dict[int, int] = {}
        self.read = 0
        self.size = 0
        self.malformed: list[Malformed] = []

    def add(self, payloads: list[bytes], refs: dict[int, RunRef]) -> None:
        """Take records in, in the order of the journal; `refs` are the introductions of their segment."""
        metric_kind, unpack, point = Kind.METRIC, decode, Metric
        batch, owner = None, -1
        for payload in payloads:
            try:
                record = unpack(payload)
                if record[0] == metric_kind:
                    # Nearly all records are single points: kept free of calls.
                    _, no, key, value, timestamp, step = record
                    if no != owner or batch is None:
                        batch, owner = self._batch(no, refs), no
                    if len(batch.metrics) >= batch.room or batch.size >= MAX_BYTES:
                        batch = self._new_batch(no, refs)
                    batch.metrics.append(point(key, value, timestamp, step))
                    batch.count += 1
                    batch.size += len(payload) + _JSON_OVERHEAD
                else:
                    batch = None
                    self._take(record, refs)
            except (ValueError, TypeError, LookupError, msgspec.DecodeError) as error:  # noqa: PERF203
                self.malformed.append(_malformed(payload, error))
        self.read += len(payloads)
        self.size += sum(map(len, payloads))

    def only(self, numbers: Collection[int]) -> Window:
        """The part of it that is of some runs."""
        part = Window()
        part.end, part.refs = self.end, self.refs
        part.firsts = [call for call in self.firsts if call.record[1] in numbers]
        part.runs = {no: steps for no, steps in self.runs.items() if no in numbers}
        return part

    def _take(self, record: list[Any], refs: dict[int, RunRef]) -> None:
        kind, no = record[0], record[1]
        if kind == Kind.RUN:
            refs[no] = RunRef(record[2], record[3])
        elif kind == Kind.METRICS:
            for key, value in record[4].items():
                self._room(no, refs, metrics=1).metrics.append(Metric(key, value, record[2], record[3]))
                self._counted(no, _json_size(key) + 32, 0)
        elif kind == Kind.PARAMS:
            for key, value in record[3].items():
                self._param(no, refs, key, value, record[2])
        elif kind == Kind.TAGS:
            for key, value in record[3].items():
                self._room(no, refs, tags=key not in self._batch(no, refs).tags).tags[key] = value
                self._counted(no, _json_size(key) + _json_size(value), record[2])
        elif kind in (Kind.EXPERIMENT, Kind.MODEL, Kind.CREATE):
            intent = msgspec.convert(record[3], _INTENTS[kind])
            if isinstance(intent, RunIntent):
                # It says itself which run it is.
                self.refs[no] = refs[no] = RunRef(intent.uid, intent.uid)
            self.firsts.append(Call(kind, record))
        elif kind in (Kind.DELETE_TAG, Kind.STATUS, Kind.INPUTS, Kind.ARTIFACT, Kind.VERSION):
            if kind in _INTENTS:
                msgspec.convert(record[3], _INTENTS[kind])
            count = len(record[3]) if kind == Kind.INPUTS else 1
            self._steps(no, refs).append(Call(kind, record, count))
        else:
            raise ValueError(f"unknown kind of record {kind!r}")

    def _param(self, no: int, refs: dict[int, RunRef], key: str, value: str, at: int) -> None:
        batch = self._batch(no, refs)
        if key in batch.params and batch.params[key] != value:
            # Stores refuse a batch that holds a key twice: the second goes by itself, for the server to
            # judge.
            batch = self._new_batch(no, refs)
        elif key not in batch.params:
            batch = self._room(no, refs, params=1)
        batch.params[key] = value
        self._counted(no, _json_size(key) + _json_size(value), at)

    def _counted(self, no: int, size: int, at: int) -> None:
        batch = self.runs[no][-1]
        assert isinstance(batch, Batch)  # noqa: S101 - what `_room` has just returned
        batch.count += 1
        batch.size += size + _JSON_OVERHEAD
        batch.room = MAX_VALUES - len(batch.params) - len(batch.tags)
        batch.at = max(batch.at, at)

    def _steps(self, no: int, refs: dict[int, RunRef]) -> list[Batch | Call]:
        steps = self.runs.get(no)
        if steps is None:
            self.refs[no] = refs[no]
            steps = self.runs[no] = []
        return steps

    def _batch(self, no: int, refs: dict[int, RunRef]) -> Batch:
        """The run's open batch: its last step, if that is one."""
        steps = self._steps(no, refs)
        if steps and isinstance(last := steps[-1], Batch):
            return last
        return self._new_batch(no, refs)

    def _new_batch(self, no: int, refs: dict[int, RunRef]) -> Batch:
        batch = Batch()
        self._steps(no, refs).append(batch)
        return batch

    def _room(
        self, no: int, refs: dict[int, RunRef], *, metrics: int = 0, params: int = 0, tags: int = 0
    ) -> Batch:
        """The run's open batch if it takes that much more, else a new one."""
        batch = self._batch(no, refs)
        fits = (
            len(batch.metrics) + metrics <= MAX_METRICS
            and len(batch.params) + params <= MAX_PARAMS
            and len(batch.tags) + tags <= MAX_TAGS
            and batch.values + metrics + params + tags <= MAX_VALUES
            and batch.size < MAX_BYTES
        )
        return batch if fits else self._new_batch(no, refs)


_INTENTS: dict[int, type[msgspec.Struct]] = {
    Kind.CREATE: RunIntent,
    Kind.ARTIFACT: ArtifactIntent,
    Kind.VERSION: VersionIntent,
    Kind.EXPERIMENT: ExperimentIntent,
    Kind.MODEL: ModelIntent,
}


def _malformed(payload: bytes, error: Exception) -> Malformed:
    try:
        record = decode(payload)
        no = record[1]
    except (ValueError, TypeError, LookupError, msgspec.DecodeError):
        record, no = payload, 0
    return Malformed(no if isinstance(no, int) else 0, record, str(error))


def _json_size(text: str) -> int:
    """Bytes that a text takes in a request: up to four a character, and six for a control character."""
    return len(msgspec.json.encode(text))
