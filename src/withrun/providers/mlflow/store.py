"""StoreBackend: a store that MLflow itself opens in this process, such as `sqlite:///PATH`.

It calls MLflow's stores (the interface that MLflow's plug-ins implement) and not `MlflowClient` above them:
the client prints, fetches what nobody asked for, and takes its model registry from the environment.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from withrun.backend import FilterGrammar, Page, RunRecord, ServerInfo
from withrun.errors import InvalidArgument, NotFound, ServerError
from withrun.journal.gate import Gate

from . import refusals as about
from . import store_codec as codec
from .grammar import grammar_of, logged_model_id
from .refusals import Refusal, Subject
from .replay import send_metrics_once
from .store_location import locate
from .store_opening import Stores, abandon_engines, open_stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from withrun.backend import (
        DatasetInput,
        ExperimentRecord,
        KeyValue,
        LoggedModelRecord,
        Metric,
        ModelRecord,
        VersionRecord,
        ViewType,
    )

__all__ = ["StoreBackend"]


class StoreBackend:
    """A `Backend` over MLflow's own stores: SQLite and other databases, folders, Databricks.

    Nothing is opened before the first call. It neither reads nor writes MLflow's globals and environment
    variables, and leaves nothing in the current folder.

    Args:
        tracking_uri: the store's URI; a relative path in it is taken from the current folder, now.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._location = locate(tracking_uri)
        self._lock = threading.Lock()
        self._stores: Stores | None = None
        self._closed = False
        self._gate = Gate()  # a child forked in the midst of a transaction inherits half of it
        _backends.add(self)

    def __repr__(self) -> str:
        return f"StoreBackend({self._location.shown!r})"

    @property
    def store_uri(self) -> str:
        """The store's absolute URI without credentials."""
        return self._location.shown

    @property
    def grammar(self) -> FilterGrammar:
        """What the filter strings of the installed MLflow can say."""
        return grammar_of(_mlflow_version(), database=self._location.is_database)

    @property
    def known_info(self) -> ServerInfo:
        """The installed MLflow."""
        return ServerInfo(_mlflow_version())

    def close(self) -> None:
        """Let go of the database; the backend can't be used afterwards."""
        with self._lock:
            self._closed = True
            stores, self._stores = self._stores, None
        if stores is not None and self._location.is_database:
            # MLflow shares engines between stores of one URI: this closes idle connections, and no more.
            for store in stores:
                store.engine.dispose()

    def server_info(self) -> ServerInfo:
        """Open the store and read from it."""
        with self._asking("server_info", None) as stores:
            stores.tracking.search_experiments(view_type=_view("ALL"), max_results=1)
        return self.known_info

    def forget_connections(self) -> None:
        """In a forked child: leave the parent's connections alone and open the store anew."""
        self._lock = threading.Lock()
        stores, self._stores = self._stores, None
        abandon_engines(self._location, stores)

    # --- experiments ---

    def create_experiment(
        self, name: str, *, artifact_location: str | None = None, tags: tuple[KeyValue, ...] = ()
    ) -> str:
        """Create an experiment, return its ID."""
        from mlflow.entities import ExperimentTag

        with self._asking("create_experiment", about.named_experiment(name)) as stores:
            entities = [ExperimentTag(tag.key, tag.value) for tag in tags]
            return str(stores.tracking.create_experiment(name, artifact_location, entities))

    def get_experiment(self, experiment_id: str) -> ExperimentRecord:
        """Fetch an experiment by ID."""
        with self._asking("get_experiment", about.experiment_subject(experiment_id)) as stores:
            return codec.experiment_record(stores.tracking.get_experiment(experiment_id))

    def get_experiment_by_name(self, name: str) -> ExperimentRecord | None:
        """Fetch an experiment by name; None if there is none."""
        with self._asking("get_experiment_by_name", about.named_experiment(name)) as stores:
            experiment = stores.tracking.get_experiment_by_name(name)
            return None if experiment is None else codec.experiment_record(experiment)

    def search_experiments(
        self,
        filter_string: str = "",
        *,
        view_type: ViewType = "ACTIVE_ONLY",
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[ExperimentRecord]:
        """Search experiments."""
        with self._asking("search_experiments", None) as stores:
            found = stores.tracking.search_experiments(
                view_type=_view(view_type),
                max_results=max_results,
                filter_string=filter_string or None,
                order_by=list(order_by) or None,
                page_token=page_token or None,
            )
            return codec.page(found, codec.experiment_record)

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set one tag."""
        from mlflow.entities import ExperimentTag

        with self._asking("set_experiment_tag", about.experiment_subject(experiment_id)) as stores:
            stores.tracking.set_experiment_tag(experiment_id, ExperimentTag(key, value))

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Delete one tag."""
        try:
            with self._asking("delete_experiment_tag", about.experiment_subject(experiment_id)) as stores:
                _newer(stores.tracking, "delete_experiment_tag")(experiment_id, key)
        except NotFound:
            # The tag, or the experiment? The error's code is the same.
            self.get_experiment(experiment_id)

    def delete_experiment(self, experiment_id: str) -> None:
        """Mark an experiment and its runs deleted."""
        with self._asking("delete_experiment", about.experiment_subject(experiment_id)) as stores:
            stores.tracking.delete_experiment(experiment_id)

    def restore_experiment(self, experiment_id: str) -> None:
        """Undo `delete_experiment`."""
        with self._asking("restore_experiment", about.experiment_subject(experiment_id)) as stores:
            stores.tracking.restore_experiment(experiment_id)

    # --- runs ---

    def create_run(
        self, experiment_id: str, *, run_name: str | None, start_time: int, tags: tuple[KeyValue, ...] = ()
    ) -> RunRecord:
        """Create a RUNNING run."""
        from mlflow.entities import RunTag

        user = next((tag.value for tag in tags if tag.key == "mlflow.user"), "unknown")
        with self._asking("create_run", about.experiment_subject(experiment_id)) as stores:
            run = stores.tracking.create_run(
                experiment_id=experiment_id,
                user_id=user,
                start_time=start_time,
                tags=[RunTag(tag.key, tag.value) for tag in tags],
                run_name=run_name or None,
            )
            return codec.run_record(run)

    def get_run(self, run_id: str) -> RunRecord:
        """Fetch a run."""
        with self._asking("get_run", about.run_subject(run_id)) as stores:
            return codec.run_record(stores.tracking.get_run(run_id))

    def update_run(
        self,
        run_id: str,
        *,
        status: str | None = None,
        end_time: int | None = None,
        run_name: str | None = None,
    ) -> None:
        """Change status, end time or name."""
        from mlflow.entities import RunStatus

        with self._asking("update_run", about.run_subject(run_id)) as stores:
            code = None if status is None else RunStatus.from_string(status)
            stores.tracking.update_run_info(run_id, code, end_time, run_name)

    def delete_run(self, run_id: str) -> None:
        """Mark a run deleted."""
        with self._asking("delete_run", about.run_subject(run_id)) as stores:
            stores.tracking.delete_run(run_id)

    def restore_run(self, run_id: str) -> None:
        """Undo `delete_run`."""
        with self._asking("restore_run", about.run_subject(run_id)) as stores:
            stores.tracking.restore_run(run_id)

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: tuple[Metric, ...] = (),
        params: tuple[KeyValue, ...] = (),
        tags: tuple[KeyValue, ...] = (),
    ) -> None:
        """Write metrics, params and tags in one call."""
        from mlflow import entities

        subject = about.run_subject(run_id)

        def send(metrics: tuple[Metric, ...]) -> None:
            with self._asking("log_batch", subject) as stores:
                stores.tracking.log_batch(
                    run_id,
                    [entities.Metric(m.key, m.value, m.timestamp, m.step) for m in metrics],
                    [entities.Param(param.key, param.value) for param in params],
                    [entities.RunTag(tag.key, tag.value) for tag in tags],
                )

        send_metrics_once(metrics, send)

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete one tag of a run."""
        try:
            with self._asking("delete_tag", about.run_subject(run_id)) as stores:
                stores.tracking.delete_tag(run_id, key)
        except NotFound:
            # The tag, or the run? The error's code is the same.
            self.get_run(run_id)

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
        """Search runs of those experiments."""
        if not experiment_ids:
            return Page(())
        with self._asking("search_runs", about.experiments_subject(experiment_ids)) as stores:
            found = stores.tracking.search_runs(
                list(experiment_ids),
                filter_string,
                _view(view_type),
                max_results,
                list(order_by),
                page_token or None,
            )
            return codec.page(found, codec.run_record)

    def metric_history(
        self, run_id: str, key: str, *, max_results: int = 25_000, page_token: str = ""
    ) -> Page[Metric]:
        """Fetch a page of all points of one metric; stores that know no pages give all of them."""
        with self._asking("metric_history", about.run_subject(run_id)) as stores:
            found = stores.tracking.get_metric_history(
                run_id, key, max_results=max_results, page_token=page_token or None
            )
            return codec.page(found, codec.metric_record)

    def log_inputs(self, run_id: str, datasets: tuple[DatasetInput, ...]) -> None:
        """Record which datasets a run used."""
        from mlflow import entities

        inputs = [
            entities.DatasetInput(
                entities.Dataset(
                    name=dataset.name,
                    digest=dataset.digest,
                    source_type=dataset.source_type,
                    source=dataset.source,
                    schema=dataset.schema,
                    profile=dataset.profile,
                ),
                [entities.InputTag(tag.key, tag.value) for tag in dataset.tags],
            )
            for dataset in datasets
        ]
        with self._asking("log_inputs", about.run_subject(run_id)) as stores:
            stores.tracking.log_inputs(run_id, inputs)

    # --- registered models ---

    def create_model(
        self, name: str, *, tags: tuple[KeyValue, ...] = (), description: str = ""
    ) -> ModelRecord:
        """Create a registered model."""
        from mlflow.entities.model_registry import RegisteredModelTag

        subject = about.model_subject(name)._replace(well_formed=True)
        with self._asking("create_model", subject) as stores:
            entities = [RegisteredModelTag(tag.key, tag.value) for tag in tags]
            return codec.model_record(stores.registry.create_registered_model(name, entities, description))

    def get_model(self, name: str) -> ModelRecord:
        """Fetch a registered model."""
        with self._asking("get_model", about.model_subject(name)) as stores:
            return codec.model_record(stores.registry.get_registered_model(name))

    def search_models(
        self,
        filter_string: str = "",
        *,
        max_results: int = 100,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[ModelRecord]:
        """Search registered models."""
        with self._asking("search_models", None) as stores:
            found = stores.registry.search_registered_models(
                filter_string=filter_string or None,
                max_results=max_results,
                order_by=list(order_by) or None,
                page_token=page_token or None,
            )
            return codec.page(found, codec.model_record)

    def set_model_tag(self, name: str, key: str, value: str) -> None:
        """Set one tag."""
        from mlflow.entities.model_registry import RegisteredModelTag

        with self._asking("set_model_tag", about.model_subject(name)) as stores:
            stores.registry.set_registered_model_tag(name, RegisteredModelTag(key, value))

    def delete_model_tag(self, name: str, key: str) -> None:
        """Delete one tag."""
        with self._asking("delete_model_tag", about.model_subject(name)) as stores:
            stores.registry.delete_registered_model_tag(name, key)

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
        from mlflow.entities.model_registry import ModelVersionTag

        if model_id := logged_model_id(source):
            # MLflow's registry would look the model up in the store of its globals, and make one in the
            # current folder if there is none.
            model = self.get_logged_model(model_id)
            source, run_id = model.artifact_uri, run_id or model.source_run_id
        with self._asking("create_version", about.model_subject(name)) as stores:
            version = stores.registry.create_model_version(
                name,
                source,
                run_id=run_id or None,
                tags=[ModelVersionTag(tag.key, tag.value) for tag in tags],
                description=description,
            )
            return codec.version_record(version)

    def get_version(self, name: str, version: str) -> VersionRecord:
        """Fetch a model version."""
        with self._asking("get_version", about.version_subject(name, version)) as stores:
            return codec.version_record(stores.registry.get_model_version(name, version))

    def get_version_by_alias(self, name: str, alias: str) -> VersionRecord:
        """Fetch the version that an alias names."""
        with self._asking("get_version_by_alias", about.alias_subject(name, alias)) as stores:
            return codec.version_record(stores.registry.get_model_version_by_alias(name, alias))

    def version_download_uri(self, name: str, version: str) -> str:
        """Where the version's artifact lies, as the store resolves it."""
        with self._asking("version_download_uri", about.version_subject(name, version)) as stores:
            return str(stores.registry.get_model_version_download_uri(name, version))

    def search_versions(
        self,
        filter_string: str = "",
        *,
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[VersionRecord]:
        """Search model versions."""
        with self._asking("search_versions", None) as stores:
            found = stores.registry.search_model_versions(
                filter_string=filter_string or None,
                max_results=max_results,
                order_by=list(order_by) or None,
                page_token=page_token or None,
            )
            return codec.page(found, codec.version_record)

    def delete_version(self, name: str, version: str) -> None:
        """Delete a model version; one that is absent counts as deleted."""
        try:
            for alias in self.get_version(name, version).aliases:
                self.delete_alias(name, alias)  # MLflow 2 would leave it, naming nothing
            with self._asking("delete_version", about.version_subject(name, version)) as stores:
                stores.registry.delete_model_version(name, version)
        except NotFound:
            return

    def set_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set one tag."""
        from mlflow.entities.model_registry import ModelVersionTag

        with self._asking("set_version_tag", about.version_subject(name, version)) as stores:
            stores.registry.set_model_version_tag(name, version, ModelVersionTag(key, value))

    def delete_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete one tag."""
        with self._asking("delete_version_tag", about.version_subject(name, version)) as stores:
            stores.registry.delete_model_version_tag(name, version, key)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        with self._asking("set_alias", about.version_subject(name, version)) as stores:
            stores.registry.set_registered_model_alias(name, alias, version)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias."""
        with self._asking("delete_alias", about.model_subject(name)) as stores:
            stores.registry.delete_registered_model_alias(name, alias)

    # --- logged models ---

    def get_logged_model(self, model_id: str) -> LoggedModelRecord:
        """Fetch a logged model."""
        subject = about.logged_model_subject(model_id)
        with self._asking("get_logged_model", subject) as stores:
            if not hasattr(stores.tracking, "get_logged_model"):
                raise NotFound(f"{subject.label} does not exist: the installed MLflow keeps no logged models")
            return codec.logged_model_record(stores.tracking.get_logged_model(model_id))

    # --- asking the stores ---

    @contextlib.contextmanager
    def _asking(self, call: str, subject: Subject | None) -> Iterator[Stores]:
        """Give the stores, open; make what MLflow raises one of withrun's errors."""
        from mlflow.exceptions import MlflowException

        if subject is not None and subject.empty:
            raise subject.missing(self.store_uri)
        try:
            with self._gate:
                yield self._open()
        except MlflowException as exc:
            if isinstance(exc.__cause__ or exc.__context__, UnicodeEncodeError):
                raise InvalidArgument(
                    f"{call} was given a text with a lone surrogate, which no store can keep; "
                    "decode it with errors='replace' first"
                ) from exc
            words = str(exc).replace(self._location.uri, self.store_uri)
            refusal = Refusal(exc.get_http_status_code(), str(exc.error_code), words)
            raise refusal.to_error(call, subject, self.store_uri) from exc

    def _open(self) -> Stores:
        stores = self._stores
        if stores is not None:
            return stores
        with self._lock:
            if self._closed:
                raise InvalidArgument(f"the store {self.store_uri} was closed; make a new API instance")
            if self._stores is None:
                self._stores = open_stores(self._location)
            return self._stores


def _newer(store: Any, method: str) -> Any:
    """A method that older releases of MLflow lack."""
    found = getattr(store, method, None)
    if found is None:
        raise ServerError(
            f"the installed MLflow {_mlflow_version()} has no {method}; upgrade it: pip install -U mlflow",
            status=501,
            code="NOT_IMPLEMENTED",
        )
    return found


def _view(view_type: ViewType) -> int:
    from mlflow.entities import ViewType as MlflowViewType

    return int(MlflowViewType.from_string(view_type.lower()))


def _mlflow_version() -> str:
    from mlflow.version import VERSION

    return str(VERSION)


_backends: weakref.WeakSet[StoreBackend] = weakref.WeakSet()


def _forget_all() -> None:
    for backend in list(_backends):
        backend.forget_connections()


os.register_at_fork(after_in_child=_forget_all)
