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
    from withrun.api import (
        BaseMlflowApi,
    )
    from withrun.contract import (
        MlflowApiContract,
    )
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
    from withrun.handles import (
        ExpApi,
        ModelApi,
        ModelVersionApi,
        RunApi,
    )
    from withrun.plugins import (
        api_conf_schema,
        get_api,
        list_api_plugins,
    )
    from withrun.providers.generic import (
        GenericMlflowApi,
    )
    from withrun.providers.mlflow.api import (
        MlflowApi,
    )
    from withrun.schema import (
        RunStatus,
    )
    from withrun.sessions import (
        bind,
        session,
    )
    from withrun.transfer.file_transfer import (
        FileTransfer,
    )

_HOME = {
    "errors": "withrun.errors",
    "BaseMlflowApi": "withrun.api",
    "MlflowApiContract": "withrun.contract",
    "active_run": "withrun.fluent",
    "create_experiment": "withrun.fluent",
    "delete_experiment": "withrun.fluent",
    "delete_experiment_tag": "withrun.fluent",
    "delete_run": "withrun.fluent",
    "delete_tag": "withrun.fluent",
    "end_run": "withrun.fluent",
    "flush_async_logging": "withrun.fluent",
    "get_artifact_uri": "withrun.fluent",
    "get_experiment": "withrun.fluent",
    "get_experiment_by_name": "withrun.fluent",
    "get_parent_run": "withrun.fluent",
    "get_run": "withrun.fluent",
    "last_active_run": "withrun.fluent",
    "log_artifact": "withrun.fluent",
    "log_artifacts": "withrun.fluent",
    "log_metric": "withrun.fluent",
    "log_metrics": "withrun.fluent",
    "log_model_version": "withrun.fluent",
    "log_param": "withrun.fluent",
    "log_params": "withrun.fluent",
    "restore_experiment": "withrun.fluent",
    "restore_run": "withrun.fluent",
    "set_experiment": "withrun.fluent",
    "set_experiment_tag": "withrun.fluent",
    "set_experiment_tags": "withrun.fluent",
    "set_tag": "withrun.fluent",
    "set_tags": "withrun.fluent",
    "start_run": "withrun.fluent",
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
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'withrun' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
