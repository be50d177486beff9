"""LocalBackend: a backend on which what started without the server is known by its local ID, too."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from withrun.backend import (
    Backend,
    DatasetInput,
    ExperimentRecord,
    FilterGrammar,
    KeyValue,
    LoggedModelRecord,
    Metric,
    ModelRecord,
    Page,
    RunRecord,
    ServerInfo,
    VersionRecord,
    ViewType,
)
from withrun.errors import OfflineError, ServerUnreachable
from withrun.journal import LocalIds, looks_local
from withrun.journal.replay import LocalStore
from withrun.services.entities import in_the_spool
from withrun.services.tag_keys import TagKeys

__all__ = ["LocalBackend"]

T = TypeVar("T")

_OF_RUN = re.compile(r"run_id = '([0-9a-f]+)'")


class LocalBackend:
    """Wraps a backend: takes local IDs in place of the server's, and reads from journals what is there alone.

    A local ID can be told by its look, so that nothing is looked up for others. One that was delivered stands
    for the server's. Of one that was not, runs, experiments, versions and metric histories are read from the
    journals; what would write to it raises `OfflineError`, because such writes go through the journal.

    Experiments and models by name are the server's to tell. Only where it can't be asked
    those in the journals answer; else a name that nothing but a journal knows would never be created.

    Args:
        backend: the store, or the offline backend.
        local: what the journals hold.
        ids: the server's IDs of what was delivered.
        keys: the tag that says where a run's artifacts are to go; they are not there yet.
    """

    def __init__(
        self, backend: Backend, local: LocalStore, ids: LocalIds, keys: TagKeys | None = None
    ) -> None:
        self._backend = backend
        self._local = local
        self._ids = ids
        self._keys = keys or TagKeys()

    # --- local IDs ---

    def _found(
        self, kind: str, local_id: str, ask: Callable[[str], T], look: Callable[[], T | None], model: str = ""
    ) -> T:
        """What the server has under the ID that a local one stands for; what the journals have, if none."""
        server_id = self._resolve(kind, local_id, model)
        if server_id is None:
            found = look()
            if found is not None:
                return found
            # Delivered while it was looked for; or an ID that just looks local.
            server_id = self._resolve(kind, local_id, model) or local_id
        try:
            return ask(server_id)
        except OfflineError:
            found = look()  # being delivered just now: its journal is still there
            if found is None:
                raise
            return found

    def _server_id(self, kind: str, local_id: str, known: Callable[[], object], model: str = "") -> str:
        """The server's ID, for a write that only the server can take."""
        server_id = self._resolve(kind, local_id, model)
        if server_id is None and known() is not None:
            raise OfflineError(
                f"{kind} {local_id} started without the server and is not on it yet, and this can be done "
                "there alone: flush, or run `withrun sync`, then do it again"
            )
        return server_id or local_id

    def _resolve(self, kind: str, local_id: str, model: str) -> str | None:
        return self._ids.resolve(kind, f"{model}/{local_id}" if model else local_id)

    def _run_id(self, run_id: str) -> str:
        if not looks_local(run_id):
            return run_id
        return self._server_id("run", run_id, lambda: self._local.run(run_id))

    def _experiment_id(self, experiment_id: str) -> str:
        if not looks_local(experiment_id):
            return experiment_id
        return self._server_id("experiment", experiment_id, lambda: self._local.experiment(experiment_id))

    def _version(self, name: str, version: str) -> str:
        if version.isdigit():
            return version
        return self._server_id("version", version, lambda: self._local.version(name, version), name)

    def _local_run(self, run_id: str) -> RunRecord | None:
        run = self._local.run(run_id)
        return None if run is None else in_the_spool(run, self._keys)

    # --- the store itself ---

    @property
    def store_uri(self) -> str:
        """The store's normalised URI without credentials."""
        return self._backend.store_uri

    @property
    def grammar(self) -> FilterGrammar:
        """What the store's filter strings can say."""
        return self._backend.grammar

    @property
    def known_info(self) -> ServerInfo | None:
        """What the store is, if that is known."""
        return self._backend.known_info

    @property
    def http(self) -> Any:
        """The server's HTTP client, if the backend has one."""
        return getattr(self._backend, "http", None)

    def close(self) -> None:
        """Let go of connections."""
        self._backend.close()

    def server_info(self) -> ServerInfo:
        """Ask the store what it is."""
        return self._backend.server_info()

    # --- experiments ---

    def create_experiment(
        self, name: str, *, artifact_location: str | None = None, tags: tuple[KeyValue, ...] = ()
    ) -> str:
        """Create an experiment."""
        return self._backend.create_experiment(name, artifact_location=artifact_location, tags=tags)

    def get_experiment(self, experiment_id: str) -> ExperimentRecord:
        """Fetch an experiment by ID."""
        if not looks_local(experiment_id):
            return self._backend.get_experiment(experiment_id)
        return self._found(
            "experiment",
            experiment_id,
            self._backend.get_experiment,
            lambda: self._local.experiment(experiment_id),
        )

    def get_experiment_by_name(self, name: str) -> ExperimentRecord | None:
        """Fetch an experiment by name."""
        try:
            return self._backend.get_experiment_by_name(name)
        except (OfflineError, ServerUnreachable):
            found = self._local.experiment_by_name(name)
            if found is None:
                raise
            return found

    def search_experiments(
        self,
        filter_string: str = "",
        *,
        view_type: ViewType = "ACTIVE_ONLY",
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[ExperimentRecord]:
        """Search the server's experiments."""
        return self._backend.search_experiments(
            filter_string,
            view_type=view_type,
            max_results=max_results,
            order_by=order_by,
            page_token=page_token,
        )

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set one tag."""
        self._backend.set_experiment_tag(self._experiment_id(experiment_id), key, value)

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Delete one tag."""
        self._backend.delete_experiment_tag(self._experiment_id(experiment_id), key)

    def delete_experiment(self, experiment_id: str) -> None:
        """Mark an experiment deleted."""
        self._backend.delete_experiment(self._experiment_id(experiment_id))

    def restore_experiment(self, experiment_id: str) -> None:
        """Undo `delete_experiment`."""
        self._backend.restore_experiment(self._experiment_id(experiment_id))

    # --- runs ---

    def create_run(
        self, experiment_id: str, *, run_name: str | None, start_time: int, tags: tuple[KeyValue, ...] = ()
    ) -> RunRecord:
        """Create a RUNNING run."""
        return self._backend.create_run(
            self._experiment_id(experiment_id), run_name=run_name, start_time=start_time, tags=tags
        )

    def get_run(self, run_id: str) -> RunRecord:
        """Fetch a run."""
        if not looks_local(run_id):
            return self._backend.get_run(run_id)
        return self._found("run", run_id, self._backend.get_run, lambda: self._local_run(run_id))

    def update_run(
        self,
        run_id: str,
        *,
        status: str | None = None,
        end_time: int | None = None,
        run_name: str | None = None,
    ) -> None:
        """Change status, end time or name."""
        self._backend.update_run(self._run_id(run_id), status=status, end_time=end_time, run_name=run_name)

    def delete_run(self, run_id: str) -> None:
        """Mark a run deleted."""
        self._backend.delete_run(self._run_id(run_id))

    def restore_run(self, run_id: str) -> None:
        """Undo `delete_run`."""
        self._backend.restore_run(self._run_id(run_id))

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: tuple[Metric, ...] = (),
        params: tuple[KeyValue, ...] = (),
        tags: tuple[KeyValue, ...] = (),
    ) -> None:
        """Write metrics, params and tags in one request."""
        self._backend.log_batch(self._run_id(run_id), metrics=metrics, params=params, tags=tags)

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete one tag of a run."""
        self._backend.delete_tag(self._run_id(run_id), key)

    def search_runs(
        self,
        experiment_ids: tuple[str, ...],
        filter_string: str = "",
        *,
        view_type: ViewType = "ACTIVE_ONLY",
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[RunRecord]:
        """Search the server's runs; an experiment that it does not know yet has none there."""
        known = [self._ids.resolve("experiment", one) if looks_local(one) else one for one in experiment_ids]
        there = tuple(dict.fromkeys(one for one in known if one is not None))
        if experiment_ids and not there:
            return Page(())
        return self._backend.search_runs(
            there,
            filter_string,
            view_type=view_type,
            max_results=max_results,
            order_by=order_by,
            page_token=page_token,
        )

    def metric_history(
        self, run_id: str, key: str, *, max_results: int = 25_000, page_token: str = ""
    ) -> Page[Metric]:
        """Fetch a page of all points of one metric; of a local run, all of them."""

        def ask(server_id: str) -> Page[Metric]:
            return self._backend.metric_history(
                server_id, key, max_results=max_results, page_token=page_token
            )

        def look() -> Page[Metric] | None:
            if self._local.run(run_id) is None:
                return None
            return Page(tuple(self._local.metric_history(run_id, key)))

        return self._found("run", run_id, ask, look) if looks_local(run_id) else ask(run_id)

    def log_inputs(self, run_id: str, datasets: tuple[DatasetInput, ...]) -> None:
        """Record which datasets a run used."""
        self._backend.log_inputs(self._run_id(run_id), datasets)

    # --- registered models ---

    def create_model(
        self, name: str, *, tags: tuple[KeyValue, ...] = (), description: str = ""
    ) -> ModelRecord:
        """Create a registered model."""
        return self._backend.create_model(name, tags=tags, description=description)

    def get_model(self, name: str) -> ModelRecord:
        """Fetch a registered model."""
        try:
            return self._backend.get_model(name)
        except (OfflineError, ServerUnreachable):
            found = self._local.model(name)
            if found is None:
                raise
            return found

    def search_models(
        self,
        filter_string: str = "",
        *,
        max_results: int = 100,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[ModelRecord]:
        """Search the server's registered models."""
        return self._backend.search_models(
            filter_string, max_results=max_results, order_by=order_by, page_token=page_token
        )

    def set_model_tag(self, name: str, key: str, value: str) -> None:
        """Set one tag."""
        self._backend.set_model_tag(name, key, value)

    def delete_model_tag(self, name: str, key: str) -> None:
        """Delete one tag."""
        self._backend.delete_model_tag(name, key)

    # --- model versions ---

    def create_version(
        self,
        name: str,
        source: str,
        *,
        run_id: str = "",
        tags: tuple[KeyValue, ...] = (),
        description: str = "",
    ) -> VersionRecord:
        """Register the artifact at `source` as the next version of a model."""
        return self._backend.create_version(
            name, source, run_id=self._run_id(run_id), tags=tags, description=description
        )

    def get_version(self, name: str, version: str) -> VersionRecord:
        """Fetch a model version."""

        def ask(number: str) -> VersionRecord:
            return self._backend.get_version(name, number)

        if version.isdigit():
            return ask(version)
        return self._found("version", version, ask, lambda: self._local.version(name, version), name)

    def get_version_by_alias(self, name: str, alias: str) -> VersionRecord:
        """Fetch the version that an alias names."""
        return self._backend.get_version_by_alias(name, alias)

    def version_download_uri(self, name: str, version: str) -> str:
        """Where the version's artifact lies."""

        def ask(number: str) -> str:
            return self._backend.version_download_uri(name, number)

        def look() -> str | None:
            found = self._local.version(name, version)
            return None if found is None else found.source

        return ask(version) if version.isdigit() else self._found("version", version, ask, look, name)

    def search_versions(
        self,
        filter_string: str = "",
        *,
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[VersionRecord]:
        """Search the server's model versions; those of one run also where that is known by its local ID."""
        asked = _OF_RUN.fullmatch(filter_string)
        if asked is not None and looks_local(asked[1]):
            server_id = self._resolve("run", asked[1], "")
            if server_id is None:
                return Page(tuple(one for one in self._local.versions() if one.run_id == asked[1]))
            filter_string = f"run_id = '{server_id}'"
        return self._backend.search_versions(
            filter_string, max_results=max_results, order_by=order_by, page_token=page_token
        )

    def delete_version(self, name: str, version: str) -> None:
        """Delete a model version."""
        self._backend.delete_version(name, self._version(name, version))

    def set_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set one tag."""
        self._backend.set_version_tag(name, self._version(name, version), key, value)

    def delete_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete one tag."""
        self._backend.delete_version_tag(name, self._version(name, version), key)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self._backend.set_alias(name, alias, self._version(name, version))

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias."""
        self._backend.delete_alias(name, alias)

    # --- logged models (MLflow 3) ---

    def get_logged_model(self, model_id: str) -> LoggedModelRecord:
        """Fetch a logged model."""
        return self._backend.get_logged_model(model_id)
