"""Naming a record as the call that logged it, for messages."""

from __future__ import annotations

from typing import Any

from withrun.journal.record import Kind

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
    names = {
        Kind.CREATE: "start_run",
        Kind.INPUTS: "log_inputs",
        Kind.ARTIFACT: "log_artifact",
        Kind.VERSION: "log_model_version",
        Kind.EXPERIMENT: "get_or_create_exp",
        Kind.MODEL: "get_or_create_model",
    }
    return f"{names.get(kind, f'record of kind {kind}')}({_short(record[3])})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
