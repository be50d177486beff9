"""Which fields a query may name, per kind of entity: those of `withrun.schema`, and nothing else.

A misspelt field would match nothing, or everything, in silence; so it is an error that names the nearest
one. Below `tags`, `params` and `metrics` every key is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from typing import Final, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel

from withrun import schema
from withrun.errors import InvalidArgument

__all__ = ["KINDS", "REFERENCES", "Kind", "check_path", "field_of", "nearest"]

Kind: TypeAlias = Literal["runs", "experiments", "models", "versions"]
"""What is searched, in the words of `FilterGrammar.max_results`."""

KINDS: Final[dict[Kind, type[BaseModel]]] = {
    "runs": schema.Run,
    "experiments": schema.Experiment,
    "models": schema.Model,
    "versions": schema.ModelVersion,
}

REFERENCES: Final[dict[str, str]] = {"exp": "id", "run": "id", "model": "name"}
"""Fields that hold another entity, and what identifies it there."""


_INSTEAD: Final[dict[tuple[Kind, str], str]] = {
    ("runs", "parent"): "children are found by find_child_runs(parent), or by tags.mlflow.parentRunId.",
    ("runs", "parent_id"): "children are found by find_child_runs(parent), or by tags.mlflow.parentRunId.",
    ("versions", "aliases"): "the version of an alias is get_model_version((name, '@alias')).",
}
"""What to do in place of asking for a field that might be looked for."""


@cache
def _children(entity: type[BaseModel]) -> dict[str, type[BaseModel] | Literal["free", "leaf"]]:
    children: dict[str, type[BaseModel] | Literal["free", "leaf"]] = {}
    for name, field in entity.model_fields.items():
        annotation = field.annotation
        members = [annotation, *get_args(annotation)]
        nested = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
        if nested:
            children[name] = nested[0]
        else:
            children[name] = "free" if get_origin(annotation) is dict else "leaf"
    return children


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, if one is near, and all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(words)}."


def field_of(path: str) -> str:
    """The field that a path leads to or into: `params` of `run.params.lr`, `name` of `run.exp.name`."""
    parts = path.split(".")
    return next((part for part in parts if part not in REFERENCES), parts[-1])


def check_path(path: str, kind: Kind) -> None:
    """Raise `InvalidArgument` for a path that no entity of that kind has."""
    entity: type[BaseModel] = KINDS[kind]
    parts = path.split(".")
    for at, part in enumerate(parts):
        children = _children(entity)
        child = children.get(part)
        if child is None:
            asked = ".".join(parts[: at + 1])
            prefix = ".".join(parts[:at]) + "." if at else ""
            instead = _INSTEAD.get((kind, asked))
            hint = instead or nearest(asked, (prefix + name for name in children))
            raise InvalidArgument(f"query on {kind}: no field {asked!r} in {path!r}; {hint}")
        if child == "free":
            if parts[at + 1 :] == [""]:
                raise InvalidArgument(
                    f"query on {kind}: {path!r} names no key; {path + 'KEY'!r} would, {path[:-1]!r} is all."
                )
            return
        if child == "leaf":
            if at + 1 < len(parts):
                raise InvalidArgument(
                    f"query on {kind}: {path!r} goes below {'.'.join(parts[: at + 1])!r}, "
                    "which is a plain value."
                )
            return
        entity = child
