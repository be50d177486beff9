"""The public names, their parameters and defaults, as the contract states them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import withrun

REQUIRED = inspect.Parameter.empty

NAMES = {
    *("get_api", "list_api_plugins", "api_conf_schema", "session", "bind", "errors", "FileTransfer"),
    *("BaseMlflowApi", "MlflowApiContract", "MlflowApi", "GenericMlflowApi", "RunStatus"),
    *("ExpApi", "RunApi", "ModelApi", "ModelVersionApi"),
    *("start_run", "end_run", "active_run", "last_active_run", "get_run", "get_parent_run"),
    *("delete_run", "restore_run", "log_param", "log_params", "log_metric", "log_metrics"),
    *("set_tag", "set_tags", "delete_tag", "set_experiment_tag", "set_experiment_tags"),
    *("delete_experiment_tag", "log_artifact", "log_artifacts", "log_model_version"),
    *("set_experiment", "create_experiment", "get_experiment", "get_experiment_by_name"),
    *("delete_experiment", "restore_experiment", "get_artifact_uri", "flush_async_logging"),
}
"""Of `withrun.__all__`. A verb that is added later is added here."""

PUBLISH = {"path_in_run": None, "keep_the_source": None, "allow_duplication": None, "use_cache": None}
LOG_VERSION = {**PUBLISH, "version": None, "tags": None}
MV = {"model_version": REQUIRED}
FIND = {"query": None, "sorting": None, "limit": None}
CREATE_RUN = {"exp": REQUIRED, "name": None, "tags": None, "repo": None, "parent": None}
REFRESH = {"force_cache_refresh": False}


def needs(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, REQUIRED)


API: dict[str, dict[str, Any]] = {
    "create_exp": {**needs("name"), "tags": None},
    "get_or_create_exp": needs("name"),
    "get_exp": {**needs("exp"), **REFRESH},
    "find_exps": FIND,
    "set_tags_on_exp": needs("exp", "tags"),
    "get_exp_url": needs("exp"),
    "create_run": CREATE_RUN,
    "start_run": {**CREATE_RUN, "nested": False},
    "resume_run": needs("run"),
    "end_run": {**needs("run"), "succeeded": True},
    "get_run": {**needs("run"), **REFRESH},
    "find_runs": FIND,
    "find_child_runs": {**needs("parent"), "limit": None},
    "explain": {"query": None, "sorting": None, "kind": "runs"},
    "set_tags_on_run": needs("run", "tags"),
    "log_params": needs("run", "params"),
    "log_metrics": needs("run", "metrics"),
    "get_run_url": {**needs("run"), "exp": None},
    "create_model": {**needs("name"), "tags": None},
    "get_or_create_model": needs("name"),
    "get_model": {**needs("model"), **REFRESH},
    "find_models": FIND,
    "set_tags_on_model": needs("model", "tags"),
    "get_model_url": needs("model"),
    "log_model_version": {**needs("model", "run", "source"), **LOG_VERSION},
    "get_model_version": {**MV, **REFRESH},
    "find_model_versions": FIND,
    "set_tags_on_model_version": {**MV, "tags": REQUIRED},
    "get_model_version_url": MV,
    "log_run_artifact": {**needs("run", "source"), **PUBLISH},
    "list_run_artifacts": {**needs("run"), "path_in_run": ""},
    "cache_run_artifact": {**needs("run"), "path_in_run": ""},
    "get_run_artifact": {**needs("run"), "path_in_run": ""},
    "load_run_artifact": {**needs("run", "loader"), "path_in_run": ""},
    "place_run_artifact": {**needs("run", "target"), "path_in_run": "", "overwrite": False, "link": True},
    "export_run_artifact": {**needs("run", "target"), "path_in_run": ""},
    "list_model_artifact": {**MV, "path_suffix": ""},
    "cache_model_artifact": MV,
    "get_model_artifact": MV,
    "load_model_artifact": {**MV, "loader": REQUIRED},
    "place_model_artifact": {**MV, "target": REQUIRED, "overwrite": False, "link": True},
    "export_model_artifact": {**MV, "target": REQUIRED},
    "cache_exp_meta": needs("exp"),
    "cache_run_meta": needs("run"),
    "cache_model_meta": needs("model"),
    "cache_model_version_meta": MV,
    "export_exp_meta": needs("exp", "target"),
    "export_run_meta": needs("run", "target"),
    "export_model_meta": needs("model", "target"),
    "export_model_version_meta": needs("mv", "target"),
    "clean_all_cache": {},
    "clean_temp_artifacts": {},
    "clean_cached_run_artifact": {**needs("run"), "path_in_run": ""},
    "clean_cached_model_artifact": MV,
    "flush": {"timeout": None},
    "close": {},
}

SYNC = {"synchronous": None}
METRIC = {"step": None, **SYNC, "timestamp": None}
VERBS: dict[str, dict[str, Any]] = {
    "start_run": {
        **dict.fromkeys(("run_id", "experiment_id", "run_name")),
        "nested": False,
        **dict.fromkeys(("parent_run_id", "tags", "description", "log_system_metrics")),
    },
    "end_run": {"status": "FINISHED"},
    "active_run": {},
    "last_active_run": {},
    "get_run": needs("run_id"),
    "get_parent_run": needs("run_id"),
    "delete_run": needs("run_id"),
    "restore_run": needs("run_id"),
    "log_param": {**needs("key", "value"), **SYNC, "run_id": None},
    "log_params": {**needs("params"), **SYNC, "run_id": None},
    "log_metric": {**needs("key", "value"), **METRIC, "run_id": None},
    "log_metrics": {**needs("metrics"), **METRIC, "run_id": None},
    "set_tag": {**needs("key", "value"), **SYNC},
    "set_tags": {**needs("tags"), **SYNC},
    "delete_tag": needs("key"),
    "set_experiment_tag": needs("key", "value"),
    "set_experiment_tags": needs("tags"),
    "delete_experiment_tag": needs("key"),
    "log_artifact": {**needs("local_path"), "artifact_path": None, "run_id": None},
    "log_artifacts": {**needs("local_dir"), "artifact_path": None, "run_id": None},
    "log_model_version": {**needs("model", "source"), **LOG_VERSION},
    "set_experiment": {"experiment_name": None, "experiment_id": None},
    "create_experiment": {**needs("name"), "artifact_location": None, "tags": None},
    "get_experiment": needs("experiment_id"),
    "get_experiment_by_name": needs("name"),
    "delete_experiment": needs("experiment_id"),
    "restore_experiment": needs("experiment_id"),
    "get_artifact_uri": {"artifact_path": None},
    "flush_async_logging": {},
    "get_api": {"plugin": None, "cls": None, "conf": None},
    "list_api_plugins": {},
    "api_conf_schema": {"plugin": None, "cls": None},
    "bind": needs("fn"),
    "session": needs("api"),
}

CHILD = {"name": None, "tags": None, "repo": None}
HANDLES: dict[str, dict[str, dict[str, Any]]] = {
    "ExpApi": {
        "start_run": {**CHILD, "parent": None, "nested": False},
        "create_run": {**CHILD, "parent": None},
        "find_runs": FIND,
        "cache_meta": {},
        "export_meta": needs("target"),
        "set_tags": needs("tags"),
        "update": {},
    },
    "RunApi": {
        "start_child": CHILD,
        "create_child": CHILD,
        "resume": {},
        "end_run": {"succeeded": True},
        "log_param": {**needs("key", "value"), **SYNC},
        "log_params": {**needs("params"), **SYNC},
        "log_metric": {**needs("key", "value"), **METRIC},
        "log_metrics": {**needs("metrics"), **METRIC},
        "set_tag": {**needs("key", "value"), **SYNC},
        "set_tags": {**needs("tags"), **SYNC},
        "delete_tag": needs("key"),
        "flush": {"timeout": None},
        "metric_history": needs("key"),
        "get_artifact_uri": {"artifact_path": None},
        "log_artifact": {**needs("source"), **PUBLISH},
        "log_model_version": {**needs("model", "source"), **LOG_VERSION},
        "list_artifacts": {"path_in_run": ""},
        "cache_artifact": {"path_in_run": ""},
        "get_artifact": {"path_in_run": ""},
        "load_artifact": {**needs("loader"), "path_in_run": ""},
        "place_artifact": {**needs("target"), "path_in_run": "", "overwrite": False, "link": True},
        "export_artifact": {**needs("target"), "path_in_run": ""},
        "clean_cached_artifact": {"path_in_run": ""},
        "find_model_versions": FIND,
        "cache_meta": {},
        "export_meta": needs("target"),
        "update": {},
        "using": needs("api"),
    },
    "ModelApi": {
        "get_version": needs("version"),
        "find_versions": FIND,
        "log_version": {**needs("run", "source"), **LOG_VERSION},
        "delete_alias": needs("alias"),
        "cache_meta": {},
        "export_meta": needs("target"),
        "set_tags": needs("tags"),
        "update": {},
    },
    "ModelVersionApi": {
        "cache": {},
        "export": needs("target"),
        "cache_meta": {},
        "export_meta": needs("target"),
        "cache_artifact": {},
        "export_artifact": needs("target"),
        "get_artifact": {},
        "load_artifact": needs("loader"),
        "place_artifact": {**needs("target"), "overwrite": False, "link": True},
        "list_artifacts": {"path_suffix": ""},
        "clean_cached_artifact": {},
        "set_tags": needs("tags"),
        "set_alias": needs("alias"),
        "update": {},
    },
}
PROPERTIES = {
    "ExpApi": {"url"},
    "RunApi": {"url", "children"},
    "ModelApi": {"url"},
    "ModelVersionApi": {"url"},
    "BaseMlflowApi": {"in_offline_mode"},
}
FIELDS: dict[str, dict[str, Any]] = {
    "BaseMlflowApi": {
        "cache_dir": None,
        "offline_mode": False,
        "pull_artifacts_in_offline_mode": False,
        "temp_artifacts_dir": None,
        "cache_local_artifacts": False,
        "always_pull_artifacts": False,
    },
    "MlflowApi": {"healthcheck": True},
    "FileTransfer": {
        "prog_bar": True,
        "tool": "rclone_python.rclone",
        "extra_args": {"sync": ["--copy-links"]},
        "use_scheme": None,
        "map_scheme": None,
    },
}
ENTITIES = {
    "Experiment": ["id", "name", "tags"],
    "Run": [
        *("id", "name", "exp", "repo", "tags", "params", "metrics"),
        *("status", "start_time", "end_time", "repo_url"),
    ],
    "Model": ["name", "tags"],
    "ModelVersion": ["version", "model", "run", "path_in_run", "tags"],
}


def parameters(function: Any) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.name != "self"}


def test_names() -> None:
    """`withrun` exports these names, and each can be had."""
    assert set(withrun.__all__) == NAMES
    assert len(withrun.__all__) == len(NAMES)
    assert sorted(withrun.__all__) == withrun.__all__
    for name in withrun.__all__:
        assert getattr(withrun, name) is not None
    assert set(dir(withrun)) >= NAMES
    with pytest.raises(AttributeError, match="log_parm"):
        withrun.log_parm  # noqa: B018 - asking is the point


@pytest.mark.parametrize("name", API)
def test_methods_of_an_api(name: str) -> None:
    """A method of the contract has its parameters, in order, with their defaults, wherever it is defined."""
    for cls in (withrun.BaseMlflowApi, withrun.MlflowApi, withrun.GenericMlflowApi):
        assert list(parameters(getattr(cls, name)).items()) == list(API[name].items())
    if hasattr(withrun.MlflowApiContract, name):
        assert parameters(getattr(withrun.MlflowApiContract, name)) == API[name]
        assert getattr(withrun.MlflowApiContract, name).__doc__


def test_the_contract_is_complete() -> None:
    """The contract's abstract methods are these, and a provider has to add `_connect` alone."""
    abstract = set(withrun.MlflowApiContract.__abstractmethods__)
    assert abstract <= set(API)
    assert set(API) - abstract <= {"flush", "close"}
    assert withrun.BaseMlflowApi.__abstractmethods__ == {"_connect"}


@pytest.mark.parametrize("name", VERBS)
def test_verbs_of_the_module(name: str) -> None:
    """A verb of the module has its parameters, in order, with their defaults."""
    verb = getattr(withrun, name)
    assert list(parameters(verb).items()) == list(VERBS[name].items())
    assert verb.__doc__


@pytest.mark.parametrize(("handle", "name"), [(h, n) for h, verbs in HANDLES.items() for n in verbs])
def test_verbs_of_handles(handle: str, name: str) -> None:
    """A verb of a handle has its parameters, in order, with their defaults."""
    verb = getattr(getattr(withrun, handle), name)
    assert list(parameters(verb).items()) == list(HANDLES[handle][name].items())
    assert verb.__doc__


def test_properties() -> None:
    """These are read without a call."""
    for owner, names in PROPERTIES.items():
        for name in names:
            assert isinstance(inspect.getattr_static(getattr(withrun, owner), name), property)


@pytest.mark.parametrize("owner", FIELDS)
def test_configuration(owner: str) -> None:
    """The configuration has these fields with these defaults, and an API's can't be changed."""
    cls = getattr(withrun, owner)
    for name, default in FIELDS[owner].items():
        assert cls.model_fields[name].get_default(call_default_factory=True) == default
    if owner != "FileTransfer":
        assert cls.model_config["frozen"]


def test_entities() -> None:
    """The entities have their fields, and a run its five statuses."""
    from withrun import schema

    for name, fields in ENTITIES.items():
        assert set(getattr(schema, name).model_fields) >= set(fields)
    assert [s.value for s in withrun.RunStatus] == ["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]


def test_errors() -> None:
    """The error tree is that of the contract, with the built-in bases that Python users expect."""
    errors = withrun.errors
    bases = {
        "NotFound": LookupError,
        "InvalidArgument": ValueError,
        "IllegalPath": errors.InvalidArgument,
        "ServerUnreachable": ConnectionError,
        "ArtifactNotFound": FileNotFoundError,
        "MissingDependency": ImportError,
    }
    plain = "AlreadyExists NoActiveRun RunAlreadyActive RunClosed OfflineError ServerError CacheError"
    for name in [*plain.split(), "FailedToPublishArtifact", "TransferError", "JournalError", *bases]:
        assert issubclass(getattr(errors, name), (errors.WithrunError))
        assert issubclass(getattr(errors, name), bases.get(name, Exception))


def test_import_is_lazy() -> None:
    """`import withrun` imports nothing heavy, and an API on a server and its session never import MLflow."""
    code = """
import sys, withrun
def loaded(*names): return sorted({*names} & {*sys.modules})
assert not loaded("mlflow", "pandas", "numpy", "rich", "pydantic", "httpx"), loaded("pydantic", "httpx")
assert withrun.RunStatus and withrun.bind(print) and withrun.active_run() is None
api = withrun.get_api(conf={"tracking_uri": "http://127.0.0.1:1", "healthcheck": False})
with withrun.session(api): pass
assert not loaded("mlflow", "pandas", "numpy"), loaded("mlflow", "pandas", "numpy")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
