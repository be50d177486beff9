"""Entities as the nested dicts that queries are matched against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from withrun.keys import leaves
from withrun.query.fields import REFERENCES

__all__ = ["as_document", "flat_row"]


def as_document(entity: Any) -> dict[str, Any]:
    """An entity's fields as a dict, entities inside it too; nothing is copied or converted.

    Made for every record that a search looks at, so not by `model_dump`, which takes twenty times as long.
    """
    if isinstance(entity, dict):
        return entity
    return {
        name: as_document(value) if isinstance(value, BaseModel) else value
        for name, value in vars(entity).items()
    }


def flat_row(document: Mapping[str, Any]) -> dict[str, Any]:
    """An entity's document as a row of a table: keys joined by dots; lists and empty dicts are left whole."""
    return dict(_cells(document, ""))


def _cells(document: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for field, value in document.items():
        if not isinstance(value, Mapping):
            yield f"{prefix}{field}", value
        elif field in REFERENCES:
            yield from _cells(value, f"{prefix}{field}.")
        else:  # params and the like: an empty one has no cells, but an empty dict in it is a value
            yield from leaves(value, f"{prefix}{field}.", "key")
