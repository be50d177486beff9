"""The query language: MongoDB's, parsed and checked whole before anything is asked or matched.

`parse` turns a query into a tree of `And`, `Or`, `Nor`, `Not` and `Condition`. A condition is one operator
on one path. Whatever MongoDB refuses is refused here, with the nearest valid word; what is parsed can be
matched (`withrun.query.match`) and planned (`withrun.query.plan`) without further checks.

What values mean is said in `withrun.query.operands`, what patterns mean in `withrun.query.regex`.

Beyond MongoDB's language, an entity, a handle or an identifier may stand where an entity is meant
(`{"exp": experiment}`, `{"exp": "3"}`), an entity where its identifier is (`{"exp.id": experiment}`), and a
`RunStatus` where its name is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, TypeAlias

from withrun.errors import InvalidArgument
from withrun.keys import shortened
from withrun.query.fields import REFERENCES, Kind, check_path, field_of, nearest
from withrun.query.operands import listed, pattern, readings
from withrun.query.order import MAX_DEPTH, REGEX, rank
from withrun.schema import RunStatus

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
_ELSEWHERE: Final = frozenset(
    {"$expr", "$where", "$text", "$jsonSchema", "$comment", "$type", "$mod", "$sampleRate", "$near"}
    | {"$bitsAllSet", "$bitsAnySet", "$bitsAllClear", "$bitsAnyClear", "$geoWithin", "$geoIntersects"}
)
"""Operators of MongoDB's that are not supported."""

_COMPARING: Final = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not"})
"""Operators that make sense for a number."""

_STATUSES: Final = tuple(status.value for status in RunStatus)


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
            raise InvalidArgument(f"{where:.60}… is nested over {MAX_DEPTH} levels deep, or within itself.")
        children: list[Node] = []
        for key, value in query.items():
            if not isinstance(key, str):
                raise InvalidArgument(
                    f"{where} has the key {key!r}, which is no string: fields are named by text."
                )
            if key in _COMBINING:
                children.append(_COMBINING[key](self._branches(key, value, where, depth)))
            elif key.startswith("$"):
                if key in _OPERATORS:
                    raise InvalidArgument(
                        f"{where}: {key} applies to a field, as in {{'name': {{{key!r}: …}}}}."
                    )
                known = [*_COMBINING, *(_OPERATORS if self.kind is None else ())]
                raise InvalidArgument(f"{where}: {_unknown(key, known)}")
            else:
                children.append(self.field(key, value, depth))
        return children[0] if len(children) == 1 else And(tuple(children))

    def _branches(self, operator: str, value: object, where: str, depth: int) -> tuple[Node, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidArgument(
                f"{where}: {operator} takes a list of at least one query, not {shortened(value)}."
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
            return Condition(path, "$regex", pattern(value, path))
        if self.kind is not None and isinstance(value, Mapping):
            _check_dollars(path, value)
        return self._comparison(path, "$eq", value, depth)

    def operators(self, path: str, spec: Any, depth: int) -> Node:
        """A conjunction of the operators in `spec`, all on one path."""
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"{path!r} is nested over {MAX_DEPTH} levels deep, or within itself.")
        conditions: list[Node] = []
        for operator, operand in spec.items():
            if operator not in _OPERATORS:
                raise InvalidArgument(f"{path!r}: {_unknown(str(operator), _OPERATORS)}")
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
                return Not(Condition(path, "$regex", pattern(operand, path)))
            if not isinstance(operand, Mapping) or not operand or not _has_operators(operand, path):
                raise InvalidArgument(
                    f"{asked} takes operators or a pattern, not {shortened(operand)}; use $ne for values."
                )
            return Not(self.operators(path, operand, depth + 1))
        if operator == "$regex":
            return Condition(path, "$regex", pattern(operand, path, spec.get("$options")))
        if operator == "$exists":
            if not isinstance(operand, (bool, int, float)):
                raise InvalidArgument(f"{asked} takes True or False, not {shortened(operand)}.")
            return Condition(path, operator, bool(operand))
        if operator == "$size":
            if (
                isinstance(operand, bool)
                or not isinstance(operand, (int, float))
                or operand != operand // 1
                or operand < 0
            ):
                raise InvalidArgument(f"{asked} takes a whole number from 0, not {shortened(operand)}.")
            return Condition(path, operator, int(operand))
        if operator in ("$in", "$nin", "$all"):
            given = listed(operand)
            if given is None:
                raise InvalidArgument(f"{asked} takes a list, not {shortened(operand)}.")
            members = [self._members(path, operator, item, depth) for item in given]
            if operator == "$all" and any(len(one) > 1 for one in members):
                return And(tuple(Condition(path, "$in" if one[1:] else "$all", one) for one in members))
            items = [value for one in members for value in one]
            self._check_status(path, operator, items)
            return Condition(path, operator, items)
        if operator == "$elemMatch":
            return Condition(path, operator, self._element(path, operand, depth))
        return self._comparison(path, operator, operand, depth)

    def _comparison(self, path: str, operator: str, operand: Any, depth: int) -> Node:
        """`$eq`, `$ne`, or an operator of order, with all that the operand may stand for."""
        order = operator not in ("$eq", "$ne")
        values = readings(operand, path, depth, logged=self._is_logged(path), order=order)
        if operator != "$eq" and rank(values[0]) == REGEX:
            raise InvalidArgument(
                f"{path!r}: {operator} can't take a pattern; use $regex, and $not to negate it."
            )
        self._check_status(path, operator, values)
        if len(values) == 1:
            return Condition(path, operator, values[0])
        if order:
            return Or(tuple(Condition(path, operator, value) for value in values))
        return Condition(path, "$in" if operator == "$eq" else "$nin", values)

    def _is_logged(self, path: str) -> bool:
        """Whether the path leads to what was logged as a param or tag."""
        return self.kind is None or field_of(path) in ("params", "tags")

    def _check_status(self, path: str, operator: str, values: list[Any]) -> None:
        """Refuse to look for a status that no run can have."""
        if self.kind is None or field_of(path) != "status" or operator not in ("$eq", "$ne", "$in", "$nin"):
            return
        for value in values:
            if isinstance(value, str) and value not in _STATUSES:
                near = value.upper() if value.upper() in _STATUSES else value
                raise InvalidArgument(
                    f"{path!r}: no run has the status {value!r}; {nearest(near, _STATUSES)}"
                )

    def _members(self, path: str, operator: str, item: Any, depth: int) -> list[Any]:
        """What one item of a list stands for."""
        if isinstance(item, Mapping) and _has_operators(item, path):
            if operator == "$all" and list(item) == ["$elemMatch"]:
                return [self._element(path, item["$elemMatch"], depth)]
            raise InvalidArgument(f"{path!r}: {operator} takes values, not the operators {shortened(item)}.")
        if isinstance(item, re.Pattern):
            return [pattern(item, path)]
        return readings(item, path, depth, logged=self._is_logged(path))

    def _element(self, path: str, operand: Any, depth: int) -> ElemMatch:
        if not isinstance(operand, Mapping):
            raise InvalidArgument(f"{path!r}: $elemMatch takes a query, not {shortened(operand)}.")
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
            f"{path!r} mixes operators and plain keys in {shortened(value)}; use one or the other."
        )
    return dollars[0]


def _unknown(operator: str, known: Iterable[str]) -> str:
    """What to say of an operator that is not there."""
    if operator in _ELSEWHERE:
        return f"MongoDB's {operator} is not supported here. Supported: {', '.join(sorted(known))}."
    return f"no operator {operator!r}; {nearest(operator, known)}"


def _check_dollars(path: str, document: Mapping[Any, Any]) -> None:
    """Refuse a document whose keys are operators but for the dollar sign, where there can't be one."""
    named = field_of(path)
    if named in ("params", "tags", *REFERENCES) or not document:
        return
    operators = [f"${key}" for key in document]
    if not all(operator in (_COMPARING if named == "metrics" else _OPERATORS) for operator in operators):
        return
    meant = ", ".join(f"{operator!r}: …" for operator in operators)
    below = f"{path}.{next(iter(document))}"
    instead = f"; a metric of that name is {below!r}" if named == "metrics" else ""
    raise InvalidArgument(
        f"{path!r} is compared with the document {shortened(document)}; operators begin with a dollar sign: "
        f"{{{meant}}}{instead}."
    )


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
