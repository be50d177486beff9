"""What differs between MLflow's versions, as far as calls and filters are concerned."""

from __future__ import annotations

import re

from withrun.backend import FilterGrammar

__all__ = ["grammar_of", "logged_model_id", "release"]

_LOGGED_MODEL_URI = re.compile(r"models:/(m-[0-9a-f]{32})", re.ASCII)
_NULL_CHECKS_SINCE = (3, 11)


def release(version: str) -> tuple[int, int]:
    """Major and minor number of a version such as `3.17.2`; (0, 0) if there is none to read."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})", version, re.ASCII)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def grammar_of(version: str, *, database: bool = True) -> FilterGrammar:
    """The filter grammar of an MLflow version; an unknown version is taken for an old one.

    Args:
        version: such as `3.17.2`.
        database: the store is a database; MLflow's file stores compare with patterns of Python's.
    """
    return FilterGrammar(
        name=f"mlflow {version}{'' if database else ' without a database'}".strip(),
        null_checks=release(version) >= _NULL_CHECKS_SINCE,
        like_spans_lines=database,
    )


def logged_model_id(source: str) -> str:
    """The ID in a logged model's URI (`models:/m-…`); empty for any other source of a version."""
    match = _LOGGED_MODEL_URI.fullmatch(source)
    return match[1] if match else ""
