"""The texts under which a store may hold the value of a param or tag, as comparisons of MLflow's grammar.

One value has many texts: `adam` is also `"adam"`, and 0.1 also 1e-1, as other tools write them; and as
MongoDB's queries look into lists, so may a list that holds the value. Each comparison is put behind a column.
All of them together find every text that may pass a condition; what else they find is sorted out on the
results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from withrun.providers.mlflow.filter_words import Words
from withrun.providers.mlflow.number_texts import (
    EXPONENT,
    NumberTexts,
    longer_than,
    number_texts,
    with_any_exponent,
)
from withrun.query.language import Condition, ElemMatch
from withrun.values import decode

__all__ = ["Texts", "texts_for"]

_ENOUGH: Final = 20
"""Comparisons beyond which those of several numbers are joined."""

_LIST: Final = "LIKE '%]%'"
"""Finds every list, and every preview of a longer text, which may be a list.

By the closing bracket, because an opening one begins a class of characters on some databases.
"""

_QUOTED: Final = "LIKE '%\"%'"
"""Finds every text that stands for another: a quoted one, a list of some, the preview of a longer one."""

_DATED: Final = "LIKE '%$date%'"
"""Finds every datetime."""


class Net(NamedTuple):
    """A comparison, and others that together find all that matters of what it finds, if that is much."""

    comparison: str
    narrower: tuple[str, ...] = ()


class Texts(NamedTuple):
    """Comparisons that together find every text that may pass a condition.

    Attributes:
        usual: find the texts that are usual.
        rare: find what is seldom there.
    """

    usual: list[str]
    rare: list[Net]


def texts_for(condition: Condition, words: Words) -> Texts | None:
    """Comparisons that find every text that may pass; None if there are no words for one of them."""
    operator, operand = condition.operator, condition.operand
    if operator in ("$size", "$elemMatch"):
        return Texts([_LIST], [])
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        return Texts([_DATED], [Net(_LIST)]) if isinstance(operand, datetime) else None
    if operator not in ("$eq", "$regex", "$in", "$all"):
        return None
    items = operand if operator == "$in" else operand[:1] if operator == "$all" else [operand]
    if len(items) > _ENOUGH:
        return None
    usual: list[str] = []
    rare: list[str] = []
    numbers: list[NumberTexts] = []
    for item in items:
        number = _number(item)
        texts = ([number.usual], []) if number is not None else _texts_of(item, words)
        if texts is None:
            return None
        numbers += [] if number is None else [number]
        usual += texts[0]
        rare += texts[1]
    nets = [*_other_texts(numbers), *map(Net, rare)]
    return Texts(list(dict.fromkeys(usual)), list(dict.fromkeys(nets)))


def _number(value: Any) -> NumberTexts | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number_texts(value) if is_number else None


def _other_texts(numbers: Sequence[NumberTexts]) -> list[Net]:
    """Nets for all but the usual texts: one where these are longer, two if not all are, else more."""
    if not numbers:
        return []
    plain = [text for number in numbers for text in number.plain]
    scientific = [text for number in numbers for text in number.scientific]
    length = min(number.length for number in numbers)
    if not length:
        return [*map(Net, plain), *_at_once(EXPONENT, scientific), Net(_LIST)]
    # A list is the text of a number, or one with an exponent, in brackets.
    if min(number.scientific_length for number in numbers) >= length:
        return _at_once(longer_than(length), [*plain, *scientific, _LIST])
    return [
        *_at_once(longer_than(length), [*plain, _LIST]),
        *_at_once(EXPONENT, [*scientific, _LIST]),
    ]


def _at_once(comparison: str, narrower: Iterable[str]) -> list[Net]:
    """One net for all; none where there are none."""
    texts = list(dict.fromkeys(narrower))
    if len(texts) > _ENOUGH:
        texts = with_any_exponent(texts)
    if not texts:
        return []
    return [Net(comparison, tuple(texts) if len(texts) <= _ENOUGH else ())]


def _texts_of(value: Any, words: Words) -> tuple[list[str], list[str]] | None:
    """The usual texts of a value, and the rare ones."""
    match value:
        case str():
            # What would, stored as it is, be read as something else (`1`, `true`) is stored quoted.
            return ([words.equal_to(value)], [_QUOTED]) if decode(value) is value else ([_QUOTED], [])
        case re.Pattern():
            like = words.like(value)
            return None if like is None else ([like], [_QUOTED])
        case bool():
            return [f"= '{str(value).lower()}'"], [_LIST]
        case datetime():
            return [_DATED], [_LIST]
        case list() | ElemMatch():
            return [_LIST], []
    return None
