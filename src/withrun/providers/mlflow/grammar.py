"""What differs between MLflow's versions, as far as calls and filters are concerned."""

from __future__ import annotations

import re
from collections.abc import Iterable

from withrun.backend import FilterGrammar

__all__ = ["are_of_database", "grammar_of", "logged_model_id", "release"]

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


def are_of_database(experiment_ids: Iterable[str]) -> bool:
    """Whether experiments were numbered by a database, as 1, 2, 3; file stores draw 18 digits at random.

    Both have a first experiment 0, which tells nothing; alone, it is taken for a file store's, whose patterns
    are trusted with less.
    """
    drawn = [experiment_id for experiment_id in experiment_ids if experiment_id != "0"]
    return bool(drawn) and all(one.isascii() and one.isdigit() and len(one) < 12 for one in drawn)


def logged_model_id(source: str) -> str:
    """The ID in a logged model's URI (`models:/m-…`); empty for any other source of a version."""
    match = _LOGGED_MODEL_URI.fullmatch(source)
    return match[1] if match else ""
