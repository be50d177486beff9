"""How values of params and tags are written and read; replaceable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from withrun import values

__all__ = ["DataTranslation"]


class DataTranslation(BaseModel):
    """How params and tags are written and read; subclass and replace to keep a house format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_texts(self, data: Mapping[str, Any], kind: str) -> dict[str, str]:
        """Flat keys and texts to store; `kind` (param, tag) names them in errors."""
        return values.to_texts(data, kind)

    def from_texts(self, items: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Nested data from stored keys and texts; a preview becomes a `previews.PreviewText`."""
        return values.from_texts(items)
