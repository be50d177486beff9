"""Experiments: create, fetch, tag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from withrun.backend import Backend, ExperimentRecord, KeyValue
from withrun.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    OfflineError,
    ServerError,
    ServerUnreachable,
)
from withrun.journal import ExperimentIntent, new_uid
from withrun.keys import check_key
from withrun.schema import Experiment
from withrun.services.entities import EntityBuilder
from withrun.services.identify import check_types
from withrun.services.translation import DataTranslation
from withrun.services.writes import WritePath

__all__ = ["ExperimentService"]


class ExperimentService:
    """What an API does with experiments, on a backend."""

    def __init__(
        self, backend: Backend, writes: WritePath, build: EntityBuilder, translation: DataTranslation
    ) -> None:
        self._backend = backend
        self._writes = writes
        self._build = build
        self._translation = translation
        self._known: dict[str, Experiment] = {}

    def create(
        self, name: str, tags: Mapping[str, Any] | None = None, artifact_location: str | None = None
    ) -> Experiment:
        """Create an experiment; raises `AlreadyExists`, saying whether the one of that name is deleted."""
        _check_name(name)
        check_types(artifact_location=(artifact_location, str))
        texts = self._translation.to_texts(tags or {}, "tag")
        try:
            created = self._backend.create_experiment(
                name,
                artifact_location=artifact_location,
                tags=tuple(KeyValue(*item) for item in texts.items()),
            )
        except AlreadyExists as exc:
            raise self._taken(name) or exc from exc
        return self.fetch(created)

    def get_or_create(self, name: str) -> Experiment:
        """Fetch the experiment of that name, or create it; another process may do the same at once.

        Without the server, where an API may go on without it, that is done later; till then a local ID names
        the experiment.
        """
        _check_name(name)
        try:
            with self._writes.briefly():
                return self._fetch_or_create(name)
        except (OfflineError, ServerError, ServerUnreachable) as error:
            if not self._writes.may_go_on_without(error):
                raise
        intent = ExperimentIntent(new_uid(), name)
        self._writes.journal.ensure_experiment(intent)
        return self.remember(Experiment(id=intent.local_id, name=name))

    def _fetch_or_create(self, name: str) -> Experiment:
        record = self._backend.get_experiment_by_name(name)
        if record is not None:
            return self._remember(_refuse_deleted(record))
        # Attempted again if the answer was lost: the name tells whether it was applied.
        return self._writes.attempt(lambda: self._create_or_fetch(name))

    def _create_or_fetch(self, name: str) -> Experiment:
        try:
            return self.create(name)
        except AlreadyExists:
            record = self._backend.get_experiment_by_name(name)
            if record is None:
                raise
            return self._remember(_refuse_deleted(record))

    def by_name(self, name: str) -> Experiment | None:
        """The active or deleted experiment of that name, or None."""
        _check_name(name)
        record = self._backend.get_experiment_by_name(name)
        return None if record is None else self._remember(record)

    def fetch(self, experiment_id: str) -> Experiment:
        """Fetch an experiment by ID; raises `NotFound`, with a hint if a name was given."""
        return self._remember(self._record(experiment_id))

    def fetch_active(self, experiment_id: str, *, must_start: bool = False) -> Experiment:
        """Fetch an experiment by ID to start runs in; a deleted one is refused with the way out.

        Without the server, where an API may go on without it or a run `must_start`, any ID is taken: delivery
        will tell.
        """
        try:
            with self._writes.briefly():
                return self._remember(_refuse_deleted(self._record(experiment_id)))
        except (OfflineError, ServerError, ServerUnreachable) as error:
            if not self._writes.may_go_on_without(error, must_start=must_start):
                raise
            return self._known.get(experiment_id) or Experiment(
                id=experiment_id, name="Default" if experiment_id == "0" else ""
            )

    def known(self, experiment_id: str) -> Experiment:
        """The experiment as last seen by this API, fetched if it never was. For the `exp` of a run."""
        return self._known.get(experiment_id) or self.fetch(experiment_id)

    def set_tags(self, experiment_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags; one request each, because the store has no call for several."""
        texts = self._translation.to_texts(tags, "tag")
        for key, text in texts.items():
            self._backend.set_experiment_tag(experiment_id, key, text)

    def delete_tag(self, experiment_id: str, key: str) -> None:
        """Delete one tag; one that is absent counts as deleted."""
        self._backend.delete_experiment_tag(experiment_id, check_key(key, "tag"))

    def delete(self, experiment_id: str) -> None:
        """Mark an experiment and its runs deleted."""
        self._backend.delete_experiment(self._record(experiment_id).experiment_id)

    def restore(self, experiment_id: str) -> None:
        """Undo `delete`."""
        self._backend.restore_experiment(self._record(experiment_id).experiment_id)

    def remember(self, exp: Experiment) -> Experiment:
        """Keep an experiment that a caller holds, so that its runs need not ask for it."""
        self._known[exp.id] = exp
        return exp

    def _remember(self, record: ExperimentRecord) -> Experiment:
        return self.remember(self._build.experiment(record))

    def _record(self, experiment_id: str) -> ExperimentRecord:
        try:
            return self._backend.get_experiment(experiment_id)
        except NotFound as exc:
            named = self._backend.get_experiment_by_name(experiment_id)
            if named is None:
                raise
            raise NotFound(
                f"no experiment has the ID {experiment_id!r}, but one has that name: "
                f"use get_or_create_exp({experiment_id!r}), or its ID {named.experiment_id!r}"
            ) from exc

    def _taken(self, name: str) -> AlreadyExists | None:
        record = self._backend.get_experiment_by_name(name)
        if record is None:
            return None
        if record.lifecycle_stage == "deleted":
            return AlreadyExists(
                f"a deleted experiment (ID {record.experiment_id}) holds the name {name!r}: "
                f"restore_experiment({record.experiment_id!r}) brings it back"
            )
        return AlreadyExists(
            f"an experiment named {name!r} exists (ID {record.experiment_id}): "
            f"get_or_create_exp({name!r}) takes it"
        )


def _refuse_deleted(record: ExperimentRecord) -> ExperimentRecord:
    if record.lifecycle_stage == "deleted":
        raise InvalidArgument(
            f"experiment {record.name!r} (ID {record.experiment_id}) is deleted: "
            f"restore_experiment({record.experiment_id!r}) brings it back"
        )
    return record


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InvalidArgument(f"an experiment's name is a string with some visible character, not {name!r}")
