"""MongoDB's order of values: one key that says what equals what, and what comes before what.

MongoDB sorts values of different kinds by kind first: null (and what is missing), numbers, strings,
documents, arrays, binary data, booleans, dates, regular expressions. Within a kind: numbers by value,
integers and floats alike and without rounding, NaN below all of them; strings by code point; arrays
element by element. `order_key` maps a value to a tuple for which Python's own comparison says the same.

In one thing withrun differs on purpose. MongoDB compares documents in the order of their keys; a tracking
store keeps params and tags as rows without an order, so that a document that was logged may come back in
another. Here the order of keys in a document means nothing: they are compared by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any, Final

__all__ = ["MAX_DEPTH", "MISSING", "RANKS", "aware", "order_key", "rank"]


MAX_DEPTH: Final = 100
"""Levels of nesting, MongoDB's own limit for documents."""


class _Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Stands for a field that a document does not have."""

NULL, NUMBER, STRING, DOCUMENT, ARRAY, BINARY, BOOLEAN, DATE, REGEX = range(1, 10)

RANKS: Final[dict[type, int]] = {
    _Missing: NULL,
    type(None): NULL,
    int: NUMBER,
    float: NUMBER,
    str: STRING,
    dict: DOCUMENT,
    list: ARRAY,
    tuple: ARRAY,
    bytes: BINARY,
    bool: BOOLEAN,
    datetime: DATE,
    re.Pattern: REGEX,
}
"""The place of each kind of value in MongoDB's order, by exact type (a bool is no number)."""

_SUBCLASSES: Final = (
    (bool, BOOLEAN),
    ((int, float), NUMBER),
    (str, STRING),
    (Mapping, DOCUMENT),
    ((list, tuple), ARRAY),
    ((bytes, bytearray), BINARY),
    (datetime, DATE),
    (date, DATE),
)


def rank(value: object) -> int:
    """The place of the value's kind in MongoDB's order; TypeError for a type that has none."""
    place = RANKS.get(type(value))
    if place is not None:
        return place
    for kinds, place in _SUBCLASSES:
        if isinstance(value, kinds):
            return place
    raise TypeError(f"a value of type {type(value).__name__} has no place in MongoDB's order of values")


def aware(value: date) -> datetime:
    """The same moment with a time zone; a naive one means local time, a date its midnight."""
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - made aware below
    return value if value.tzinfo is not None else value.astimezone()


def order_key(value: Any, level: int = 0) -> tuple[Any, ...]:
    """A tuple that compares to another value's as MongoDB compares the values themselves.

    What is nested deeper than MongoDB's documents can be, and so than any query, counts as alike by its kind.
    """
    place = rank(value)
    if level > MAX_DEPTH:
        return (place,)
    if place == NUMBER:
        # Python compares an int with a float exactly, whatever their sizes; NaN alone is not itself.
        return (NUMBER, 1, value) if value == value else (NUMBER, 0)
    if place == STRING:
        return (STRING, value.value if isinstance(value, Enum) else value)
    if place == NULL:
        return (NULL,)
    if place == DOCUMENT:
        return (DOCUMENT, tuple((rank(value[k]), k, order_key(value[k], level + 1)) for k in sorted(value)))
    if place == ARRAY:
        return (ARRAY, tuple(order_key(item, level + 1) for item in value))
    if place == DATE:
        return (DATE, aware(value))
    if place == REGEX:
        return (REGEX, value.pattern, value.flags)
    return (place, bytes(value) if place == BINARY else value)
