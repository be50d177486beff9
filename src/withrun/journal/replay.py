"""LocalStore: what was logged offline and is not delivered yet, read back out of the journals of a store."""

from __future__ import annotations

import math
import os
import threading
import weakref
from pathlib import Path

import msgspec

from withrun.backend import ExperimentRecord, Metric, ModelRecord, RunRecord, VersionRecord
from withrun.journal.creation import UID_TAG
from withrun.journal.folder import journals_in, store_folder_of
from withrun.journal.journal_view import (
    JournalView,
    RunView,
    is_later,
    key_values,
    points_of,
)
from withrun.journal.record import RunIntent
from withrun.journal.spool import artifact_folder, artifact_folders

__all__ = ["LocalStore"]


class LocalStore:
    """Runs, experiments, models and versions as the journals on this machine know them, by their local IDs.

    Those of living processes count, this one's included. What several journals say of one run is taken
    together in the order of the journals, which is the order of delivery. Nothing is locked or changed, and
    a second read costs what came since. Safe from any thread, and after a fork.

    Attributes:
        folder: holds the journals; may not exist.

    Args:
        journal_dir: holds the journals of all stores.
        store_uri: the store, normalised and without credentials.
    """

    def __init__(self, journal_dir: Path, store_uri: str) -> None:
        self.folder = store_folder_of(journal_dir.absolute(), store_uri)
        self._start_over()
        _stores.add(self)

    def _start_over(self) -> None:
        self._lock = threading.RLock()
        self._views: dict[Path, JournalView] = {}

    # --- runs ---
    def run(self, uid: str) -> RunRecord | None:
        """A local run, as the server will have it; None if no journal holds its start (any more)."""
        with self._lock:
            views = self._refreshed()
            return _run(uid, views, _experiments_by_id(views))

    def runs(self) -> list[RunRecord]:
        """All local runs, in the order of their starts."""
        with self._lock:
            views = self._refreshed()
            experiments = _experiments_by_id(views)
            uids = dict.fromkeys(uid for view in views for uid in view.runs)
            found = [_run(uid, views, experiments) for uid in uids]
        return sorted((run for run in found if run is not None), key=lambda run: run.start_time or 0)

    def metric_history(self, uid: str, key: str) -> list[Metric]:
        """All points of one metric of a local run by time and step, each once; reads the journals anew."""
        with self._lock:
            paths = [view.path for view in self._refreshed() if uid in view.runs]
        points = {_identity(point): point for path in paths for point in points_of(path, uid, key)}
        return sorted(points.values(), key=lambda point: (point.timestamp, point.step))

    def artifact_folders(self, uid: str) -> list[Path]:
        """Where the journals keep artifacts of a local run; the last folder is the most complete."""
        return artifact_folders(self.folder, uid)

    # --- experiments, models, versions ---
    def experiment(self, local_id: str) -> ExperimentRecord | None:
        """The experiment that a local ID means: of several of one name the first, which all will be."""
        with self._lock:
            views = self._refreshed()
            found = next((view.experiments[local_id] for view in views if local_id in view.experiments), None)
            return found and _experiments(views)[found.name]

    def experiment_by_name(self, name: str) -> ExperimentRecord | None:
        """The local experiment of that name."""
        with self._lock:
            return _experiments(self._refreshed()).get(name)

    def experiments(self) -> list[ExperimentRecord]:
        """All local experiments, one of each name."""
        with self._lock:
            return list(_experiments(self._refreshed()).values())

    def model(self, name: str) -> ModelRecord | None:
        """A registered model that was asked for offline; the server may have it already."""
        with self._lock:
            return _models(self._refreshed()).get(name)

    def models(self) -> list[ModelRecord]:
        """All registered models that were asked for offline."""
        with self._lock:
            return list(_models(self._refreshed()).values())

    def version(self, model: str, local_version: str) -> VersionRecord | None:
        """A local version of a model."""
        with self._lock:
            for view in self._refreshed():
                found = view.versions.get((model, local_version))
                if found is not None:
                    return found
        return None

    def versions(self) -> list[VersionRecord]:
        """All local model versions."""
        with self._lock:
            return [version for view in self._refreshed() for version in view.versions.values()]

    # --- within, under the lock ---
    def _refreshed(self) -> list[JournalView]:
        known = self._views
        self._views = {path: known.get(path) or JournalView(path) for path in journals_in(self.folder)}
        for path, view in list(self._views.items()):
            try:
                view.refresh()
            except FileNotFoundError:  # noqa: PERF203 - beside reading, no cost
                del self._views[path]  # delivered
        return list(self._views.values())


def _identity(point: Metric) -> tuple[int, int, float | None]:
    """What a store keeps one row of; NaN, which equals nothing, is one value there."""
    return point.step, point.timestamp, None if math.isnan(point.value) else point.value


def _experiments(views: list[JournalView]) -> dict[str, ExperimentRecord]:
    """By name, the first of each."""
    found: dict[str, ExperimentRecord] = {}
    for view in views:
        for experiment in view.experiments.values():
            found.setdefault(experiment.name, experiment)
    return found


def _experiments_by_id(views: list[JournalView]) -> dict[str, str]:
    """Of each local ID the one that stands for all experiments of the same name."""
    by_name = _experiments(views)
    return {
        local_id: by_name[experiment.name].experiment_id
        for view in views
        for local_id, experiment in view.experiments.items()
    }


def _models(views: list[JournalView]) -> dict[str, ModelRecord]:
    found: dict[str, ModelRecord] = {}
    for view in views:
        found = view.models | found
    return found


def _run(uid: str, views: list[JournalView], experiments: dict[str, str]) -> RunRecord | None:
    parts = [(view.path, view.runs[uid]) for view in views if uid in view.runs]
    for path, part in parts:
        intent = part.intent
        if intent is not None:
            known_as = experiments.get(intent.experiment_id, intent.experiment_id)
            intent = msgspec.structs.replace(intent, experiment_id=known_as)
            folders = [folder for one, _ in parts if (folder := artifact_folder(one, uid)).is_dir()]
            artifacts = folders[-1] if folders else artifact_folder(path, uid)
            return _record(intent, artifacts, [run for _, run in parts])
    return None


def _record(intent: RunIntent, artifacts: Path, parts: list[RunView]) -> RunRecord:
    params: dict[str, str] = {}
    tags: dict[str, str | None] = {**intent.tags, UID_TAG: intent.uid}
    metrics: dict[str, Metric] = {}
    status, end_time = intent.status, None
    for part in parts:
        params = part.params | params
        tags |= part.tags
        status = part.status or status
        end_time = part.end_time if part.end_time is not None else end_time
        for key, point in part.metrics.items():
            if key not in metrics or is_later(point, metrics[key]):
                metrics[key] = point
    kept = {key: value for key, value in tags.items() if value is not None}
    return RunRecord(
        intent.uid,
        intent.experiment_id,
        run_name=kept.get("mlflow.runName") or intent.name or "",
        user_id=kept.get("mlflow.user", ""),
        status=status,
        start_time=intent.start_time,
        end_time=end_time,
        artifact_uri=str(artifacts),
        params=key_values(params),
        metrics=tuple(metrics.values()),
        tags=key_values(kept),
    )


_stores: weakref.WeakSet[LocalStore] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Another thread of the parent may have been reading: its lock, and what it had half read, are dropped.
    for store in list(_stores):
        store._start_over()


os.register_at_fork(after_in_child=_after_fork_in_child)
