"""Registered models and their versions: create, fetch, tag, name by alias."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from withrun.backend import Backend, KeyValue, VersionRecord
from withrun.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    OfflineError,
    ServerError,
    ServerUnreachable,
)
from withrun.journal import ModelIntent, VersionIntent, new_uid
from withrun.schema import Model, ModelVersion, Run
from withrun.services.entities import EntityBuilder
from withrun.services.registering import Registration, versions_of
from withrun.services.runs import RunService
from withrun.services.tag_keys import TagKeys
from withrun.services.translation import DataTranslation
from withrun.services.version_paths import VersionPaths
from withrun.services.version_source import path_below, resolved_source
from withrun.services.waiting_artifacts import Spool
from withrun.services.writes import WritePath
from withrun.transfer.urls import local_path

__all__ = ["ModelService"]

_ALIAS = re.compile(r"[\w-]+")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)


class ModelService:
    """What an API does with registered models and model versions, on a backend."""

    def __init__(
        self,
        backend: Backend,
        writes: WritePath,
        runs: RunService,
        build: EntityBuilder,
        keys: TagKeys,
        translation: DataTranslation,
    ) -> None:
        self._backend = backend
        self._writes = writes
        self._keys = keys
        self._runs = runs
        self._build = build
        self._translation = translation
        self.paths = VersionPaths(self._taken_in, writes.briefly)

    # --- models ---

    def create(self, name: str, tags: Mapping[str, Any] | None = None) -> Model:
        """Register a model name."""
        _check_name(name)
        texts = self._translation.to_texts(tags or {}, "tag")
        pairs = tuple(KeyValue(*item) for item in texts.items())
        try:
            return self._build.model(self._backend.create_model(name, tags=pairs))
        except AlreadyExists as exc:
            raise AlreadyExists(
                f"a model named {name!r} is registered: get_or_create_model({name!r}) takes it"
            ) from exc

    def get_or_create(self, name: str) -> Model:
        """Fetch a registered model, or register its name; another process may do the same at once.

        Without the server, where an API may go on without it, the name is registered later.
        """
        _check_name(name)
        try:
            with self._writes.briefly():
                return self._fetch_or_create(name)
        except (OfflineError, ServerError, ServerUnreachable) as error:
            if not self._writes.may_go_on_without(error):
                raise
            return self.promise(name)

    def _fetch_or_create(self, name: str) -> Model:
        with contextlib.suppress(NotFound):
            return self.fetch(name)
        # Attempted again if the answer was lost: the name tells whether it was applied.
        return self._writes.attempt(lambda: self._create_or_fetch(name))

    def _create_or_fetch(self, name: str) -> Model:
        try:
            return self.create(name)
        except AlreadyExists:
            return self.fetch(name)

    def promise(self, name: str) -> Model:
        """Have a name registered, unless it is, when what is journaled is delivered."""
        _check_name(name)
        self._writes.journal.ensure_model(ModelIntent(name))
        return Model(name=name)

    def fetch(self, name: str) -> Model:
        """Fetch a registered model."""
        return self._build.model(self._backend.get_model(name))

    def set_tags(self, name: str, tags: Mapping[str, Any]) -> None:
        """Set tags on a registered model."""
        for key, text in self._translation.to_texts(tags, "tag").items():
            self._backend.set_model_tag(name, key, text)

    # --- versions ---

    def check_registrable(self, run: Run) -> None:
        """Refuse a run on a local path that a server did not choose: it registers nothing there."""
        is_server = urlsplit(self._backend.store_uri).scheme in ("http", "https")
        if not is_server or local_path(run.repo_url) is None:
            return
        if path_below(self._backend.get_run(run.id).artifact_uri, run.repo_url) is None:
            raise InvalidArgument(
                f"run {run.id} keeps its artifacts in the local folder {run.repo_url!r}, and MLflow's "
                "servers register no version of what lies on a path of their clients; log the model to a run "
                "without `repo`, or with one on a storage that others reach too (s3://bucket/folder)"
            )

    def register(
        self, model: Model, run: Run, path_in_run: str, tags: Mapping[str, Any] | None = None
    ) -> ModelVersion:
        """Register the artifact at `path_in_run` of a run as the next version of a model, once."""
        texts = self._translation.to_texts(tags or {}, "tag")
        source = f"{run.repo_url.rstrip('/')}/{path_in_run}"
        mark = KeyValue(self._keys.uid, new_uid())
        registration = Registration(self._backend, model.name, source, run.id, texts, mark)
        try:
            record = self._writes.attempt(registration.attempt)
        finally:
            self.paths.forget(run)
        return self._build.version(record, model, run, source)

    def register_later(
        self, model: Model, run: Run, path_in_run: str, tags: Mapping[str, Any] | None, spool: Spool
    ) -> ModelVersion:
        """Have what waits in a spool registered once its run is there; till then a local ID names it."""
        texts = self._translation.to_texts(tags or {}, "tag")
        uid = new_uid()
        version = f"local-{uid[:8]}"
        spool.log.version(
            VersionIntent(uid, model.name, path_in_run, texts, version, spool.name(path_in_run))
        )
        self.paths.forget(run)
        return ModelVersion(
            version=version,
            model=model,
            run=run,
            path_in_run=path_in_run,
            tags=self._translation.from_texts(texts.items()),
        )

    def resolve(self, name: str, version: str) -> tuple[str, str]:
        """The model's name and the version's number, from a number or an alias (`"@champion"`)."""
        if not version.startswith("@"):
            return name, version
        return name, self._backend.get_version_by_alias(name, version[1:]).version

    def fetch_version(self, name: str, version: str) -> ModelVersion:
        """Fetch a model version by number or alias, with its model and its run."""
        if version.startswith("@"):
            record = self._backend.get_version_by_alias(name, version[1:])
        else:
            record = self._backend.get_version(name, version)
        return self.entity(record, self.fetch(name))

    def entity(self, record: VersionRecord, model: Model, run: Run | None = None) -> ModelVersion:
        """A version from its record; its run is fetched unless given."""
        if run is None and record.run_id:
            run = self.run_of(record.run_id)
        return self.joined(record, model, run)

    def joined(self, record: VersionRecord, model: Model, run: Run | None) -> ModelVersion:
        """A version from its record and what it belongs to; None for a run that it has not, or no more."""
        return self._build.version(record, model, run, self._artifact_url(record, run))

    def run_of(self, run_id: str) -> Run | None:
        """The run that made a version; None if it was removed for good: the registry keeps its versions."""
        try:
            return self._runs.fetch(run_id)
        except NotFound:
            return None

    def of_run(self, run_id: str) -> list[VersionRecord]:
        """Records of the versions that a run made."""
        return versions_of(self._backend, run_id)

    def check_tags(self, tags: Mapping[str, Any] | None) -> None:
        """Refuse tags that can't be set."""
        self._translation.to_texts(tags or {}, "tag")

    def set_version_tags(self, name: str, version: str, tags: Mapping[str, Any]) -> None:
        """Set tags on a model version."""
        for key, text in self._translation.to_texts(tags, "tag").items():
            self._backend.set_version_tag(name, version, key, text)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version, wherever it pointed before."""
        self._backend.set_alias(name, _check_alias(alias), version)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias; one that is absent counts as removed."""
        self._backend.delete_alias(name, _check_alias(alias))

    def _taken_in(self, run: Run) -> Iterator[tuple[str, VersionRecord]]:
        """The versions that lie in a run, each with its path there."""
        for record in self.of_run(run.id):
            taken = path_below(run.repo_url, self._artifact_url(record, run))
            if taken is not None:
                yield taken, record

    def _artifact_url(self, record: VersionRecord, run: Run | None) -> str:
        """Where a version's artifact lies, with what MLflow's own clients write as its source resolved.

        A source that names a run or model that is gone stays as it is written: the registry keeps such
        versions, so that they must be listed; what is asked of their artifact says that it is lost.
        """

        def folder_of(run_id: str) -> str:
            owner = run if run is not None and run.id == run_id else self._runs.fetch(run_id)
            return owner.repo_url

        try:
            return resolved_source(self._backend, record, folder_of)
        except NotFound:
            return record.source


def refuse_chosen_version(version: str | None) -> None:
    """Refuse a version number of the caller's choice: MLflow's registry numbers versions itself."""
    if version is not None:
        raise InvalidArgument(
            f"version {version!r} can't be chosen: this registry numbers versions itself; "
            "leave `version` out, and keep a name of your own as a tag or an alias"
        )


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InvalidArgument(f"a model's name is a string with some visible character, not {name!r}")
    if "/" in name or ":" in name:
        raise InvalidArgument(f"a model's name has no '/' or ':', which stand in model URIs; got {name!r}")


def _check_alias(alias: str) -> str:
    if not isinstance(alias, str) or not alias.removeprefix("@"):
        raise InvalidArgument(f"an alias is a non-empty string, not {alias!r}")
    name = alias.removeprefix("@")
    if not _ALIAS.fullmatch(name):
        raise InvalidArgument(f"an alias holds letters, digits, '_' and '-' alone; got {alias!r}")
    if _RESERVED_ALIAS.fullmatch(name):
        raise InvalidArgument(
            f"MLflow reserves the alias {alias!r} ('latest', and 'v' with a number); choose another"
        )
    return name
