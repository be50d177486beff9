"""MLflow's filter grammar: which conditions of a query its search can answer, and in which words.

The rules come from trying them on real stores (`tests/query/test_pushdown.py` holds most of them):

- Params and tags are compared as text, and one value has many texts (`value_texts.py`). So a value is asked
  for in several searches, one for each way to write it; where there are no patterns for these (`$lt` of a
  number), the search is narrowed to what has the key.
- A nested path may lead into a JSON document that is stored whole under the beginning of the path, so that
  this key is asked for too.
- `!=` leaves out what lacks the key, which `$ne` includes; so it is used for attributes alone.
- `%` and `_` can't be escaped, which finds more, never less. Quotes, backslashes (an escape for some
  databases), brackets (a class for others) and what is not printable are replaced by `%`.
- SQLite's LIKE sees no further in a text than U+0000, which withrun itself stores under `mlflow.` keys alone:
  there a pattern that is not anchored is left to the evaluation, elsewhere it is not (`filter_words.py`).
- ILIKE folds ASCII alone on SQLite, and Python folds `K` (Kelvin) to `k`; both are replaced by `%`.
- Metrics are compared as doubles, on their last value; an integer that is no double is asked for by `>=`.
- `run_name` is compared with the tag `mlflow.runName`, which can be deleted and leaves the name.
- Ordering puts NULL last both ways, and strings by the database's collation; so only times and metrics are
  ordered, where the query excludes what is missing, or where NULL belongs last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Final
from urllib.parse import quote

from withrun.backend import FilterGrammar
from withrun.providers.mlflow.filter_words import Words, literal_beginning
from withrun.providers.mlflow.value_texts import Net, texts_for
from withrun.query.fields import Kind
from withrun.query.language import Condition
from withrun.query.pushing import EVERYTHING, Conjunction, NoPush, Pushed
from withrun.query.sorting import Sorting

__all__ = ["MlflowPushDown"]

MAX_BRANCHES: Final = 20
"""Searches that one condition may become."""

_MAX_CONDITIONS: Final = 20
"""Each is a join, and MySQL takes 61 tables in one, SQLite's compound of MLflow 200."""

_MAX_FILTER: Final[dict[Kind, int]] = {
    "runs": 50_000,
    "experiments": 50_000,
    "models": 3_500,
    "versions": 3_500,
}
"""Bytes of a filter on the wire. The registry's searches are GET requests: MLflow 2 takes lines of 4,094."""

_IN_A_URL: Final = frozenset({"models", "versions"})

_RAW: Final = "mlflow."
_LEGAL_KEY: Final = re.compile(r"[/\w.\- :]+")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_PROMPT_TAG: Final = "mlflow.prompt.is_prompt"

_COMPARISONS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class MlflowPushDown:
    """What the search of an MLflow store can answer; the store's version decides a few things."""

    def __init__(self, grammar: FilterGrammar) -> None:
        self.grammar = grammar
        self._words = Words(like_spans_lines=grammar.like_spans_lines)

    def __repr__(self) -> str:
        return f"MlflowPushDown({self.grammar.name!r})"

    # --- the protocol ---

    def condition(self, condition: Condition, kind: Kind) -> Pushed | NoPush:
        """What to ask for one condition."""
        if condition.operator in ("$in", "$all") and not condition.operand:
            return Pushed((), exact=True, why="an empty list matches nothing")
        group, _, key = condition.path.partition(".")
        if group == "tags" or (kind == "runs" and group in ("params", "metrics")):
            if not key:
                return NoPush(f"the store has no order of {group} and can't compare them whole")
            if not _LEGAL_KEY.fullmatch(key):
                return NoPush("no store takes this key")
            if key == _PROMPT_TAG and kind in ("models", "versions"):
                return NoPush("asking for this tag would make MLflow search prompts instead of models")
            return (
                self._metric(condition, key)
                if group == "metrics"
                else self._text(condition, group, key, kind)
            )
        return self._attribute(condition, kind)

    def order(self, sorting: Sorting, numbers: Collection[str], kind: Kind) -> tuple[str, ...] | NoPush:
        """The store's words for a sorting of runs by times and metrics."""
        if kind != "runs":
            return NoPush(f"MLflow can't order {kind} by this")
        words = []
        for path, direction in sorting:
            group, _, key = path.partition(".")
            down = direction < 0
            if path == "start_time" or (path == "end_time" and (down or path in numbers)):
                column = f"attributes.{path}"
            elif path == "end_time":
                return NoPush("runs without an end_time would come last instead of first")
            elif group == "metrics" and key and _LEGAL_KEY.fullmatch(key):
                if path not in numbers:
                    return NoPush(
                        f"MLflow puts runs without a number at {path} last; a condition on it, such as "
                        f"{{'{path}': {{'$gt': …}}}}, would let the store do it"
                    )
                column = f"metrics.`{key}`"
            else:
                return NoPush(f"the store orders {path} as text, by its own collation")
            words.append(f"{column} {'DESC' if down else 'ASC'}")
        return tuple(words)

    def fits(self, conjunction: Conjunction, kind: Kind) -> Conjunction:
        """The conjunction, cut to what one search takes; what is left out is evaluated on the results."""
        kept: list[str] = []
        length = 0
        for clause in sorted(conjunction.conditions, key=lambda text: (len(text), text)):
            sent = quote(f" AND {clause}", safe="") if kind in _IN_A_URL else f" AND {clause}"
            length += len(sent.encode())
            if len(kept) == _MAX_CONDITIONS or length > _MAX_FILTER[kind]:
                break
            kept.append(clause)
        return Conjunction(frozenset(kept), conjunction.experiments)

    def text(self, conjunction: Conjunction) -> str:
        """The filter string of a search."""
        return " AND ".join(sorted(conjunction.conditions))

    # --- attributes ---

    def _attribute(self, condition: Condition, kind: Kind) -> Pushed | NoPush:
        path, operator, operand = condition.path, condition.operator, condition.operand
        if kind == "runs" and path == "exp.id":
            wanted = _texts(operator, operand)
            if wanted is None:
                return NoPush("experiments are named to the store by ID")
            return Pushed((Conjunction(experiments=frozenset(wanted)),), exact=True)
        if kind == "runs" and path in ("start_time", "end_time"):
            return _time(condition)
        if kind == "runs" and path == "status":
            return _status(condition)
        if (kind, path) in (("runs", "id"), ("versions", "run.id")):
            return _identifier(condition)
        if (kind, path) == ("versions", "version"):
            return _version(condition)
        column = {"runs": "attributes.run_name", "experiments": "name", "models": "name"}.get(kind)
        if column and path == "name":
            return self._name(condition, column)
        if (kind, path) == ("versions", "model.name"):
            return self._name(condition, "name")
        return NoPush(f"MLflow's search of {kind} does not know {path}")

    def _name(self, condition: Condition, column: str) -> Pushed | NoPush:
        clauses = self._clauses(column, condition)
        if clauses is None:
            return NoPush(f"{condition.operator} on a name has no words in MLflow's grammar")
        exact = all(clause.startswith(f"{column} = ") for clause in clauses)
        if column == "attributes.run_name" and self.grammar.null_checks:
            # A run keeps its name when the tag that is searched is deleted.
            unnamed = _clause(f"tags.`{_RAW}runName` IS NULL")
            return _pushed(clauses, [unnamed], why="a run's name tag may be deleted")
        return _pushed(clauses, exact=exact, why="" if exact else "a pattern finds more")

    def _clauses(self, column: str, condition: Condition) -> list[str] | None:
        """Alternatives for a column that holds plain text; None if there are no words for the condition."""
        operator, operand = condition.operator, condition.operand
        if operator == "$all":
            operator, operand = ("$regex" if isinstance(operand[0], re.Pattern) else "$eq"), operand[0]
        if operator == "$eq" and isinstance(operand, str):
            return [f"{column} {self._words.equal_to(operand)}"]
        if operator == "$regex":
            like = self._words.like(operand)
            return None if like is None else [f"{column} {like}"]
        if operator == "$in" and len(operand) <= MAX_BRANCHES:
            parts = [self._member(column, item) for item in operand]
            return None if None in parts else [part for part in parts if part is not None]
        return None

    def _member(self, column: str, item: Any) -> str | None:
        if isinstance(item, str):
            return f"{column} {self._words.equal_to(item)}"
        like = self._words.like(item) if isinstance(item, re.Pattern) else None
        return None if like is None else f"{column} {like}"

    # --- params and tags ---

    def _text(self, condition: Condition, group: str, key: str, kind: Kind) -> Pushed | NoPush:
        operator, operand = condition.operator, condition.operand
        column = f"{group}.`{key}`"
        if operator == "$exists" and not operand:
            if kind == "runs" and self.grammar.null_checks:
                nested = "keys nested below it count too"
                return _pushed([f"{column} IS NULL"], why=nested)
            return NoPush("the store can't be asked for what is missing")
        reason = _unpushable(operator, operand)
        if reason:
            return NoPush(reason)
        has_key = f"{column} LIKE '%'"
        prefixes = [f"{group}.`{prefix}` LIKE '%'" for prefix in _prefixes(key)]
        weaker = EVERYTHING if prefixes else Conjunction(frozenset({has_key}))
        if key.startswith(_RAW):
            # A long text is kept as its beginning, and what withrun stores here may hold U+0000, behind which
            # SQLite's LIKE does not look: so a pattern is not asked for that may be anywhere in the text.
            raw = None if _looks_inside(condition) else self._clauses(column, condition)
            if raw is not None:
                exact = not prefixes and all(clause.startswith(f"{column} = ") for clause in raw)
                why = "a document may be stored whole"
                return _pushed(raw, map(_clause, prefixes), exact=exact, why=why, weaker=weaker)
        elif self.grammar.like_spans_lines:
            texts = texts_for(condition, self._words)
            if texts is not None:
                usual = [f"{column} {text}" for text in texts.usual]
                rare = [_net(column, net) for net in texts.rare]
                why = "one value can be stored as several texts"
                return _pushed(usual, [*rare, *map(_clause, prefixes)], why=why, weaker=weaker)
        return _pushed([has_key], map(_clause, prefixes), why="values are stored as text")

    # --- metrics ---

    def _metric(self, condition: Condition, key: str) -> Pushed | NoPush:
        operator, operand = condition.operator, condition.operand
        column = f"metrics.`{key}`"
        if operator in _COMPARISONS or operator == "$eq":
            clause = _number_clause(column, operator, operand)
            if clause is None:
                return NoPush("the store compares metrics with finite numbers alone")
            return Pushed(
                (Conjunction(frozenset({clause[0]})),), exact=clause[1], why="" if clause[1] else _ROUNDED
            )
        if operator == "$in" and len(operand) <= MAX_BRANCHES:
            clauses = [_number_clause(column, "$eq", item) for item in operand]
            if all(clauses):
                found = [clause for clause in clauses if clause is not None]
                return _pushed([text for text, _ in found], exact=all(e for _, e in found), why=_ROUNDED)
        return NoPush(f"MLflow has no {operator} for metrics")


_ROUNDED: Final = "the store compares doubles"


def _pushed(
    clauses: Iterable[str],
    rare: Iterable[Conjunction] = (),
    *,
    exact: bool = False,
    why: str = "",
    weaker: Conjunction = EVERYTHING,
) -> Pushed:
    return Pushed(tuple(map(_clause, dict.fromkeys(clauses))), exact, why, weaker, tuple(rare))


def _clause(clause: str) -> Conjunction:
    return Conjunction(frozenset({clause}))


def _net(column: str, net: Net) -> Conjunction:
    narrower = tuple(_clause(f"{column} {text}") for text in net.narrower)
    return replace(_clause(f"{column} {net.comparison}"), narrower=narrower)


def _prefixes(key: str) -> list[str]:
    """The keys under which a JSON document could be stored that holds this one; raw ones hold none."""
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(1, len(parts)))
    return [p for p in prefixes if _LEGAL_KEY.fullmatch(p) and not p.startswith(_RAW)]


def _unpushable(operator: str, operand: Any) -> str:
    """Why a condition on a param or tag can't narrow the search at all; empty if it can."""
    if operator in ("$ne", "$nin"):
        return "what lacks the key matches too, and the store leaves that out"
    if operator == "$exists":
        return "keys nested below it count too, and the store can't be asked for these"
    items = operand if operator in ("$in", "$all") else [operand]
    if operator in ("$in", "$eq", "$gte", "$lte", "$all") and any(item is None for item in items):
        return "None equals what is missing, and the store leaves that out"
    # An empty one is a value of its own, but the documents above it are rows.
    if any(isinstance(item, dict) and (item or operator in ("$gt", "$gte")) for item in items):
        return "a document is stored as one row per key"
    return ""


def _looks_inside(condition: Condition) -> bool:
    """Whether it has a pattern that is not anchored at the beginning."""
    items = condition.operand if isinstance(condition.operand, list) else [condition.operand]
    beginnings = [literal_beginning(item) for item in items if isinstance(item, re.Pattern)]
    return any(found is not None and not found[1] for found in beginnings)


def _texts(operator: str, operand: Any) -> list[str] | None:
    """The texts that `$eq` and `$in` ask for; None for another operator or a pattern."""
    items = operand if operator == "$in" else [operand] if operator == "$eq" else None
    if items is None or any(isinstance(item, re.Pattern) for item in items):
        return None
    # What is no text equals no identifier; None would equal a missing one, and none is missing.
    return [item for item in items if isinstance(item, str)]


def _identifier(condition: Condition) -> Pushed | NoPush:
    column = "attributes.run_id" if condition.path == "id" else "run_id"
    wanted = _texts(condition.operator, condition.operand)
    if wanted is None or (condition.path != "id" and _asks_none(condition)):
        return NoPush("the store knows identifiers whole")
    plain = [text for text in wanted if re.fullmatch(r"[\w-]{1,250}", text)]  # no other can be an ID
    if not plain:
        return Pushed((), exact=True, why="no run has such an ID")
    if len(plain) == 1:
        return _pushed([f"{column} = '{plain[0]}'"], exact=True)
    listed = [plain[n : n + 50] for n in range(0, len(plain), 50)]
    if len(listed) > MAX_BRANCHES:
        return NoPush(f"over {50 * MAX_BRANCHES} identifiers")
    return _pushed(
        [
            f"{column} IN ({', '.join(map(repr, some))})" if len(some) > 1 else f"{column} = '{some[0]}'"
            for some in listed
        ],
        exact=True,
    )


def _asks_none(condition: Condition) -> bool:
    operand = condition.operand
    return operand is None or (isinstance(operand, list) and None in operand)


def _status(condition: Condition) -> Pushed | NoPush:
    operator, operand = condition.operator, condition.operand
    column = "attributes.status"
    if operator in ("$ne", "$nin"):
        wanted = _texts({"$ne": "$eq", "$nin": "$in"}[operator], operand)
        if wanted is None or not all(map(str.isidentifier, wanted)) or len(wanted) > MAX_BRANCHES:
            return NoPush("the store compares statuses with their names alone")
        # Every run has a status, so that nothing is left out.
        return Pushed((Conjunction(frozenset(f"{column} != '{text}'" for text in wanted)),), exact=True)
    wanted = _texts(operator, operand)
    if wanted is None or not all(map(str.isidentifier, wanted)) or len(wanted) > MAX_BRANCHES:
        return NoPush("the store compares statuses with their names alone")
    return _pushed([f"{column} = '{text}'" for text in wanted], exact=True, why="statuses have no IN")


def _version(condition: Condition) -> Pushed | NoPush:
    wanted = _texts(condition.operator, condition.operand)
    if wanted is None or len(wanted) > MAX_BRANCHES:
        return NoPush("versions are texts here and numbers in the store")
    numbers = [text for text in wanted if text.isascii() and text.isdigit() and str(int(text[:9])) == text]
    return _pushed([f"version_number = {text}" for text in numbers], exact=True)


def _time(condition: Condition) -> Pushed | NoPush:
    operator, operand = condition.operator, condition.operand
    if operator not in (*_COMPARISONS, "$eq") or not isinstance(operand, datetime):
        return NoPush("the store compares times with times alone")
    # The store keeps whole milliseconds: one more on either side, so that rounding loses nothing.
    at = (operand - _EPOCH) // timedelta(milliseconds=1)
    column = f"attributes.{condition.path}"
    least, most = f"{column} >= {at - 1}", f"{column} <= {at + 1}"
    bounds = {"$gt": {least}, "$gte": {least}, "$lt": {most}, "$lte": {most}, "$eq": {least, most}}
    return Pushed((Conjunction(frozenset(bounds[operator])),), why="the store keeps milliseconds")


def _number_clause(column: str, operator: str, operand: Any) -> tuple[str, bool] | None:
    """A comparison with a metric, and whether it is exact; None if the operand is no finite number."""
    if isinstance(operand, bool) or not isinstance(operand, (int, float)):
        return None
    try:
        number = float(operand)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    # The largest double stands for infinity in some stores, and an integer may lie between two doubles.
    exact = number == operand and abs(number) < 1.7976931348623157e308
    sign = "=" if operator == "$eq" else _COMPARISONS[operator] if exact else _COMPARISONS[operator][0] + "="
    return f"{column} {sign} {repr(number).replace('e+', 'e')}", exact
