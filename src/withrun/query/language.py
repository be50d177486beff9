"""The query language: MongoDB's, parsed and checked whole before anything is asked or matched.

`parse` turns a query into a tree of `And`, `Or`, `Nor`, `Not` and `Condition`. A condition is one operator
on one path. Whatever MongoDB refuses is refused here, with the nearest valid word; what is parsed can be
matched (`withrun.query.match`) and planned (`withrun.query.plan`) without further checks.

Beyond MongoDB's language, an entity, a handle or an identifier may stand where an entity is meant
(`{"exp": experiment}`, `{"exp": "3"}`), an entity where its identifier is (`{"exp.id": experiment}`), and a
`RunStatus` where its name is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from itertools import takewhile
from typing import Any, Final, TypeAlias

from withrun.errors import InvalidArgument
from withrun.query.fields import REFERENCES, Kind, check_path, nearest
from withrun.query.order import MAX_DEPTH, REGEX, aware, rank

__all__ = ["And", "Condition", "ElemMatch", "Node", "Nor", "Not", "Or", "parse"]


@dataclass(frozen=True)
class Condition:
    """One operator on one path.

    Attributes:
        path: dotted; empty where the operator applies to an array's element itself (inside `$elemMatch`).
        operator: with its dollar sign. `$regex` has a compiled pattern as operand.
        operand: checked and normalised: datetimes aware, enums as their values, tuples as lists.
    """

    path: str
    operator: str
    operand: Any


@dataclass(frozen=True)
class And:
    """All of these; with none, everything matches."""

    children: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """At least one of these."""

    children: tuple[Node, ...]


@dataclass(frozen=True)
class Nor:
    """None of these."""

    children: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    """All that this does not match."""

    child: Node


@dataclass(frozen=True)
class ElemMatch:
    """The operand of `$elemMatch`: what one element has to match, as a document or as a plain value."""

    node: Node
    as_document: bool


Node: TypeAlias = "And | Or | Nor | Not | Condition"

_COMBINING: Final[dict[str, type[And | Or | Nor]]] = {"$and": And, "$or": Or, "$nor": Nor}
_OPERATORS: Final = frozenset(
    {"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$regex", "$options"}
    | {"$not", "$all", "$size", "$elemMatch"}
)
_FLAGS: Final = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE, "u": re.UNICODE}


def parse(query: Mapping[str, Any] | None, kind: Kind) -> Node:
    """Check a query on one kind of entity and return its tree.

    Raises:
        InvalidArgument: an unknown field or operator, or an operand that the operator can't take; says where.
    """
    return _Parser(kind).document({} if query is None else query, "query", 0)


class _Parser:
    """Parses documents; inside `$elemMatch` (`kind` None) every field is allowed."""

    def __init__(self, kind: Kind | None) -> None:
        self.kind = kind

    def document(self, query: object, where: str, depth: int) -> Node:
        if not isinstance(query, Mapping):
            raise InvalidArgument(f"{where} is a {type(query).__name__}; give a dict, such as {_EXAMPLE}.")
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"{where} is nested over {MAX_DEPTH} levels deep, or within itself.")
        children: list[Node] = []
        for key, value in query.items():
            if not isinstance(key, str):
                raise InvalidArgument(
                    f"{where} has the key {key!r}, which is no string: fields are named by text."
                )
            if key in _COMBINING:
                children.append(_COMBINING[key](self._branches(key, value, where, depth)))
            elif key.startswith("$"):
                known = [*_COMBINING, *(_OPERATORS if self.kind is None else ())]
                hint = (
                    f"{key} applies to a field, as in {{'name': {{{key!r}: …}}}}."
                    if key in _OPERATORS
                    else ""
                )
                raise InvalidArgument(f"{where}: {hint or f'no operator {key!r}; ' + nearest(key, known)}")
            else:
                children.append(self.field(key, value, depth))
        return children[0] if len(children) == 1 else And(tuple(children))

    def _branches(self, operator: str, value: object, where: str, depth: int) -> tuple[Node, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidArgument(
                f"{where}: {operator} takes a list of at least one query, not {_short(value)}."
            )
        return tuple(self.document(v, f"{where} {operator}[{i}]", depth + 1) for i, v in enumerate(value))

    def field(self, path: str, value: object, depth: int) -> Node:
        """What one entry of a query document says: operators, or a value to equal."""
        if self.kind is not None:
            check_path(path, self.kind)
            path, value = _dereferenced(path, value)
        if _has_operators(value, path):
            return self.operators(path, value, depth)
        if isinstance(value, re.Pattern):
            return Condition(path, "$regex", _pattern(value, path))
        return Condition(path, "$eq", _normal(value, path, depth))

    def operators(self, path: str, spec: Any, depth: int) -> Node:
        """A conjunction of the operators in `spec`, all on one path."""
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"{path!r} is nested over {MAX_DEPTH} levels deep, or within itself.")
        conditions: list[Node] = []
        for operator, operand in spec.items():
            if operator not in _OPERATORS:
                raise InvalidArgument(
                    f"{path!r}: no operator {operator!r}; {nearest(str(operator), _OPERATORS)}"
                )
            if operator == "$options":
                if "$regex" not in spec:
                    raise InvalidArgument(
                        f"{path!r}: $options is given without the $regex that it belongs to."
                    )
                continue
            conditions.append(self._operator(path, operator, operand, spec, depth))
        return conditions[0] if len(conditions) == 1 else And(tuple(conditions))

    def _operator(self, path: str, operator: str, operand: Any, spec: Any, depth: int) -> Node:
        asked = f"{path!r}: {operator}"
        if operator == "$not":
            if isinstance(operand, re.Pattern):
                return Not(Condition(path, "$regex", _pattern(operand, path)))
            if not isinstance(operand, Mapping) or not operand or not _has_operators(operand, path):
                raise InvalidArgument(
                    f"{asked} takes operators or a pattern, not {_short(operand)}; use $ne for values."
                )
            return Not(self.operators(path, operand, depth + 1))
        if operator == "$regex":
            return Condition(path, "$regex", _pattern(operand, path, spec.get("$options")))
        if operator == "$exists":
            if not isinstance(operand, (bool, int, float)):
                raise InvalidArgument(f"{asked} takes True or False, not {_short(operand)}.")
            return Condition(path, operator, bool(operand))
        if operator == "$size":
            if (
                isinstance(operand, bool)
                or not isinstance(operand, (int, float))
                or operand != operand // 1
                or operand < 0
            ):
                raise InvalidArgument(f"{asked} takes a whole number from 0, not {_short(operand)}.")
            return Condition(path, operator, int(operand))
        if operator in ("$in", "$nin", "$all"):
            if isinstance(operand, (set, frozenset)):
                operand = sorted(operand, key=repr)
            if not isinstance(operand, (list, tuple)):
                raise InvalidArgument(f"{asked} takes a list, not {_short(operand)}.")
            items = [self._member(path, operator, item, depth) for item in operand]
            return Condition(path, operator, items)
        if operator == "$elemMatch":
            return Condition(path, operator, self._element(path, operand, depth))
        value = _normal(operand, path, depth)
        if operator != "$eq" and rank(value) == REGEX:
            raise InvalidArgument(f"{asked} can't take a pattern; use $regex, and $not to negate it.")
        return Condition(path, operator, value)

    def _member(self, path: str, operator: str, item: Any, depth: int) -> Any:
        if isinstance(item, Mapping) and _has_operators(item, path):
            if operator == "$all" and list(item) == ["$elemMatch"]:
                return self._element(path, item["$elemMatch"], depth)
            raise InvalidArgument(f"{path!r}: {operator} takes values, not the operators {_short(item)}.")
        return _pattern(item, path) if isinstance(item, re.Pattern) else _normal(item, path, depth)

    def _element(self, path: str, operand: Any, depth: int) -> ElemMatch:
        if not isinstance(operand, Mapping):
            raise InvalidArgument(f"{path!r}: $elemMatch takes a query, not {_short(operand)}.")
        inner = _Parser(None)
        if operand and _has_operators(operand, path, but=_COMBINING):
            return ElemMatch(inner.operators("", operand, depth + 1), as_document=False)
        return ElemMatch(inner.document(operand, f"{path!r} $elemMatch", depth + 1), as_document=True)


_NAMING: Final = frozenset({"$eq", "$ne", "$in", "$nin", "$not"})
"""Operators that may compare with entities."""

_EXAMPLE: Final = "{'metrics.loss': {'$lt': 0.1}}"


def _has_operators(value: object, path: str, but: Mapping[str, object] | None = None) -> bool:
    """Whether a dict holds operators rather than being a document to equal; a mixture is an error."""
    if not isinstance(value, Mapping) or not value:
        return False
    dollars = [isinstance(key, str) and key.startswith("$") and key not in (but or ()) for key in value]
    if any(dollars) and not all(dollars):
        raise InvalidArgument(
            f"{path!r} mixes operators and plain keys in {_short(value)}; use one or the other."
        )
    return dollars[0]


def _dereferenced(path: str, value: Any) -> tuple[str, Any]:
    """Rewrite a comparison with entities, or with what identifies them, to one of identifiers."""
    references = list(takewhile(REFERENCES.__contains__, path.split(".")))
    if not references:
        return path, value
    attribute = REFERENCES[references[-1]]
    by_name = ".".join((*references, attribute))
    named = _named(value, attribute) if path in (by_name, ".".join(references)) else None
    return (path, value) if named is None else (by_name, named)


def _named(value: Any, attribute: str) -> Any:
    """What identifies the entities that are compared with; None if some of it names no entity."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_named(item, attribute) for item in value]
        return items if items and None not in items else None
    if isinstance(value, Mapping):
        operands = {operator: _named(value[operator], attribute) for operator in value if operator in _NAMING}
        named = len(operands) == len(value) > 0 and None not in operands.values()
        return operands if named else None
    return getattr(value, attribute, None)


def _pattern(value: object, path: str, options: object = None) -> re.Pattern[str]:
    """Compile the operand of `$regex` with its `$options`."""
    if options is None:
        options = ""
    if not isinstance(options, str) or not set(options) <= set(_FLAGS):
        raise InvalidArgument(
            f"{path!r}: $options takes a text of the letters {', '.join(_FLAGS)}, not {_short(options)}."
        )
    flags = 0
    for letter in options:
        flags |= _FLAGS[letter]
    source: object = value
    if isinstance(value, re.Pattern):
        source = value.pattern
        flags |= value.flags
    if not isinstance(source, str):
        raise InvalidArgument(
            f"{path!r}: $regex takes a text or a compiled pattern of text, not {_short(value)}."
        )
    try:
        return re.compile(source, flags)
    except (re.error, ValueError, RecursionError, OverflowError) as exc:
        raise InvalidArgument(f"{path!r}: {source!r} is no regular expression: {exc}.") from exc


def _normal(value: Any, path: str, depth: int) -> Any:
    """The value in the types that documents hold; `InvalidArgument` for one that no document holds."""
    if depth > MAX_DEPTH:
        raise InvalidArgument(
            f"the value for {path!r} is nested over {MAX_DEPTH} levels deep, or within itself."
        )
    if isinstance(value, Enum):
        return _normal(value.value, path, depth + 1)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, date):
        try:
            return aware(value)
        except (OverflowError, OSError, ValueError) as exc:
            raise InvalidArgument(f"{path!r}: {value!r} is no moment that can be told: {exc}.") from exc
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InvalidArgument(f"{path!r}: the document {_short(value)} has keys that are no strings.")
        return {str(key): _normal(item, path, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normal(item, path, depth + 1) for item in value]
    if isinstance(value, re.Pattern):
        return value
    for convert in (int, float, str):
        if isinstance(value, convert):
            return convert(value)
    # Scalars and arrays of numpy and its kin, asked by what they can do, so that none is imported.
    to_list = getattr(value, "tolist", None)
    if callable(to_list) and not isinstance(value, type):
        return _normal(to_list(), path, depth + 1)
    raise InvalidArgument(
        f"{path!r} is compared with {_short(value)} of type {type(value).__name__}, which no field can hold; "
        "use text, numbers, booleans, None, datetimes, lists or dicts of these."
    )


def _short(value: object, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
