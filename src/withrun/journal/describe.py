"""Naming a record as the call that logged it, for messages."""

from __future__ import annotations

from typing import Any

import msgspec

from withrun.journal.record import (
    ArtifactIntent,
    ExperimentIntent,
    Kind,
    ModelIntent,
    RunIntent,
    VersionIntent,
)

__all__ = ["describe"]

_LONGEST = 200


def describe(record: list[Any]) -> str:
    """Write a record as a call: `log_param('lr', '0.1')`."""
    kind = record[0]
    if kind == Kind.METRIC:
        _, _, key, value, timestamp, step = record
        return f"log_metric({_short(key)}, {value!r}, step={step}, timestamp={timestamp})"
    if kind == Kind.METRICS:
        return f"log_metrics({_short(record[4])}, step={record[3]}, timestamp={record[2]})"
    if kind in (Kind.PARAMS, Kind.TAGS):
        verb = "log_param" if kind == Kind.PARAMS else "set_tag"
        return ", ".join(f"{verb}({_short(key)}, {_short(value)})" for key, value in record[3].items())
    if kind == Kind.DELETE_TAG:
        return f"delete_tag({_short(record[3])})"
    if kind == Kind.STATUS:
        return f"end_run({_short(record[3])})"
    if kind == Kind.INPUTS:
        return f"log_inputs({_short(record[3])})"
    if kind in _INTENTS:
        verb, shape, fields = _INTENTS[kind]
        intent = msgspec.convert(record[3], shape)
        return f"{verb}({', '.join(_short(getattr(intent, field)) for field in fields)})"
    return f"record of kind {kind}({_short(record[3])})"


_INTENTS: dict[int, tuple[str, type[msgspec.Struct], tuple[str, ...]]] = {
    Kind.CREATE: ("start_run", RunIntent, ("experiment_id", "name")),
    Kind.ARTIFACT: ("log_artifact", ArtifactIntent, ("path_in_run",)),
    Kind.VERSION: ("log_model_version", VersionIntent, ("model", "path_in_run")),
    Kind.EXPERIMENT: ("get_or_create_exp", ExperimentIntent, ("name",)),
    Kind.MODEL: ("get_or_create_model", ModelIntent, ("name",)),
}
"""The calls that intents come from, and which of their fields tell one from another."""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
