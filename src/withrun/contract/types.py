"""What the methods of the contract take: an entity, a handle on one (its subclass), or an identifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from withrun.schema import Experiment, Model, ModelVersion, Run

__all__ = [
    "MV",
    "Dumper",
    "Exp",
    "Loader",
    "ModelLike",
    "Query",
    "RunLike",
    "Sorting",
    "Source",
    "T",
]

T = TypeVar("T")

Exp: TypeAlias = Experiment | str
"""An experiment, or its ID (not its name)."""

RunLike: TypeAlias = Run | str
"""A run, or its ID."""

ModelLike: TypeAlias = Model | str
"""A registered model, or its name."""

MV: TypeAlias = ModelVersion | tuple[str, str]
"""A model version, or its model's name and its version; `"@alias"` names a version by alias."""

Query: TypeAlias = Mapping[str, Any] | str | None
"""A MongoDB query, or a filter string of MLflow's own; None matches all."""

Sorting: TypeAlias = Iterable[tuple[str, int]] | None
"""Fields to sort by, the most significant first, with 1 for ascending and -1 for descending."""

Dumper: TypeAlias = Callable[[Path], Any]
"""Writes an artifact, a file or a folder, to the path that it is given."""

Loader: TypeAlias = Callable[[Path], T]
"""Reads an artifact from the path that it is given."""

Source: TypeAlias = Path | str | Dumper
"""Where an artifact comes from: a path, or a callback that writes it."""
