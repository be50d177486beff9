"""Generated documents and queries, for the tests that compare two ways to an answer."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from hypothesis import strategies as st

UTC = dt.timezone.utc
KEYS = ("a", "b", "0")
PATHS = ("a", "b", "a.b", "a.0", "a.b.a", "b.0.a", "a.0.b", "a.0.0", "c")

numbers = st.sampled_from(
    [
        0,
        1,
        -1,
        2,
        0.0,
        0.5,
        -0.5,
        2**53,
        2**53 + 1,
        float(2**53),
        1e300,
        10**400,
        math.nan,
        math.inf,
        -math.inf,
    ]
)
texts = st.sampled_from(["", "a", "A", "ab", "b", "ba", "é", "x\ny", "1"])
moments = st.sampled_from([dt.datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2)])
scalars: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), numbers, texts)


def in_key_order(value: Any) -> Any:
    """The same value with the keys of every document in order, since withrun does not mind their order."""
    if isinstance(value, dict):
        return {key: in_key_order(value[key]) for key in sorted(value)}
    return [in_key_order(item) for item in value] if isinstance(value, list) else value


values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=3).map(in_key_order),
    ),
    max_leaves=6,
)
documents = st.dictionaries(st.sampled_from(KEYS), values, max_size=3).map(in_key_order)

patterns = st.sampled_from(["^a", "a", "b$", "^A", "[", "^x.y", "1", ""]).filter(lambda p: p != "[")


def _one(operator: str, operand: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return operand.map(lambda value: {operator: value})


def operators(operand: st.SearchStrategy[Any], depth: int = 1) -> st.SearchStrategy[dict[str, Any]]:
    """Operators on one field, with operands drawn from `operand`."""
    choices = [_one(name, operand) for name in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")]
    choices += [_one(name, st.lists(operand, max_size=3)) for name in ("$in", "$nin", "$all")]
    choices += [
        _one("$exists", st.booleans()),
        _one("$size", st.integers(0, 3)),
        _one("$regex", patterns),
        patterns.map(lambda pattern: {"$regex": pattern, "$options": "i"}),
    ]
    if depth:
        inner = operators(operand, depth - 1)
        choices += [_one("$not", inner), _one("$elemMatch", inner)]
        choices.append(
            _one("$elemMatch", st.dictionaries(st.sampled_from(["a", "b", "a.b"]), inner, max_size=2))
        )
    return st.one_of(choices)


def queries(
    paths: st.SearchStrategy[str], operand: st.SearchStrategy[Any], depth: int = 2
) -> st.SearchStrategy[dict[str, Any]]:
    """Whole queries over those paths, combining up to `depth` levels."""
    plain = operand.filter(lambda value: not isinstance(value, dict))
    leaf = st.dictionaries(paths, st.one_of(plain, operators(operand)), max_size=2)
    if not depth:
        return leaf
    inner = st.lists(queries(paths, operand, depth - 1), min_size=1, max_size=3)
    return st.one_of(leaf, leaf, *(_one(name, inner) for name in ("$and", "$or", "$nor")))
