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
r"""A MongoDB query, or a filter string of MLflow's own; None matches all.

- A value stands for what logging it as a param or tag would have stored: a `Decimal`, a path and a UUID are
  texts. A date is also its midnight, a `Decimal` also its number. Naive datetimes mean local time.
- A text given to `$regex` is a pattern of MongoDB's, that is PCRE's: `\w`, `\d`, `\s`, `\b` and `[[:alpha:]]`
  know ASCII alone unless it begins with `(*UCP)`, `$options: "i"` folds all letters, `\z` is the end. What
  Python can't say, such as `\p{L}`, is refused. A compiled pattern is Python's.
- A text kept whole outside the store is compared whole, and by its preview only if it is gone.
- On SQLite a pattern that is not anchored with `^` does not find what another program stored behind U+0000.
"""

Sorting: TypeAlias = Iterable[tuple[str, int]] | None
"""Fields to sort by, the most significant first, with 1 for ascending and -1 for descending."""

Dumper: TypeAlias = Callable[[Path], Any]
"""Writes an artifact, a file or a folder, to the path that it is given."""

Loader: TypeAlias = Callable[[Path], T]
"""Reads an artifact from the path that it is given."""

Source: TypeAlias = Path | str | Dumper
"""Where an artifact comes from: a path, or a callback that writes it."""
