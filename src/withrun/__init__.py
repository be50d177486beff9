"""Experiment tracking and model registry on MLflow backends, with runs scoped to the current context.

Example:
    >>> import withrun
    >>> api = withrun.get_api()
    >>> with api.start_run(api.get_or_create_exp("demo"), name="fit") as run:
    ...     run.log_param("lr", 0.1)
    ...     withrun.log_metric("loss", 0.3, step=1)  # anywhere below, no handle passed around

Everything here is imported on first use, so that `import withrun` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from withrun import errors
    from withrun.api import BaseMlflowApi
    from withrun.contract import MlflowApiContract
    from withrun.fluent import (
        active_run,
        create_experiment,
        delete_experiment,
        delete_experiment_tag,
        delete_run,
        delete_tag,
        end_run,
        flush_async_logging,
        get_artifact_uri,
        get_experiment,
        get_experiment_by_name,
        get_parent_run,
        get_run,
        last_active_run,
        log_artifact,
        log_artifacts,
        log_metric,
        log_metrics,
        log_model_version,
        log_param,
        log_params,
        restore_experiment,
        restore_run,
        set_experiment,
        set_experiment_tag,
        set_experiment_tags,
        set_tag,
        set_tags,
        start_run,
    )
    from withrun.handles import ExpApi, ModelApi, ModelVersionApi, RunApi
    from withrun.plugins import api_conf_schema, get_api, list_api_plugins
    from withrun.providers.generic import GenericMlflowApi
    from withrun.providers.mlflow.api import MlflowApi
    from withrun.schema import RunStatus
    from withrun.sessions import bind, session
    from withrun.transfer.file_transfer import FileTransfer

_HOME = {
    "errors": "withrun.errors",
    "BaseMlflowApi": "withrun.api",
    "MlflowApiContract": "withrun.contract",
    "ExpApi": "withrun.handles",
    "ModelApi": "withrun.handles",
    "ModelVersionApi": "withrun.handles",
    "RunApi": "withrun.handles",
    "api_conf_schema": "withrun.plugins",
    "get_api": "withrun.plugins",
    "list_api_plugins": "withrun.plugins",
    "GenericMlflowApi": "withrun.providers.generic",
    "MlflowApi": "withrun.providers.mlflow.api",
    "RunStatus": "withrun.schema",
    "bind": "withrun.sessions",
    "session": "withrun.sessions",
    "FileTransfer": "withrun.transfer.file_transfer",
}
"""Where the public names are that are no verbs; those are all in `withrun.fluent`."""

__all__ = [
    "BaseMlflowApi",
    "ExpApi",
    "FileTransfer",
    "GenericMlflowApi",
    "MlflowApi",
    "MlflowApiContract",
    "ModelApi",
    "ModelVersionApi",
    "RunApi",
    "RunStatus",
    "active_run",
    "api_conf_schema",
    "bind",
    "create_experiment",
    "delete_experiment",
    "delete_experiment_tag",
    "delete_run",
    "delete_tag",
    "end_run",
    "errors",
    "flush_async_logging",
    "get_api",
    "get_artifact_uri",
    "get_experiment",
    "get_experiment_by_name",
    "get_parent_run",
    "get_run",
    "last_active_run",
    "list_api_plugins",
    "log_artifact",
    "log_artifacts",
    "log_metric",
    "log_metrics",
    "log_model_version",
    "log_param",
    "log_params",
    "restore_experiment",
    "restore_run",
    "session",
    "set_experiment",
    "set_experiment_tag",
    "set_experiment_tags",
    "set_tag",
    "set_tags",
    "start_run",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'withrun' has no attribute {name!r}")
    module = importlib.import_module(_HOME.get(name, "withrun.fluent"))
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
