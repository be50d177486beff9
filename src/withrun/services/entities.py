"""From the records of a store to entities."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Literal

import msgspec

from withrun.backend import ExperimentRecord, KeyValue, ModelRecord, RunRecord, VersionRecord
from withrun.errors import ServerError
from withrun.keys import unflatten
from withrun.previews import Preview, PreviewText, parse_preview
from withrun.schema import Experiment, Model, ModelVersion, Run, RunStatus
from withrun.services.tag_keys import TagKeys
from withrun.services.translation import DataTranslation
from withrun.values import complete, metric_from_store

__all__ = ["EntityBuilder", "artifact_folder", "from_milliseconds", "in_the_spool"]

_log = logging.getLogger("withrun")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
_LATEST = datetime.max.replace(tzinfo=timezone.utc)


class EntityBuilder:
    """Builds entities out of a store's records.

    Args:
        keys: the tags that a run's relations are kept in.
        translation: decodes params and tags.
        whole: fetches the text that a preview stands for from the artifacts of its run; None if it is gone.
    """

    def __init__(
        self, keys: TagKeys, translation: DataTranslation, whole: Callable[[Run, Preview], str | None]
    ) -> None:
        self._keys = keys
        self._translation = translation
        self._whole = whole

    def experiment(self, record: ExperimentRecord) -> Experiment:
        """An experiment."""
        return Experiment(id=record.experiment_id, name=record.name, tags=self._tags(record.tags))

    def run(self, record: RunRecord, exp: Experiment, *, whole: bool = True) -> Run:
        """A run of an experiment; with `whole=False`, long values are left for `complete`."""
        repo = _chosen_repo(record, self._keys)
        suffix = f"/{record.run_id}/artifacts"
        run = Run(
            id=record.run_id,
            name=record.run_name,
            exp=exp,
            repo=record.artifact_uri.removesuffix(suffix) if repo is None else repo,
            repo_url=artifact_folder(record, self._keys),
            tags=self._tags(record.tags),
            params=self._tags(record.params),
            metrics=unflatten((m.key, metric_from_store(m.value)) for m in record.metrics),
            status=_status(record),
            start_time=_time_of(record, "start_time"),
            end_time=_time_of(record, "end_time"),
        )
        return self.complete(run) if whole else run

    def complete(self, run: Run, only: PreviewText | None = None) -> Run:
        """A run with its long values, which `whole=False` left out; or with what one preview stands for."""
        wanted = None if only is None else parse_preview(only)

        def whole(preview: Preview) -> str | None:
            return self._whole(run, preview) if wanted in (None, preview) else None

        for texts in (run.tags, run.params):
            complete(texts, whole)
        return run

    def model(self, record: ModelRecord) -> Model:
        """A registered model."""
        return Model(name=record.name, tags=self._tags(record.tags))

    def version(self, record: VersionRecord, model: Model, run: Run | None, source: str) -> ModelVersion:
        """A model version.

        Args:
            record: the store's record.
            model: its model.
            run: the run that made it, if known.
            source: URL of its artifact, as resolved.
        """
        inside = run is not None and source.startswith(run.repo_url.rstrip("/") + "/")
        path = source[len(run.repo_url.rstrip("/")) + 1 :].strip("/") if inside and run is not None else ""
        return ModelVersion(
            version=record.version,
            model=model,
            run=run,
            path_in_run=path,
            source="" if path else source,
            # The mark by which it is registered once is no business of its users.
            tags=self._tags(tag for tag in record.tags if tag.key != self._keys.uid),
        )

    def _tags(self, items: Iterable[KeyValue]) -> dict[str, object]:
        return self._translation.from_texts((item.key, item.value) for item in items)


def artifact_folder(record: RunRecord, keys: TagKeys) -> str:
    """URL of a run's own artifact folder: in the repo that its tag names, else where the store puts it."""
    repo = _chosen_repo(record, keys)
    return record.artifact_uri if repo is None else f"{repo.rstrip('/')}/{record.run_id}/artifacts"


def in_the_spool(record: RunRecord, keys: TagKeys) -> RunRecord:
    """A run that the server does not know yet, whose artifacts are not in the repo of its choice so far."""
    return msgspec.structs.replace(record, tags=tuple(tag for tag in record.tags if tag.key != keys.repo))


def _chosen_repo(record: RunRecord, keys: TagKeys) -> str | None:
    return next((tag.value for tag in record.tags if tag.key == keys.repo), None)


def from_milliseconds(moment: int | None) -> datetime | None:
    """An aware datetime from the milliseconds of a store; None for 0 and None.

    For what no calendar holds, the earliest or the latest one: so it keeps its place among others, as the
    store sorts them.
    """
    if not moment:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=moment)
    except OverflowError:
        return _EARLIEST if moment < 0 else _LATEST


def _time_of(record: RunRecord, field: Literal["start_time", "end_time"]) -> datetime | None:
    milliseconds: int | None = getattr(record, field)
    moment = from_milliseconds(milliseconds)
    if milliseconds is not None and moment in (_EARLIEST, _LATEST):
        _warn_of_time(record.run_id, field, milliseconds)
    return moment


@lru_cache(maxsize=1024)  # once for each run, not at every look at it
def _warn_of_time(run_id: str, field: str, milliseconds: int) -> None:
    _log.warning(
        "run %s has the %s %d, in milliseconds, which no calendar holds, so that it counts as the %s moment "
        "that one does; perhaps another unit was logged",
        run_id,
        field,
        milliseconds,
        "first" if milliseconds < 0 else "last",
    )


def _status(record: RunRecord) -> RunStatus:
    try:
        return RunStatus(record.status)
    except ValueError as exc:
        raise ServerError(f"the store gave run {record.run_id} the unknown status {record.status!r}") from exc
