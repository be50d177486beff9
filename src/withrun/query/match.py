"""Matching documents: a parsed query compiled once to a function, with MongoDB's semantics.

Why not a library. Measured in November 2026 on 5,000 run documents and a query of five conditions, and on a
table of MongoDB's documented answers (`tests/query/test_match.py`):

| library | time | wrong answers |
|---|---|---|
| mgqpy 1.0.3 | 7 ms | takes a text for a date when compared with one; finds no key that holds a dot |
| mongomock 4.3 | 50 ms | bool = number, NaN, `$gte: None`, arrays in `$in`, empty `$all`, keys with a dot |
| mongoquery 1.4.3 | 48 ms | most of these, and `{"a": None}` on what is missing, `$options` |
| montydb 2.5.6 | 200 ms | NaN, `$gte: None`, keys with a dot; fails on an empty `$all` |

mgqpy is checked against real MongoDB servers by its authors and is very good; the tests hold this module
against it. It does not serve here because of the two named answers, and because nothing of it can be used
to sort: a sort needs the same order of values (`withrun.query.order`), and matching is little more than that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from withrun.query.language import And, Condition, ElemMatch, Node, Nor, Not, Or
from withrun.query.order import MISSING, NULL, NUMBER, STRING, order_key, rank
from withrun.query.paths import Reached, resolver
from withrun.query.previews import (
    PreviewText,
    Undecided,
    document_may_pass,
    may_be_array,
    may_pass,
    preview_in,
)

__all__ = ["Predicate", "compile_query"]

Predicate: TypeAlias = Callable[[Any], bool]

_SELF: Final = ""
"""The path of a condition on an element itself, inside `$elemMatch`."""


def compile_query(node: Node) -> Predicate:
    """A function that says whether a document matches.

    It raises `Undecided` for a document with a long value, of which the preview does not tell.
    """
    match node:
        case And(children):
            return _all([compile_query(child) for child in children])
        case Or(children):
            return _any([compile_query(child) for child in children])
        case Nor(children):
            return _not(_any([compile_query(child) for child in children]))
        case Not(child):
            return _not(compile_query(child))
        case Condition():
            return _condition(node)


def _all(tests: list[Predicate]) -> Predicate:
    def run(document: Any) -> bool:
        undecided = None
        for test in tests:
            try:
                if not test(document):
                    return False
            except Undecided as exc:  # noqa: PERF203 - another may be false, and this one need not be known
                undecided = undecided or exc
        if undecided:
            raise undecided
        return True

    return run


def _any(tests: list[Predicate]) -> Predicate:
    def run(document: Any) -> bool:
        undecided = None
        for test in tests:
            try:
                if test(document):
                    return True
            except Undecided as exc:  # noqa: PERF203 - another may be true, and this one need not be known
                undecided = undecided or exc
        if undecided:
            raise undecided
        return False

    return run


def _not(test: Predicate) -> Predicate:
    return lambda document: not test(document)


def _condition(condition: Condition) -> Predicate:
    operator, operand = condition.operator, condition.operand
    if operator in ("$ne", "$nin"):
        positive = "$eq" if operator == "$ne" else "$in"
        return _not(_condition(Condition(condition.path, positive, operand)))
    if operator == "$all":
        return _all([_condition(_required(condition.path, item)) for item in operand]) if operand else _never
    if operator == "$exists":
        exists = _on_whole(condition.path, lambda value: value is not MISSING, of_arrays=False)
        return exists if operand else _not(exists)
    if operator == "$size":
        return _on_whole(condition.path, lambda value: _is_array(value) and len(value) == operand)
    if operator == "$elemMatch":
        return _on_whole(condition.path, _element_test(operand))
    return _on_values(condition)


def _required(path: str, item: Any) -> Condition:
    """What `$all` asks of one item of its list."""
    if isinstance(item, ElemMatch):
        return Condition(path, "$elemMatch", item)
    return Condition(path, "$regex" if isinstance(item, re.Pattern) else "$eq", item)


def _never(_: Any) -> bool:
    return False


def _is_array(value: Any) -> bool:
    return isinstance(value, (list, tuple))


# --- from a path to what it reaches ---


def _on_values(condition: Condition) -> Predicate:
    """A predicate true if any value at the path passes: an array's elements, and the array as a whole."""
    operator, operand = condition.operator, condition.operand
    test = _value_test(operator, operand)
    if condition.path == _SELF:
        return test
    reach = resolver(condition.path)

    def run(document: Any) -> bool:
        for value, expand in reach(document):
            if type(value) is PreviewText:
                if may_pass(value, operator, operand):
                    raise Undecided(value)
            elif type(value) is dict and (inside := preview_in(value)) is not None:
                if document_may_pass(value, operator, operand):
                    raise Undecided(inside)
            elif test(value):
                return True
            elif expand and type(value) in (list, tuple):
                for item in value:
                    if test(item):
                        return True
        return False

    return run


def _on_whole(path: str, test: Predicate, *, of_arrays: bool = True) -> Predicate:
    """A predicate true if any value at the path passes, arrays taken as one value only."""
    if path == _SELF:
        return test
    reach = resolver(path)

    def run(document: Any) -> bool:
        found: list[Reached] = reach(document)
        for value, _ in found:
            if of_arrays and type(value) is PreviewText and may_be_array(value):
                raise Undecided(value)
        return any(test(value) for value, _ in found)

    return run


# --- tests on one value ---


def _element_test(operand: ElemMatch) -> Predicate:
    test = compile_query(operand.node)
    if not operand.as_document:
        return lambda value: _is_array(value) and any(test(item) for item in value)

    def run(value: Any) -> bool:
        if not _is_array(value):
            return False
        for item in value:
            # An array inside an array is a document whose fields are numbers.
            document = dict(zip(map(str, range(len(item))), item, strict=True)) if _is_array(item) else item
            if isinstance(document, Mapping) and test(document):
                return True
        return False

    return run


def _value_test(operator: str, operand: Any) -> Predicate:
    if operator == "$regex":
        search = operand.search
        return lambda value: isinstance(value, str) and search(value) is not None
    if operator == "$in":
        return _member_test(operand)
    if operator == "$eq":
        return _equal_test(operand)
    return _range_test(operator, operand)


def _member_test(operand: list[Any]) -> Predicate:
    patterns = [item.search for item in operand if isinstance(item, re.Pattern)]
    keys = {order_key(item) for item in operand if not isinstance(item, re.Pattern)}

    def run(value: Any) -> bool:
        if order_key(value) in keys:
            return True
        return bool(patterns) and isinstance(value, str) and any(search(value) for search in patterns)

    return run


def _equal_test(operand: Any) -> Predicate:
    key = order_key(operand)
    place = key[0]
    if place == NULL:
        return lambda value: value is None or value is MISSING
    if place == STRING:
        return lambda value: value == operand if isinstance(value, str) else False
    return lambda value: rank(value) == place and order_key(value) == key


def _range_test(operator: str, operand: Any) -> Predicate:
    """Tests of order hold between values of one kind only; NaN is in no order with numbers."""
    key = order_key(operand)
    place = key[0]
    if place == NUMBER and key != (NUMBER, 0):
        return _number_range(operator, operand)
    if place == NULL or key == (NUMBER, 0):
        return _equal_test(operand) if operator in ("$gte", "$lte") else _never
    compare: dict[str, Callable[[Any], bool]] = {
        "$gt": lambda other: other > key,
        "$gte": lambda other: other >= key,
        "$lt": lambda other: other < key,
        "$lte": lambda other: other <= key,
    }
    passes = compare[operator]
    return lambda value: rank(value) == place and passes(order_key(value))


def _number_range(operator: str, bound: Any) -> Predicate:
    # The most frequent test, so without the key; every comparison with NaN is false, as it has to be.
    def number(value: Any) -> bool:
        return type(value) is float or type(value) is int or (rank(value) == NUMBER)

    tests: dict[str, Predicate] = {
        "$gt": lambda value: number(value) and value > bound,
        "$gte": lambda value: number(value) and value >= bound,
        "$lt": lambda value: number(value) and value < bound,
        "$lte": lambda value: number(value) and value <= bound,
    }
    return tests[operator]
