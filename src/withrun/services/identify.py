"""From what a caller names an entity by (itself, a handle on it, an identifier) to the identifier."""

from __future__ import annotations

import re
from typing import Any

from withrun.errors import InvalidArgument
from withrun.schema import Experiment, Model, ModelVersion, Run, RunStatus

__all__ = [
    "check_given",
    "check_repo",
    "check_timeout",
    "check_types",
    "end_status",
    "experiment_id",
    "model_name",
    "run_id",
    "version_key",
]


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def experiment_id(exp: Experiment | str) -> str:
    """The ID of an experiment given as itself or by ID."""
    return exp.id if isinstance(exp, Experiment) else _identifier(exp, "experiment", "its ID")


def run_id(run: Run | str) -> str:
    """The ID of a run given as itself or by ID."""
    return run.id if isinstance(run, Run) else _identifier(run, "run", "its ID")


def model_name(model: Model | str) -> str:
    """The name of a registered model given as itself or by name."""
    return model.name if isinstance(model, Model) else _identifier(model, "model", "its name")


def version_key(version: ModelVersion | tuple[str, str]) -> tuple[str, str]:
    """The model's name and the version of a model version given as itself or as that pair."""
    if isinstance(version, ModelVersion):
        return version.model.name, version.version
    if isinstance(version, (tuple, list)) and len(version) == 2:
        name: Any = version[0]
        number: Any = version[1]
        if isinstance(number, int) and not isinstance(number, bool):
            number = str(number)
        return model_name(name), _identifier(number, "version", "its number or '@alias'")
    raise InvalidArgument(
        "a model version is given as itself, a handle on it, or a (model name, version) pair; "
        f"got {version!r:.100} of type {type(version).__name__}"
    )


def end_status(succeeded: bool | str | RunStatus) -> RunStatus:
    """The status that ends a run, from a truth value, a name or a status."""
    if isinstance(succeeded, bool):
        return RunStatus.FINISHED if succeeded else RunStatus.FAILED
    try:
        status = RunStatus(succeeded)
    except ValueError:
        status = None
    if status is None or not status.is_over:
        ends = ", ".join(s.value for s in RunStatus if s.is_over)
        raise InvalidArgument(f"{succeeded!r:.100} doesn't end a run; use True, False or one of {ends}")
    return status


def _identifier(value: Any, what: str, how: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, str):
        raise InvalidArgument(f"the {what} is named by an empty string; give {how}, or the {what} itself")
    hint = f"; as a string that is {str(value)!r}" if isinstance(value, int) else ""
    raise InvalidArgument(
        f"the {what} is given as itself, a handle on it, or {how} (a string); "
        f"got {value!r:.100} of type {type(value).__name__}{hint}"
    )


def check_types(**arguments: tuple[Any, type | tuple[type, ...]]) -> None:
    """Refuse arguments of the wrong type; None is taken everywhere as "not given".

    Example:
        >>> check_types(name=(name, str), link=(link, bool))
    """
    check_given(**{name: given for name, given in arguments.items() if given[0] is not None})


def check_given(**arguments: tuple[Any, type | tuple[type, ...]]) -> None:
    """Refuse arguments of the wrong type, None among them."""
    for name, (value, types) in arguments.items():
        if isinstance(value, types):
            continue
        expected = " or ".join(t.__name__ for t in (types if isinstance(types, tuple) else (types,)))
        raise InvalidArgument(f"{name}={value!r:.100} is of type {type(value).__name__}; expected {expected}")


def check_timeout(timeout: float | None) -> None:
    """Refuse what is no number of seconds to wait; None is no limit."""
    check_types(timeout=(timeout, (int, float)))
    if timeout is not None and (isinstance(timeout, bool) or not timeout >= 0):
        raise InvalidArgument(
            f"timeout={timeout!r} is no number of seconds; give 0 or more, or None to wait on"
        )


def check_repo(repo: str | None) -> None:
    """Refuse what is neither the URL of a folder nor an absolute path."""
    check_types(repo=(repo, str))
    if repo is None:
        return
    if not repo.isprintable() or repo != repo.strip() or not (repo.startswith("/") or _URL.match(repo)):
        raise InvalidArgument(
            f"repo={repo!r:.200} names no folder to keep artifacts under; give a URL (s3://bucket/folder) "
            "or an absolute path"
        )
