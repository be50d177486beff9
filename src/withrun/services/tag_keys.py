"""Which tags hold what the store has no field for, and how values are written; replaceable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from withrun import values

__all__ = ["DataTranslation", "TagKeys"]


class TagKeys(BaseModel):
    """The tags in which a run's relations are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: str = "mlflow.parentRunId"
    """ID of the parent run; MLflow's own key, which its web interface nests runs by."""
    description: str = "mlflow.note.content"
    """MLflow's own key of a run's description."""
    uid: str = "withrun.uid"
    """Unique per created run; tells a repeated create from a new one."""
    repo: str = "withrun.repo"
    """URL of the folder that the run's artifacts are kept under, if not the experiment's."""


class DataTranslation(BaseModel):
    """How params and tags are written and read; subclass and replace to keep a house format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_texts(self, data: Mapping[str, Any], kind: str) -> dict[str, str]:
        """Flat keys and texts to store; `kind` (param, tag) names them in errors."""
        return values.to_texts(data, kind)

    def from_texts(self, items: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Nested data from stored keys and texts; a preview becomes a `values.PreviewText`."""
        return values.from_texts(items)
