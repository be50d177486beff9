"""The verbs of the module: those of the active run of the current context, and of its session's API.

Instance first: each is a line on a handle or an API. `run_id=` names another run than the active one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from withrun import context
from withrun.api import BaseMlflowApi
from withrun.context import Frame
from withrun.contract.types import ModelLike, Source
from withrun.errors import InvalidArgument, NoActiveRun, RunAlreadyActive
from withrun.handles import ExpApi, ModelVersionApi, RunApi, lifecycle
from withrun.plugins import default_api
from withrun.schema import Experiment, RunStatus
from withrun.services import identify
from withrun.services.identify import check_given, check_types

__all__ = [
    "active_run",
    "create_experiment",
    "delete_experiment",
    "delete_experiment_tag",
    "delete_run",
    "delete_tag",
    "end_run",
    "flush_async_logging",
    "get_artifact_uri",
    "get_experiment",
    "get_experiment_by_name",
    "get_parent_run",
    "get_run",
    "last_active_run",
    "log_artifact",
    "log_artifacts",
    "log_metric",
    "log_metrics",
    "log_model_version",
    "log_param",
    "log_params",
    "restore_experiment",
    "restore_run",
    "set_experiment",
    "set_experiment_tag",
    "set_experiment_tags",
    "set_tag",
    "set_tags",
    "start_run",
]

V = TypeVar("V")

DEFAULT_EXPERIMENT = "0"


# --- who is meant ---


def _active() -> RunApi | None:
    """The innermost active run: of the session's API inside a `session`, of any API outside."""
    run: RunApi | None = context.active(_session_api())
    return run


def _session_api() -> BaseMlflowApi | None:
    """The API of the `session` block around the caller, or None outside any."""
    frame = context.session_frame()
    return frame.api if frame is not None and frame.is_block else None


def _run(run_id: str | None = None) -> RunApi:
    """The run that a verb goes to."""
    if run_id is not None:
        return _api().run_handle(run_id)
    run = _active()
    if run is None:
        frame = context.session_frame()
        where = f"of {type(frame.api).__name__} on {frame.api.store_uri} " if frame and frame.is_block else ""
        raise NoActiveRun(
            f"no run {where}is active in this context: start one with `with api.start_run(exp):` or "
            "withrun.start_run(). Threads and executors start without one; "
            "withrun.bind(fn) carries it there"
        )
    return run


def _frame() -> Frame:
    """The session of the context; outside any, a default API is bound to the context."""
    frame = context.session_frame()
    if frame is None:
        frame = Frame(default_api(), entry=None)
        context.push_frame(frame)
    return frame


def _api() -> BaseMlflowApi:
    """The session's API, else the active run's, else a default one."""
    run = None if _session_api() is not None else _active()
    api: BaseMlflowApi = _frame().api if run is None else run.api
    return api


# --- runs ---


def start_run(
    run_id: str | None = None,
    experiment_id: str | None = None,
    run_name: str | None = None,
    nested: bool = False,
    parent_run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    description: str | None = None,
    log_system_metrics: bool | None = None,
) -> RunApi:
    """Start a run of the session's API, or resume one, and make it the active one.

    Outside any `session`, a default `get_api()` is bound to the current context.

    Args:
        run_id: resume this run in place of starting one.
        experiment_id: default: what `set_experiment` chose, else `"0"`.
        run_name: the store makes one up if there is none.
        nested: make it a child of the active run.
        parent_run_id: make it a child of this run.
        tags: nested dict of JSON values.
        description: shown in MLflow's web interface.
        log_system_metrics: not available yet; True is refused.

    Raises:
        RunAlreadyActive: a run is active, be it the one of `run_id`, and neither `nested` nor
            `parent_run_id` is given.
    """
    check_types(
        run_id=(run_id, str),
        experiment_id=(experiment_id, str),
        run_name=(run_name, str),
        nested=(nested, bool),
        parent_run_id=(parent_run_id, str),
        tags=(tags, Mapping),
        description=(description, str),
    )
    if log_system_metrics:
        raise InvalidArgument("log_system_metrics=True is not available in this version; leave it out")
    if (left_open := _active()) is not None:
        lifecycle.end_left_open_by_cell(left_open.api)
    active = _active()
    if active is not None and not nested and parent_run_id is None:
        raise RunAlreadyActive(
            f"run {active.name!r} ({active.id}) is active: end it with withrun.end_run(), start a child with "
            "nested=True, or name another parent with parent_run_id="
        )
    # A child goes where its parent is, also outside the sessions of its API.
    api: BaseMlflowApi = _frame().api if active is None else active.api
    extra = dict(tags or {})
    if description is not None:
        extra[api.tag_keys.description] = description
    if run_id is not None:
        return _resume(api, run_id, experiment_id, run_name, extra)
    beside = active if active is not None and (nested or parent_run_id == active.id) else None
    exp = _experiment_of(api, beside) if experiment_id is None else experiment_id
    return api.start_run(exp, run_name, extra, parent=parent_run_id, nested=nested)


def _experiment_of(api: BaseMlflowApi, parent: RunApi | None) -> Experiment | str:
    """Where a run goes of which nothing is said: what `set_experiment` chose, else beside its parent."""
    frame = context.session_frame()
    if frame is not None and frame.api is api and frame.experiment_id is not None:
        chosen: str = frame.experiment_id
        return chosen
    return DEFAULT_EXPERIMENT if parent is None else parent.exp


def _resume(
    api: BaseMlflowApi, run_id: str, experiment_id: str | None, run_name: str | None, tags: dict[str, Any]
) -> RunApi:
    run = api.run_handle(run_id)
    if experiment_id is not None and run.exp.id != experiment_id:
        raise InvalidArgument(
            f"run {run_id} is in experiment {run.exp.id}, not in {experiment_id}; leave experiment_id out"
        )
    run = api.resume_run(run)
    if run_name is not None:
        tags["mlflow.runName"] = run_name
    return run.set_tags(tags) if tags else run


def end_run(status: str | RunStatus = "FINISHED") -> None:
    """End the active run; does nothing if none is active."""
    run = _active()
    if run is not None:
        run.end_run(status)


def active_run() -> RunApi | None:
    """The active run of the current context, or None."""
    return _active()


def last_active_run() -> RunApi | None:
    """The active run, else the one that was active last in this context, else None."""
    last: RunApi | None = _active() or context.last(_session_api())
    return last


def get_run(run_id: str) -> RunApi:
    """Fetch a run."""
    return _api().get_run(run_id)


def get_parent_run(run_id: str) -> RunApi | None:
    """Fetch the run that this one is a child of; None if it is no child."""
    parent_id = _api().get_run(run_id).parent_id
    return None if parent_id is None else _api().get_run(parent_id)


def delete_run(run_id: str) -> None:
    """Mark a run deleted; `restore_run` undoes it."""
    _api().services.runs.delete(identify.run_id(run_id))


def restore_run(run_id: str) -> None:
    """Undo `delete_run`."""
    _api().services.runs.restore(identify.run_id(run_id))


# --- logging ---


def log_param(key: str, value: V, synchronous: bool | None = None, run_id: str | None = None) -> V:
    """Log one param to the active run; returns its value. See `RunApi.log_param`."""
    return _run(run_id).log_param(key, value, synchronous)


def log_params(
    params: Mapping[str, Any], synchronous: bool | None = None, run_id: str | None = None
) -> RunApi:
    """Log params to the active run: nested dict of JSON values."""
    return _run(run_id).log_params(params, synchronous)


def log_metric(
    key: str,
    value: float,
    step: int | None = None,
    synchronous: bool | None = None,
    timestamp: int | None = None,
    run_id: str | None = None,
) -> RunApi:
    """Log one point of a metric to the active run. See `RunApi.log_metric`."""
    return _run(run_id).log_metric(key, value, step, synchronous, timestamp)


def log_metrics(
    metrics: Mapping[str, Any],
    step: int | None = None,
    synchronous: bool | None = None,
    timestamp: int | None = None,
    run_id: str | None = None,
) -> RunApi:
    """Log one point of each metric to the active run: nested dict of numbers."""
    return _run(run_id).log_metrics(metrics, step, synchronous, timestamp)


def set_tag(key: str, value: Any, synchronous: bool | None = None) -> RunApi:
    """Set one tag on the active run."""
    return _run().set_tag(key, value, synchronous)


def set_tags(tags: Mapping[str, Any], synchronous: bool | None = None) -> RunApi:
    """Set tags on the active run: nested dict of JSON values."""
    return _run().set_tags(tags, synchronous)


def delete_tag(key: str) -> RunApi:
    """Delete one tag of the active run."""
    return _run().delete_tag(key)


def log_artifact(
    local_path: Path | str, artifact_path: str | None = None, run_id: str | None = None
) -> RunApi:
    """Publish a file or folder under its own name in the folder `artifact_path` of the active run."""
    check_given(local_path=(local_path, (str, Path)))
    check_types(artifact_path=(artifact_path, str))
    source = Path(local_path)
    inside = f"{artifact_path.rstrip('/')}/{source.absolute().name}" if artifact_path else None
    return _run(run_id).log_artifact(source, inside)


def log_artifacts(
    local_dir: Path | str, artifact_path: str | None = None, run_id: str | None = None
) -> RunApi:
    """Publish what a folder holds into the folder `artifact_path` of the active run, or its root."""
    check_given(local_dir=(local_dir, (str, Path)))
    check_types(artifact_path=(artifact_path, str))
    folder = Path(local_dir)
    if not folder.is_dir():
        raise InvalidArgument(f"log_artifacts takes a folder, and {str(folder)!r} is none; use log_artifact")
    run = _run(run_id)
    if any(folder.iterdir()):
        # At once, because files go in parallel. Of the root no copy is cached: it holds what others log, too.
        target = artifact_path and (artifact_path.rstrip("/") or "/")  # which is refused
        use_cache = None if artifact_path else False
        run.api.services.artifacts.log(run, folder, target, use_cache=use_cache, at_root=not artifact_path)
    return run


def log_model_version(
    model: ModelLike,
    source: Source,
    path_in_run: str | None = None,
    keep_the_source: bool | None = None,
    allow_duplication: bool | None = None,
    use_cache: bool | None = None,
    version: str | None = None,
    tags: Mapping[str, Any] | None = None,
) -> ModelVersionApi:
    """Publish an artifact under the active run and register it as the next version of a model."""
    return _run().log_model_version(
        model, source, path_in_run, keep_the_source, allow_duplication, use_cache, version, tags
    )


def get_artifact_uri(artifact_path: str | None = None) -> str:
    """URL of the active run's artifact folder, or of what lies at `artifact_path` in it."""
    return _run().get_artifact_uri(artifact_path)


def flush_async_logging() -> None:
    """Return once all that was logged is in the store."""
    if _active() is not None or context.session_frame() is not None:  # else nothing was logged from here
        _api().flush()


# --- experiments ---


def set_experiment(experiment_name: str | None = None, experiment_id: str | None = None) -> ExpApi:
    """Choose the experiment of this context's session, which runs without a named one go to.

    Args:
        experiment_name: it is created if there is none of that name.
        experiment_id: in place of the name.

    Raises:
        InvalidArgument: not exactly one of both is given, or the experiment is deleted.
        NotFound: there is no experiment of that ID.
    """
    if (experiment_name is None) == (experiment_id is None):
        raise InvalidArgument("set_experiment takes exactly one of experiment_name and experiment_id")
    frame = _frame()
    api: BaseMlflowApi = frame.api
    if experiment_name is not None:
        exp = api.get_or_create_exp(experiment_name)
    else:
        known = api.services.experiments.fetch_active(identify.experiment_id(experiment_id or ""))
        exp = ExpApi.of(api, known)
    context.replace_frame(frame, Frame(api, frame.entry, exp.id))
    return exp


def create_experiment(
    name: str, artifact_location: str | None = None, tags: Mapping[str, Any] | None = None
) -> str:
    """Create an experiment; returns its ID.

    Args:
        name: unique on the server.
        artifact_location: URL of the folder to keep its runs' artifacts under; default: the store's choice.
        tags: nested dict of JSON values.
    """
    return _api().services.experiments.create(name, tags, artifact_location).id


def get_experiment(experiment_id: str) -> ExpApi:
    """Fetch an experiment."""
    return _api().get_exp(experiment_id)


def get_experiment_by_name(name: str) -> ExpApi | None:
    """Fetch the experiment of that name, or None."""
    api = _api()
    found = api.services.experiments.by_name(name)
    return None if found is None else ExpApi.of(api, found)


def delete_experiment(experiment_id: str) -> None:
    """Mark an experiment and its runs deleted; `restore_experiment` undoes it."""
    _api().services.experiments.delete(identify.experiment_id(experiment_id))


def restore_experiment(experiment_id: str) -> None:
    """Undo `delete_experiment`."""
    _api().services.experiments.restore(identify.experiment_id(experiment_id))


def set_experiment_tag(key: str, value: Any) -> ExpApi:
    """Set one tag on the current experiment: the active run's, else the one that was set."""
    return set_experiment_tags({key: value})


def set_experiment_tags(tags: Mapping[str, Any]) -> ExpApi:
    """Set tags on the current experiment: the active run's, else the one that was set."""
    api, exp = _experiment()
    return api.set_tags_on_exp(exp, tags)


def delete_experiment_tag(key: str) -> None:
    """Delete one tag of the current experiment."""
    api, exp = _experiment()
    api.services.experiments.delete_tag(exp.id if isinstance(exp, Experiment) else exp, key)


def _experiment() -> tuple[BaseMlflowApi, Experiment | str]:
    run = _active()
    if run is not None:
        return run.api, run.exp
    frame = _frame()
    return frame.api, frame.experiment_id or DEFAULT_EXPERIMENT
