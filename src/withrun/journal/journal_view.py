"""JournalView: what one journal says of local runs, experiments, models and versions, as store records.

Kept up to date by reading on. Of a metric just the last point is kept, so memory does not grow with what is
logged.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import msgspec

from withrun.backend import ExperimentRecord, KeyValue, Metric, ModelRecord, VersionRecord
from withrun.journal.follower import Follower
from withrun.journal.introductions import RunRef
from withrun.journal.record import ExperimentIntent, Kind, ModelIntent, RunIntent, VersionIntent, decode
from withrun.journal.spool import artifact_folder

__all__ = ["JournalView", "RunView", "is_later", "key_values", "points_of"]

logger = logging.getLogger("withrun.journal")

_MAKES_NO_SENSE = (ValueError, TypeError, LookupError, msgspec.DecodeError)


class RunView:
    """What one journal says of a run.

    Attributes:
        intent: how it was started, if that was journaled here.
        params: the first value of each, which alone a store takes.
        tags: the last value of each; None: deleted.
        metrics: the last point of each.
        status: the last one that was set; empty if none was.
        end_time: the last one that was set, in milliseconds.
    """

    __slots__ = ("end_time", "intent", "metrics", "params", "status", "tags")

    def __init__(self) -> None:
        self.intent: RunIntent | None = None
        self.params: dict[str, str] = {}
        self.tags: dict[str, str | None] = {}
        self.metrics: dict[str, Metric] = {}
        self.status = ""
        self.end_time: int | None = None

    def point(self, key: str, value: float, timestamp: int, step: int) -> None:
        """Take a point of a metric."""
        last = self.metrics.get(key)
        if last is None or step > last.step:
            self.metrics[key] = Metric(key, value, timestamp, step)
        elif step == last.step and is_later(point := Metric(key, value, timestamp, step), last):
            self.metrics[key] = point


def is_later(point: Metric, other: Metric) -> bool:
    """Whether a store shows this point of a metric as the last one, rather than the other.

    By step, then time, then value, where NaN counts as 0: as MLflow's stores have it.
    """
    return _rank(point) >= _rank(other)


def _rank(point: Metric) -> tuple[int, int, float]:
    return point.step, point.timestamp, 0.0 if math.isnan(point.value) else point.value


class JournalView:
    """One journal, read back.

    Attributes:
        path: its folder.
        runs: by local ID; those that were started elsewhere and logged to here, too.
        experiments: by local ID.
        models: by name.
        versions: by model and local version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, RunView] = {}
        self.experiments: dict[str, ExperimentRecord] = {}
        self.models: dict[str, ModelRecord] = {}
        self.versions: dict[tuple[str, str], VersionRecord] = {}
        self._follower = Follower(path)
        self._refs: dict[int, RunRef] = {}
        self._local: dict[int, RunView] = {}

    def refresh(self) -> None:
        """Read what was journaled since the last time.

        Raises:
            FileNotFoundError: the journal is gone.
        """
        metric, local = Kind.METRIC, self._local
        for payloads in self._follower.read():
            for payload in payloads:
                try:
                    record = decode(payload)
                    if record[0] == metric:
                        # Nearly all records are single points.
                        _, no, key, value, timestamp, step = record
                        run = local.get(no)
                        if run is not None:
                            run.point(key, value, timestamp, step)
                    else:
                        self._take(record)
                except _MAKES_NO_SENSE as error:  # noqa: PERF203 - free where it works
                    logger.warning("a record of %s can't be read back (%s)", self.path, error)

    def _take(self, record: list[Any]) -> None:
        kind, no = record[0], record[1]
        if kind == Kind.RUN:
            self._introduce(no, RunRef(record[2], record[3]))
        elif kind == Kind.EXPERIMENT:
            experiment = msgspec.convert(record[3], ExperimentIntent)
            self.experiments.setdefault(experiment.local_id, _experiment(experiment, record[2]))
        elif kind == Kind.MODEL:
            model = msgspec.convert(record[3], ModelIntent)
            self.models.setdefault(model.name, _model(model, record[2]))
        elif kind == Kind.VERSION:
            version = msgspec.convert(record[3], VersionIntent)
            found = self._version(version, self._refs[no].run_id, record[2])
            self.versions[found.name, found.version] = found
        elif no in self._local:
            _apply(self._local[no], kind, record)

    def _introduce(self, no: int, ref: RunRef) -> None:
        self._refs[no] = ref
        if ref.uid and ref.uid == ref.run_id:
            self._local[no] = self.runs.setdefault(ref.uid, RunView())

    def _version(self, intent: VersionIntent, run_id: str, at: int) -> VersionRecord:
        source = artifact_folder(self.path, run_id)
        return VersionRecord(
            intent.model,
            intent.local_version or intent.uid,
            source=str(source / intent.path_in_run if intent.path_in_run else source),
            run_id=run_id,
            creation_timestamp=at,
            last_updated_timestamp=at,
            tags=key_values(intent.tags),
        )


def _apply(run: RunView, kind: int, record: list[Any]) -> None:
    if kind == Kind.METRICS:
        _, _, timestamp, step, values = record
        for key, value in values.items():
            run.point(key, value, timestamp, step)
    elif kind == Kind.PARAMS:
        run.params = record[3] | run.params
    elif kind == Kind.TAGS:
        run.tags.update(record[3])
    elif kind == Kind.DELETE_TAG:
        run.tags[record[3]] = None
    elif kind == Kind.STATUS:
        run.status = record[3]
        run.end_time = record[4] if record[4] is not None else run.end_time
    elif kind == Kind.CREATE:
        run.intent = msgspec.convert(record[3], RunIntent)


def points_of(path: Path, uid: str, key: str) -> list[Metric]:
    """All points of one metric of a run in a journal, in the order of writing; none if it is gone."""
    found: list[Metric] = []
    mine: set[int] = set()
    try:
        for payloads in Follower(path).read():
            for payload in payloads:
                try:
                    record = decode(payload)
                    kind, no = record[0], record[1]
                    if kind == Kind.RUN and record[2] == record[3] == uid:
                        mine.add(no)
                    elif no not in mine:
                        continue
                    elif kind == Kind.METRIC and record[2] == key:
                        found.append(Metric(*record[2:]))
                    elif kind == Kind.METRICS and key in record[4]:
                        found.append(Metric(key, record[4][key], record[2], record[3]))
                except _MAKES_NO_SENSE:
                    continue  # told when the run was read
    except FileNotFoundError:
        pass
    return found


def key_values(mapping: dict[str, str]) -> tuple[KeyValue, ...]:
    """Params or tags as a record holds them."""
    return tuple(KeyValue(key, value) for key, value in mapping.items())


def _experiment(intent: ExperimentIntent, at: int) -> ExperimentRecord:
    return ExperimentRecord(
        intent.local_id,
        intent.name,
        artifact_location=intent.artifact_location or "",
        creation_time=at,
        last_update_time=at,
        tags=key_values(intent.tags),
    )


def _model(intent: ModelIntent, at: int) -> ModelRecord:
    return ModelRecord(
        intent.name, creation_timestamp=at, last_updated_timestamp=at, tags=key_values(intent.tags)
    )
