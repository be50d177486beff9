"""What a query compares with, in the types that documents hold.

A value is taken for what logging it as a param or tag would have stored, so that it finds what was logged: a
`date`, a path, a UUID or a `Decimal` is a text there. Where that would hide another meaning, a comparison has
both: a date is also its midnight, a `Decimal` also its number (`readings`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from withrun.errors import InvalidArgument
from withrun.keys import shortened
from withrun.query.order import MAX_DEPTH, aware
from withrun.query.regex import compile_pattern
from withrun.values import as_datetime, in_microseconds

__all__ = ["listed", "normal", "pattern", "readings"]

_FLAGS: Final = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE, "u": re.UNICODE}
_LARGEST_EXPONENT: Final = 400
"""Of a decimal that is taken for an integer; a larger one is beyond every number that was logged."""


def readings(value: Any, path: str, depth: int, *, logged: bool, order: bool = False) -> list[Any]:
    """All that the value may stand for in a comparison: mostly one.

    Args:
        value: as it was given.
        path: what is compared, for errors.
        depth: levels of nesting around it.
        logged: it is compared with params or tags.
        order: for what is less or greater; texts of numbers are in no order of numbers.
    """
    if logged and order and isinstance(value, Decimal):
        logged = False
    found = [normal(value, path, depth, logged=logged)]
    if logged and isinstance(value, (date, Decimal)) and isinstance(found[0], str):
        found.append(normal(value, path, depth, logged=False))
    return found


def normal(value: Any, path: str, depth: int, *, logged: bool) -> Any:
    """The value in the types that documents hold; `InvalidArgument` for one that no document holds."""
    if depth > MAX_DEPTH:
        raise InvalidArgument(
            f"the value for {path!r} is nested over {MAX_DEPTH} levels deep, or within itself."
        )
    if isinstance(value, Enum):
        return normal(value.value, path, depth + 1, logged=logged)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, datetime):
        return _moment(value, path)
    if isinstance(value, date):
        return value.isoformat() if logged else _moment(value, path)
    if isinstance(value, Decimal):
        return str(value) if logged else _number(value, path)
    if isinstance(value, time):
        return value.isoformat()
    if isinstance(value, (PurePath, UUID)):
        return str(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InvalidArgument(f"{path!r}: the document {shortened(value)} has keys that are no strings.")
        return {str(key): normal(item, path, depth + 1, logged=logged) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple)):
        return [normal(item, path, depth + 1, logged=logged) for item in value]
    if isinstance(value, re.Pattern):
        return value
    for convert in (int, float, str):
        if isinstance(value, convert):
            return convert(value)
    if _has_to_list(value):
        return normal(in_microseconds(value).tolist(), path, depth + 1, logged=logged)
    raise InvalidArgument(
        f"{path!r} is compared with {shortened(value)} of type {type(value).__name__}, which no field can "
        "hold; use text, numbers, booleans, None, datetimes, lists or dicts of these."
    )


def listed(operand: Any) -> list[Any] | None:
    """The items of whatever may stand where an operator takes a list; None for what is none."""
    if isinstance(operand, (set, frozenset)):
        return sorted(operand, key=repr)
    if _has_to_list(operand):
        operand = in_microseconds(operand).tolist()
    if isinstance(operand, (Sequence, Set)) and not isinstance(operand, (str, bytes, bytearray)):
        return list(operand)
    return None


def pattern(value: object, path: str, options: object = None) -> re.Pattern[str]:
    """Compile the operand of `$regex` with its `$options`: a text as MongoDB's, a pattern as Python's."""
    if options is None:
        options = ""
    if not isinstance(options, str) or not set(options) <= set(_FLAGS):
        raise InvalidArgument(
            f"{path!r}: $options takes a text of the letters {', '.join(_FLAGS)}, not {shortened(options)}."
        )
    compiled = isinstance(value, re.Pattern)
    source: object = value.pattern if isinstance(value, re.Pattern) else value
    if not isinstance(source, str):
        raise InvalidArgument(
            f"{path!r}: $regex takes a text or a compiled pattern of text, not {shortened(value)}."
        )
    try:
        if not isinstance(value, re.Pattern):
            return compile_pattern(source, options)
        flags = value.flags
        for letter in options:
            flags |= _FLAGS[letter]
        return re.compile(source, flags)
    except (re.error, ValueError, RecursionError, OverflowError) as exc:
        kind = "regular expression" if compiled else "regular expression of MongoDB's that Python can say"
        raise InvalidArgument(f"{path!r}: {shortened(source)} is no {kind}: {exc}.") from exc


def _has_to_list(value: Any) -> bool:
    """Whether it is numpy's or its kin's, asked by what it can do, so that none of these is imported."""
    return callable(getattr(value, "tolist", None)) and not isinstance(value, type)


def _moment(value: date, path: str) -> datetime | None:
    """The moment with a time zone; None for pandas' NaT."""
    try:
        moment = as_datetime(value) if isinstance(value, datetime) else value
        return None if moment is None else aware(moment)
    except (OverflowError, OSError, ValueError) as exc:
        raise InvalidArgument(f"{path!r}: {value!r} is no moment that can be told: {exc}.") from exc


def _number(value: Decimal, path: str) -> float:
    try:
        if value.is_finite() and value.adjusted() < _LARGEST_EXPONENT and value == int(value):
            return int(value)
        return float(value)
    except (OverflowError, ValueError) as exc:
        raise InvalidArgument(f"{path!r}: {value!r} is no number that can be compared: {exc}.") from exc
