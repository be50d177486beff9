"""The plan of a search: what the store is asked, what is evaluated on its answers, where the sorting is done.

A plan is a union of searches that holds every match. All results are evaluated against the whole query, and
results of several searches are merged by ID, so that the answer is the same whatever was pushed down, and a
condition that the store answers exactly is merely cheap to check again.

A search makes a store read all that has the key, however little it finds. So a plan makes few searches, some
of which hold more than they need to; where one of them finds much, narrower ones are made in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from itertools import product
from operator import and_
from typing import Any, Final

from withrun.errors import InvalidArgument, OfflineError
from withrun.query.fields import KINDS, Kind, nearest
from withrun.query.language import And, Condition, Node, Or, parse
from withrun.query.match import Predicate, compile_query
from withrun.query.pushing import EVERYTHING, Conjunction, NoPush, NoPushDown, PushDown, Pushed
from withrun.query.sorting import Sorting, parse_sorting

__all__ = ["Plan", "PushDown", "Search", "Step", "make_plan"]

MAX_SEARCHES: Final = 20
"""Searches that a plan may make; a query that needs more is narrowed by fewer conditions."""


_MAX_RARE: Final = 5
"""Searches for what is seldom there that a conjunction may make; by then it is narrow enough without more."""


@dataclass(frozen=True)
class Search:
    """One search of the store.

    Attributes:
        filter: in the store's grammar; empty for everything.
        experiments: IDs to search in; None for all experiments.
        order_by: in the store's words; empty for its own order.
        narrower: searches to be made in place of this one if it finds much.
    """

    filter: str = ""
    experiments: tuple[str, ...] | None = None
    order_by: tuple[str, ...] = ()
    narrower: tuple[Search, ...] = ()


@dataclass(frozen=True)
class Step:
    """What becomes of one part of a query: for reading, in an explanation."""

    clause: str
    where: str
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """How a query will be answered.

    Attributes:
        kind: what is searched.
        searches: their union holds every match; none if nothing can match.
        matches: whether a result's document is a match; None if all are (a filter string of the store's own).
        sorting: the order asked for; empty for the store's own.
        sorted_by_store: whether the searches come in that order already.
        exact: whether the store lets through matches only, so that a limit is a limit of what is fetched.
        in_experiments: narrows the experiments to search in, by their own fields; None if nothing does.
        steps: what becomes of each part, and why.
        grammar: what the plan was made for.
        at_hand: no store is asked; what is at hand, such as cached metadata, is evaluated.
    """

    kind: Kind
    searches: tuple[Search, ...]
    matches: Predicate | None
    sorting: Sorting = ()
    sorted_by_store: bool = False
    exact: bool = False
    in_experiments: Predicate | None = None
    steps: tuple[Step, ...] = ()
    grammar: str = ""
    at_hand: bool = False

    def __str__(self) -> str:
        lines = [f"Search of {self.kind}{f' ({self.grammar})' if self.grammar else ''}"]
        if self.at_hand:
            lines.append("  no store is asked: everything at hand is evaluated")
        for number, search in enumerate(() if self.at_hand else self.searches, 1):
            where = "" if self.kind != "runs" else " in all experiments"
            if search.experiments is not None:
                where = f" in experiments {', '.join(search.experiments) or '(none)'}"
            order = f" ordered by {', '.join(search.order_by)}" if search.order_by else ""
            lines.append(f"  {number}. to the store: {search.filter or '(everything)'}{where}{order}")
            if search.narrower:
                lines.append(f"     {len(search.narrower)} narrower searches instead, if that finds much")
        if not self.searches:
            lines.append("  nothing is asked: no document can match")
        if len(self.searches) > 1:
            lines.append("  merged by ID")
        width = max((len(step.clause) for step in self.steps), default=0)
        lines += [
            f"  {step.clause:<{min(width, 60)}}  {step.where}{f': {step.why}' if step.why else ''}"
            for step in self.steps
        ]
        return "\n".join(lines)


def make_plan(
    query: Any,
    sorting: Any,
    kind: Kind,
    push_down: PushDown,
    *,
    grammar: str = "",
    rename: Callable[[Node], Node] = lambda node: node,
) -> Plan:
    """Plan a search.

    Args:
        query: a MongoDB query, None for everything, or a text in the store's own filter grammar, which is
            passed on as it is.
        sorting: pairs of field and direction.
        kind: what is searched.
        push_down: what the store can answer.
        grammar: how explanations call the store.
        rename: puts the store's own names into the parsed query.

    Raises:
        InvalidArgument: the query or the sorting can't be understood, or there is no such kind.
        OfflineError: a filter string, where no store is asked.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"there is no kind {kind!r:.100} to search; {nearest(str(kind), KINDS)}")
    order = parse_sorting(sorting, kind)
    at_hand = isinstance(push_down, NoPushDown)
    if isinstance(query, str) and at_hand:
        raise OfflineError(
            f"the filter string {query!r} is for a tracking server, and none is asked here; "
            "give the query as a dict, such as {'metrics.loss': {'$lt': 0.1}}."
        )
    if isinstance(query, str):
        steps = [Step(query, "store", "a filter string passes as it is")] if query else []
        ordered = _order(order, frozenset(), kind, push_down, steps) if order else ()
        return Plan(
            kind,
            (Search(query, order_by=ordered or ()),),
            matches=None,
            sorting=order,
            sorted_by_store=ordered is not None,
            exact=True,
            steps=tuple(steps),
            grammar=grammar,
        )
    node = rename(parse(query, kind))
    planner = _Planner(kind, push_down)
    part = planner.part(node)
    # What asks for experiments by ID is in the searches; the rest is evaluated on the list of experiments.
    narrowing = [
        child
        for child in _conjuncts(node)
        if kind == "runs" and _only_of_experiments(child) and _Planner(kind, push_down).part(child) is None
    ]
    steps = planner.steps
    wanted = (EVERYTHING,) if part is None else (*part.usual, *part.rare)
    found = _without_covered(planner.fitting(conjunction) for conjunction in wanted)
    numbers = frozenset(path for path, is_number in map(_only_numbers, _conjuncts(node)) if is_number)
    ordered = _order(order, numbers, kind, push_down, steps) if order else ()
    return Plan(
        kind,
        tuple(planner.search(conjunction, ordered or ()) for conjunction in found),
        matches=compile_query(node),
        sorting=order,
        sorted_by_store=bool(order) and ordered is not None,
        exact=part is not None and part.exact and found == wanted,
        in_experiments=compile_query(And(tuple(narrowing))) if narrowing else None,
        steps=tuple(steps),
        grammar=grammar,
        at_hand=at_hand,
    )


def _order(
    sorting: Sorting, numbers: frozenset[str], kind: Kind, push_down: PushDown, steps: list[Step]
) -> tuple[str, ...] | None:
    """The store's words for the sorting, or None if it is done here; says why."""
    asked = push_down.order(sorting, numbers, kind)
    clause = "sorted by " + ", ".join(f"{path} {'down' if d < 0 else 'up'}" for path, d in sorting)
    if isinstance(asked, NoPush):
        steps.append(Step(clause, "here", asked.why))
        return None
    steps.append(Step(clause, "store"))
    return asked


@dataclass(frozen=True)
class _Part:
    """Searches whose union holds every match of a part of the query: the usual, and what is seldom there."""

    usual: tuple[Conjunction, ...]
    exact: bool
    weaker: Conjunction = EVERYTHING
    rare: tuple[Conjunction, ...] = ()

    @property
    def is_single(self) -> bool:
        """Whether it takes one search."""
        return len(self.usual) == 1 and not self.rare

    @property
    def alone(self) -> Conjunction:
        """One search that holds every match, and perhaps much else."""
        return self.usual[0] if self.is_single else self.weaker


class _Planner:
    """Plans a tree from its leaves up; None means that a part can't narrow the search."""

    def __init__(self, kind: Kind, push_down: PushDown) -> None:
        self.kind = kind
        self.push_down = push_down
        self.steps: list[Step] = []

    def part(self, node: Node) -> _Part | None:
        match node:
            case And(children):
                return self._conjunction([self.part(child) for child in children])
            case Or(children):
                return self._disjunction([self.part(child) for child in children])
            case Condition():
                return self._condition(node)
        for condition in _conditions(node):
            self._step(condition, "here", "the store has no negation")
        return None

    def _condition(self, condition: Condition) -> _Part | None:
        pushed = self.push_down.condition(condition, self.kind)
        if isinstance(pushed, Pushed) and len(pushed.alternatives) + len(pushed.rare) > MAX_SEARCHES:
            pushed = NoPush(f"it would take over {MAX_SEARCHES} searches")
        if isinstance(pushed, NoPush):
            by_experiment = self.kind == "runs" and _only_of_experiments(condition)
            why = "experiments are chosen by it first" if by_experiment else pushed.why
            self._step(condition, "here", why)
            return None
        if pushed.exact:
            self._step(condition, "store", "")
        else:
            self._step(condition, "store, then here", pushed.why)
        return _part(pushed.alternatives, pushed.rare, pushed.exact, pushed.weaker)

    def fitting(self, conjunction: Conjunction) -> Conjunction:
        """A conjunction without the conditions that would be too many or too long for one search."""
        cut = self.push_down.fits(replace(conjunction, narrower=()), self.kind)
        return replace(cut, narrower=tuple(map(self.fitting, conjunction.narrower)))

    def search(self, conjunction: Conjunction, order_by: tuple[str, ...]) -> Search:
        """A conjunction in the store's words."""
        experiments = conjunction.experiments
        return Search(
            self.push_down.text(conjunction),
            None if experiments is None else tuple(sorted(experiments)),
            order_by,
            tuple(self.search(one, order_by) for one in conjunction.narrower),
        )

    def _conjunction(self, parts: list[_Part | None]) -> _Part | None:
        if not parts:
            return _Part((EVERYTHING,), exact=True)
        known = sorted((part for part in parts if part is not None), key=lambda part: _count([part]))
        if not known:
            return None
        if any(_count([part]) == 0 for part in known):
            return _Part((), exact=True)  # nothing matches that part, so that nothing matches all of them
        asked: list[_Part] = []
        for part in known:
            together = [*asked, part]
            seldom = sum(len(one.rare) for one in together)
            if _count(together) <= MAX_SEARCHES and (seldom <= _MAX_RARE or seldom == len(part.rare)):
                asked.append(part)
        # What all usual searches find; and what a rare one finds, whichever way the others match. That is
        # hardly anything, so that it need not be narrowed by what takes several searches.
        usual = _product([*(part.usual for part in asked), *((p.alone,) for p in known if p not in asked)])
        single = reduce(and_, (part.alone for part in known if part.is_single), EVERYTHING)
        rare = [search & single for part in asked for search in part.rare]
        weaker = reduce(and_, (part.alone for part in known), EVERYTHING)
        exact = len(asked) == len(parts) and all(part.exact for part in asked)
        return _part(usual, rare, exact, weaker)

    def _disjunction(self, parts: list[_Part | None]) -> _Part | None:
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            self.steps.append(Step("$or", "here", "the store can't be asked for one of its branches"))
            return None
        usual = [search for part in known for search in part.usual]
        rare = [search for part in known for search in part.rare]
        union = _part(usual, rare, all(part.exact for part in known))
        if _count([union]) > MAX_SEARCHES:
            self.steps.append(Step("$or", "here", f"it would take over {MAX_SEARCHES} searches"))
            return None
        return union

    def _step(self, condition: Condition, where: str, why: str) -> None:
        operand = condition.operand.pattern if condition.operator == "$regex" else condition.operand
        text = repr(operand)
        clause = f"{condition.path} {condition.operator} {text if len(text) <= 40 else text[:39] + '…'}"
        self.steps.append(Step(clause, where, why))


def _part(
    usual: Iterable[Conjunction],
    rare: Iterable[Conjunction],
    exact: bool,
    weaker: Conjunction = EVERYTHING,
) -> _Part:
    """A part without searches that find only what another one finds."""
    kept = _without_covered(usual)
    others = _without_covered(one for one in rare if not any(other.covers(one) for other in kept))
    return _Part(kept, exact, weaker, others)


def _count(parts: Sequence[_Part]) -> int:
    """The searches that a conjunction of parts takes."""
    return math.prod(len(part.usual) for part in parts) + sum(len(part.rare) for part in parts)


def _product(alternatives: Sequence[Sequence[Conjunction]]) -> list[Conjunction]:
    """One of each, in every way."""
    return [reduce(and_, chosen, EVERYTHING) for chosen in product(*alternatives)]


def _without_covered(searches: Iterable[Conjunction]) -> tuple[Conjunction, ...]:
    """The searches without those that find only what another one finds."""
    kept: list[Conjunction] = []
    for one in searches:
        if any(other.covers(one) for other in kept):
            continue
        kept = [other for other in kept if not one.covers(other)]
        kept.append(one)
    return tuple(kept)


def _conjuncts(node: Node) -> Iterator[Node]:
    """The parts that all have to hold."""
    if isinstance(node, And):
        for child in node.children:
            yield from _conjuncts(child)
    else:
        yield node


def _conditions(node: Node) -> Iterator[Condition]:
    """Every condition in a tree."""
    if isinstance(node, Condition):
        yield node
    elif hasattr(node, "children"):
        for child in node.children:
            yield from _conditions(child)
    else:
        yield from _conditions(node.child)


def _paths(node: Node) -> Iterator[str]:
    return (condition.path for condition in _conditions(node))


def _only_of_experiments(node: Node) -> bool:
    return all(path.split(".")[0] == "exp" for path in _paths(node))


def _only_numbers(node: Node) -> tuple[str, bool]:
    """A path, and whether the node lets through nothing but numbers (or dates) there."""
    if not isinstance(node, Condition):
        return "", False
    operators = ("$gt", "$gte", "$lt", "$lte", "$eq")
    operand = node.operand
    # NaN alone is not itself; math.isnan would overflow on an integer beyond all doubles.
    number = isinstance(operand, (int, float)) and not isinstance(operand, bool) and operand == operand
    return node.path, node.operator in operators and (number or isinstance(operand, datetime))
