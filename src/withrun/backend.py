"""Backend: the wire calls that a tracking server must answer, and the records that they carry.

A record holds what a store keeps, as it keeps it: raw strings, times in milliseconds since the epoch.
What the strings mean is `withrun.values`' concern; what a user sees is `withrun.schema`'s.

Every method raises `withrun.errors`: `NotFound`, `AlreadyExists`, `ServerUnreachable` (no answer; the
call may or may not have been applied) or `ServerError` (an answer: refused if `status` is 4xx other
than 408, 425 and 429 and it is not `foreign`, else worth another try). A backend is thread-safe and does not
retry calls that are not replay-safe (the creating ones, see `REPLAY_SAFE`).
"""

from __future__ import annotations

from typing import Generic, Literal, Protocol, TypeVar

import msgspec

__all__ = [
    "REPLAY_SAFE",
    "Backend",
    "DatasetInput",
    "ExperimentRecord",
    "FilterGrammar",
    "KeyValue",
    "LoggedModelRecord",
    "Metric",
    "ModelRecord",
    "Page",
    "RunRecord",
    "ServerInfo",
    "VersionRecord",
    "ViewType",
]

ViewType = Literal["ACTIVE_ONLY", "DELETED_ONLY", "ALL"]
"""Which entities a search returns by life-cycle stage, in MLflow's own words."""

T_co = TypeVar("T_co", covariant=True)


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A param or a tag as the store keeps it."""

    key: str
    value: str = ""


class Metric(msgspec.Struct, frozen=True, gc=False):
    """One point of a metric; `timestamp` in milliseconds since the epoch."""

    key: str
    value: float
    timestamp: int = 0
    step: int = 0


class DatasetInput(msgspec.Struct, frozen=True):
    """A dataset that a run used: `schema` and `profile` are JSON texts, `source` is opaque."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str = ""
    profile: str = ""
    tags: tuple[KeyValue, ...] = ()


class ExperimentRecord(msgspec.Struct, frozen=True):
    """An experiment as the store keeps it."""

    experiment_id: str
    name: str
    artifact_location: str = ""
    lifecycle_stage: str = "active"
    creation_time: int | None = None
    last_update_time: int | None = None
    tags: tuple[KeyValue, ...] = ()


class RunRecord(msgspec.Struct, frozen=True):
    """A run as the store keeps it; `metrics` holds the last point of each key."""

    run_id: str
    experiment_id: str
    run_name: str = ""
    user_id: str = ""
    status: str = "RUNNING"
    start_time: int | None = None
    end_time: int | None = None
    artifact_uri: str = ""
    lifecycle_stage: str = "active"
    params: tuple[KeyValue, ...] = ()
    metrics: tuple[Metric, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class ModelRecord(msgspec.Struct, frozen=True):
    """A registered model; `aliases` maps alias (key) to version (value)."""

    name: str
    description: str = ""
    creation_timestamp: int | None = None
    last_updated_timestamp: int | None = None
    aliases: tuple[KeyValue, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class VersionRecord(msgspec.Struct, frozen=True):
    """A model version. `source` is where its artifact was said to lie, `model_id` MLflow 3's logged model."""

    name: str
    version: str
    source: str = ""
    run_id: str = ""
    status: str = "READY"
    status_message: str = ""
    description: str = ""
    model_id: str = ""
    creation_timestamp: int | None = None
    last_updated_timestamp: int | None = None
    aliases: tuple[str, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class LoggedModelRecord(msgspec.Struct, frozen=True):
    """A logged model of MLflow 3: an artifact folder of its own beside its source run's."""

    model_id: str
    experiment_id: str
    name: str = ""
    artifact_uri: str = ""
    source_run_id: str = ""
    status: str = ""


class ServerInfo(msgspec.Struct, frozen=True):
    """What the store says of itself; `version` is MLflow's, empty if the server does not tell."""

    version: str = ""
    multipart_uploads: bool = False


class Page(msgspec.Struct, Generic[T_co], frozen=True):
    """One page of a search; an empty `next_token` means that it is the last."""

    items: tuple[T_co, ...]
    next_token: str = ""


class FilterGrammar(msgspec.Struct, frozen=True):
    """What a store's filter strings can say, as far as it differs between stores and versions.

    Attributes:
        name: how plans and explanations call it.
        null_checks: `params.x IS NULL` and `tags.x IS NOT NULL` on runs.
        like_spans_lines: `%` in a LIKE pattern matches line breaks; MLflow's file stores stop at one.
        max_results: the largest page, per kind of entity (`runs`, `experiments`, `models`, `versions`).
    """

    name: str
    null_checks: bool = True
    like_spans_lines: bool = True
    max_results: dict[str, int] = msgspec.field(
        default_factory=lambda: {"runs": 50_000, "experiments": 50_000, "models": 1_000, "versions": 10_000}
    )


REPLAY_SAFE = frozenset(
    {
        "log_batch",
        "update_run",
        "set_experiment_tag",
        "delete_experiment_tag",
        "set_model_tag",
        "delete_model_tag",
        "set_version_tag",
        "delete_version_tag",
        "set_alias",
        "delete_alias",
        "delete_tag",
        "log_inputs",
        "delete_version",
    }
)
"""Writes that may be sent again after a lost answer and change nothing the second time.

`log_batch` is among them because MLflow's stores keep one row per distinct key, step, millisecond and
value. The creating calls are not: a lost answer to `create_run` and a repeat make two runs.
"""


class Backend(Protocol):
    """The calls that a tracking server must answer."""

    @property
    def store_uri(self) -> str:
        """The store's normalised URI without credentials; names it in journals, caches and errors."""

    @property
    def grammar(self) -> FilterGrammar:
        """What the store's filter strings can say; may ask the store for its version, once."""

    @property
    def known_info(self) -> ServerInfo | None:
        """What the store is, as far as that is known without asking it."""

    def close(self) -> None:
        """Let go of connections; the backend can't be used afterwards."""

    def server_info(self) -> ServerInfo:
        """Ask the store what it is. Serves as the health check: raises `ServerUnreachable`."""

    # --- experiments ---
    def create_experiment(
        self, name: str, *, artifact_location: str | None = None, tags: tuple[KeyValue, ...] = ()
    ) -> str:
        """Create an experiment, return its ID; `AlreadyExists` also if a deleted one has the name."""

    def get_experiment(self, experiment_id: str) -> ExperimentRecord:
        """Fetch an experiment by ID, deleted ones too."""

    def get_experiment_by_name(self, name: str) -> ExperimentRecord | None:
        """Fetch an experiment by name, deleted ones too; None if there is none."""

    def search_experiments(
        self,
        filter_string: str = "",
        *,
        view_type: ViewType = "ACTIVE_ONLY",
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[ExperimentRecord]:
        """Search experiments with MLflow's filter grammar."""

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set one tag."""

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Delete one tag; one that is absent counts as deleted."""

    def delete_experiment(self, experiment_id: str) -> None:
        """Mark an experiment and its runs deleted."""

    def restore_experiment(self, experiment_id: str) -> None:
        """Undo `delete_experiment`."""

    # --- runs ---
    def create_run(
        self, experiment_id: str, *, run_name: str | None, start_time: int, tags: tuple[KeyValue, ...] = ()
    ) -> RunRecord:
        """Create a RUNNING run. Not replay-safe."""

    def get_run(self, run_id: str) -> RunRecord:
        """Fetch a run, deleted ones too."""

    def update_run(
        self,
        run_id: str,
        *,
        status: str | None = None,
        end_time: int | None = None,
        run_name: str | None = None,
    ) -> None:
        """Change status, end time or name; None leaves a field as it is."""

    def delete_run(self, run_id: str) -> None:
        """Mark a run deleted."""

    def restore_run(self, run_id: str) -> None:
        """Undo `delete_run`."""

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: tuple[Metric, ...] = (),
        params: tuple[KeyValue, ...] = (),
        tags: tuple[KeyValue, ...] = (),
    ) -> None:
        """Write up to 1,000 metrics, 100 params and 100 tags, 1,000 in all, in one request.

        NaN is sent as it is; the caller has split larger batches and removed repeated param keys.
        """

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete one tag of a run; one that is absent counts as deleted."""

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
        """Search runs of those experiments with MLflow's filter grammar."""

    def metric_history(
        self, run_id: str, key: str, *, max_results: int = 25_000, page_token: str = ""
    ) -> Page[Metric]:
        """Fetch a page of all points of one metric."""

    def log_inputs(self, run_id: str, datasets: tuple[DatasetInput, ...]) -> None:
        """Record which datasets a run used."""

    # --- registered models ---
    def create_model(
        self, name: str, *, tags: tuple[KeyValue, ...] = (), description: str = ""
    ) -> ModelRecord:
        """Create a registered model; raises `AlreadyExists`."""

    def get_model(self, name: str) -> ModelRecord:
        """Fetch a registered model."""

    def search_models(
        self,
        filter_string: str = "",
        *,
        max_results: int = 100,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[ModelRecord]:
        """Search registered models with MLflow's filter grammar."""

    def set_model_tag(self, name: str, key: str, value: str) -> None:
        """Set one tag."""

    def delete_model_tag(self, name: str, key: str) -> None:
        """Delete one tag; one that is absent counts as deleted."""

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
        """Register the artifact at `source` as the next version of a model. Not replay-safe."""

    def get_version(self, name: str, version: str) -> VersionRecord:
        """Fetch a model version."""

    def get_version_by_alias(self, name: str, alias: str) -> VersionRecord:
        """Fetch the version that an alias names."""

    def version_download_uri(self, name: str, version: str) -> str:
        """Where the version's artifact lies, as the store resolves it."""

    def search_versions(
        self,
        filter_string: str = "",
        *,
        max_results: int = 1000,
        order_by: tuple[str, ...] = (),
        page_token: str = "",
    ) -> Page[VersionRecord]:
        """Search model versions with MLflow's filter grammar."""

    def delete_version(self, name: str, version: str) -> None:
        """Delete a model version, its tags and aliases; one that is absent counts as deleted."""

    def set_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set one tag."""

    def delete_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete one tag; one that is absent counts as deleted."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version, wherever it pointed before."""

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias; one that is absent counts as removed."""

    # --- logged models (MLflow 3) ---
    def get_logged_model(self, model_id: str) -> LoggedModelRecord:
        """Fetch a logged model; raises `NotFound` on stores that have none."""
