"""MLflow's entities, as its stores return them, made into the backend's records.

The entities arrive as `Any`: MLflow is imported only when an embedded store is used.
"""

from __future__ import annotations

from typing import Any

from withrun.backend import (
    ExperimentRecord,
    KeyValue,
    LoggedModelRecord,
    Metric,
    ModelRecord,
    Page,
    RunRecord,
    VersionRecord,
)

from .infinities import restore_infinity

__all__ = [
    "experiment_record",
    "logged_model_record",
    "metric_record",
    "model_record",
    "page",
    "run_record",
    "version_record",
]


def _key_values(mapping: dict[str, Any]) -> tuple[KeyValue, ...]:
    return tuple([KeyValue(key, value or "") for key, value in mapping.items()])


def metric_record(metric: Any) -> Metric:
    """A metric's point."""
    return restore_infinity(Metric(metric.key, metric.value, metric.timestamp, metric.step))


def experiment_record(experiment: Any) -> ExperimentRecord:
    """An experiment."""
    return ExperimentRecord(
        experiment_id=str(experiment.experiment_id),
        name=experiment.name,
        artifact_location=experiment.artifact_location or "",
        lifecycle_stage=experiment.lifecycle_stage,
        creation_time=experiment.creation_time,
        last_update_time=experiment.last_update_time,
        tags=_key_values(experiment.tags),
    )


def run_record(run: Any) -> RunRecord:
    """A run."""
    info, data = run.info, run.data
    return RunRecord(
        run_id=info.run_id,
        experiment_id=str(info.experiment_id),
        run_name=info.run_name or "",
        user_id=info.user_id or "",
        status=info.status,
        start_time=info.start_time,
        end_time=info.end_time or None,
        artifact_uri=info.artifact_uri or "",
        lifecycle_stage=info.lifecycle_stage,
        params=_key_values(data.params),
        # `data.metrics` has the values alone.
        metrics=tuple([metric_record(metric) for metric in data._metric_objs]),
        tags=_key_values(data.tags),
    )


def model_record(model: Any) -> ModelRecord:
    """A registered model."""
    return ModelRecord(
        name=model.name,
        description=model.description or "",
        creation_timestamp=model.creation_timestamp,
        last_updated_timestamp=model.last_updated_timestamp,
        aliases=tuple([KeyValue(alias, str(version)) for alias, version in model.aliases.items()]),
        tags=_key_values(model.tags),
    )


def version_record(version: Any) -> VersionRecord:
    """A model version; SQL stores number them with integers, servers with strings."""
    return VersionRecord(
        name=version.name,
        version=str(version.version),
        source=version.source or "",
        run_id=version.run_id or "",
        status=version.status,
        status_message=version.status_message or "",
        description=version.description or "",
        model_id=getattr(version, "model_id", None) or "",
        creation_timestamp=version.creation_timestamp,
        last_updated_timestamp=version.last_updated_timestamp,
        aliases=tuple(version.aliases or ()),
        tags=_key_values(version.tags),
    )


def logged_model_record(model: Any) -> LoggedModelRecord:
    """A logged model of MLflow 3."""
    return LoggedModelRecord(
        model_id=model.model_id,
        experiment_id=str(model.experiment_id),
        name=model.name or "",
        artifact_uri=model.artifact_location or "",
        source_run_id=model.source_run_id or "",
        status=getattr(model.status, "value", None) or str(model.status or ""),
    )


def page(paged_list: Any, record: Any) -> Page[Any]:
    """A page of a search, its entities made into records by the function given."""
    return Page(tuple([record(entity) for entity in paged_list]), getattr(paged_list, "token", None) or "")
