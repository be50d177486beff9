"""LocalEntities: what the journals of a store hold, as entities, for an API that is offline."""

from __future__ import annotations

from collections.abc import Iterator

from withrun.backend import ExperimentRecord, RunRecord, VersionRecord
from withrun.cache.metadata import MetadataCache
from withrun.journal import LocalIds, looks_local
from withrun.journal.replay import LocalStore
from withrun.schema import Experiment, Model, ModelVersion, Run
from withrun.services.entities import EntityBuilder, in_the_spool
from withrun.services.tag_keys import TagKeys

__all__ = ["LocalEntities"]


class LocalEntities:
    """Builds entities of what was logged without the server and is not delivered.

    What they refer to (experiment, model, run) is taken from the journals, else from cached metadata.

    Args:
        local: what the journals hold.
        ids: the server's IDs of what was delivered.
        build: makes entities of records.
        keys: the tag that says where a run's artifacts are to go; they are not there yet.
        cache: the cached metadata; None if there is none.
    """

    def __init__(
        self,
        local: LocalStore,
        ids: LocalIds,
        build: EntityBuilder,
        keys: TagKeys,
        cache: MetadataCache | None,
    ) -> None:
        self._local = local
        self._ids = ids
        self._build = build
        self._keys = keys
        self._cache = cache

    # --- one ---

    def server_id(self, kind: str, local_id: str) -> str:
        """The server's ID of a run or experiment that was delivered; else the ID itself."""
        return (looks_local(local_id) and self._ids.resolve(kind, local_id)) or local_id

    def server_version(self, name: str, local_version: str) -> str:
        """The number of a model version that was delivered; else the version itself."""
        if local_version.isdigit():
            return local_version
        return self._ids.resolve("version", f"{name}/{local_version}") or local_version

    def repo_url(self, run_id: str) -> str | None:
        """Where the artifacts of a local run lie by now; None if none are there, or of another run."""
        folders = self._local.artifact_folders(run_id) if looks_local(run_id) else []
        return str(folders[-1]) if folders else None

    def experiment(self, local_id: str) -> Experiment | None:
        """A local experiment."""
        return self._experiment(self._local.experiment(local_id))

    def experiment_by_name(self, name: str) -> Experiment | None:
        """The local experiment of a name."""
        return self._experiment(self._local.experiment_by_name(name))

    def run(self, local_id: str) -> Run | None:
        """A local run."""
        record = self._local.run(local_id)
        return None if record is None else self._run(record)

    def model(self, name: str) -> Model | None:
        """A registered model that was asked for offline."""
        record = self._local.model(name)
        return None if record is None else self._build.model(record)

    def version(self, name: str, local_version: str) -> ModelVersion | None:
        """A local version of a model."""
        record = self._local.version(name, local_version)
        return None if record is None else self._version(record)

    # --- all ---

    def experiments(self) -> Iterator[Experiment]:
        """Yield all local experiments."""
        return (self._build.experiment(record) for record in self._local.experiments())

    def runs(self) -> Iterator[Run]:
        """Yield all local runs."""
        return map(self._run, self._local.runs())

    def models(self) -> Iterator[Model]:
        """Yield all registered models that were asked for offline."""
        return (self._build.model(record) for record in self._local.models())

    def versions(self) -> Iterator[ModelVersion]:
        """Yield all local model versions."""
        return map(self._version, self._local.versions())

    # --- within ---

    def _experiment(self, record: ExperimentRecord | None) -> Experiment | None:
        return None if record is None else self._build.experiment(record)

    def _run(self, record: RunRecord) -> Run:
        experiment = self._experiment_of(record.experiment_id)
        return self._build.run(in_the_spool(record, self._keys), experiment)

    def _experiment_of(self, experiment_id: str) -> Experiment:
        found = self.experiment(experiment_id)
        if found is None and self._cache is not None:
            found = self._cache.experiment(self.server_id("experiment", experiment_id))
        # It was given by an ID that nothing on this machine knows more of; of one, all stores have the name.
        return found or Experiment(id=experiment_id, name="Default" if experiment_id == "0" else "")

    def _version(self, record: VersionRecord) -> ModelVersion:
        model, run = self.model(record.name), self.run(record.run_id)
        if self._cache is not None:
            model = model or self._cache.model(record.name)
            run = run or self._cache.run(self.server_id("run", record.run_id))
        model = model or Model(name=record.name)
        return self._build.version(record, model, run, record.source)
