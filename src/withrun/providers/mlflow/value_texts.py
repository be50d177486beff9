"""The texts under which a store may hold the value of a param or tag, as comparisons of MLflow's grammar.

One value has many texts: `adam` is also `"adam"`, and 0.1 also 1e-1, as other tools write them; and as
MongoDB's queries look into lists, so may a list that holds the value. Each comparison is put behind a column.
All of them together find every text that may pass a condition; what else they find is sorted out on the
results.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from withrun.providers.mlflow.filter_words import Words
from withrun.providers.mlflow.number_texts import number_texts, with_any_exponent
from withrun.query.language import Condition, ElemMatch
from withrun.values import decode

__all__ = ["texts_for"]

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


def texts_for(condition: Condition, words: Words) -> list[str] | None:
    """Comparisons that find every text that may pass; None if there are no words for one of them."""
    operator, operand = condition.operator, condition.operand
    if operator in ("$size", "$elemMatch"):
        return [_LIST]
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        return [_DATED, _LIST] if isinstance(operand, datetime) else None
    if operator not in ("$eq", "$regex", "$in", "$all"):
        return None
    items = operand if operator == "$in" else operand[:1] if operator == "$all" else [operand]
    if len(items) > _ENOUGH:
        return None
    found: dict[str, None] = {}
    for item in items:
        texts = _texts_of(item, words)
        if texts is None:
            return None
        found.update(dict.fromkeys(texts))
    return list(found) if len(found) <= _ENOUGH else with_any_exponent(found)


def _texts_of(value: Any, words: Words) -> list[str] | None:
    match value:
        case str():
            # What would, stored as it is, be read as something else (`1`, `true`) is stored quoted.
            return [words.equal_to(value), _QUOTED] if decode(value) is value else [_QUOTED]
        case re.Pattern():
            like = words.like(value)
            return None if like is None else [like, _QUOTED]
        case bool():
            return [f"= '{str(value).lower()}'", _LIST]
        case int() | float():
            texts = number_texts(value)
            return None if texts is None else [*texts, _LIST]
        case datetime():
            return [_DATED, _LIST]
        case list() | ElemMatch():
            return [_LIST]
    return None
