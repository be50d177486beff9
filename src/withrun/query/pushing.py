"""What a store can be asked, as the plan sees it; how a store says it is its provider's (`PushDown`).

A pushed condition never has to be exact. It has to let through whatever might match (a superset): every
result is evaluated again where the condition came from, so that no answer depends on how much was pushed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Protocol

from withrun.query.fields import Kind
from withrun.query.language import Condition
from withrun.query.sorting import Sorting

__all__ = ["EVERYTHING", "Conjunction", "NoPush", "NoPushDown", "PushDown", "Pushed"]


@dataclass(frozen=True)
class Conjunction:
    """What one search asks: all of these conditions, in these experiments.

    Attributes:
        conditions: clauses of the store's filter grammar.
        experiments: IDs; None for all. Means nothing except for runs.
        narrower: searches to be made instead if this one finds much: together they hold every match in it.
    """

    conditions: frozenset[str] = frozenset()
    experiments: frozenset[str] | None = None
    narrower: tuple[Conjunction, ...] = ()

    def __and__(self, other: Conjunction) -> Conjunction:
        both = self.experiments
        if other.experiments is not None:
            both = other.experiments if both is None else both & other.experiments
        # Those of one will do: with both, each condition more would multiply them.
        narrower = tuple(one & replace(other, narrower=()) for one in self.narrower) or tuple(
            replace(self, narrower=()) & one for one in other.narrower
        )
        return Conjunction(self.conditions | other.conditions, both, narrower)

    def covers(self, other: Conjunction) -> bool:
        """Whether whatever `other` finds is found by this one, also by its narrower searches."""
        if self.narrower:
            return self == other
        within = self.experiments is None or (
            other.experiments is not None and other.experiments <= self.experiments
        )
        return within and self.conditions <= other.conditions


EVERYTHING = Conjunction()


@dataclass(frozen=True)
class Pushed:
    """What a store can be asked for one condition.

    Attributes:
        alternatives: searches whose union, with the rare ones, holds every match; none if nothing can match.
        exact: the union holds nothing else.
        why: for `explain`; needed where it is not exact.
        weaker: a single search that holds every match too, for plans with too many alternatives otherwise.
        rare: alternatives that nearly always find nothing.
    """

    alternatives: tuple[Conjunction, ...]
    exact: bool = False
    why: str = ""
    weaker: Conjunction = field(default=EVERYTHING)
    rare: tuple[Conjunction, ...] = ()


@dataclass(frozen=True)
class NoPush:
    """A condition that a store can't be asked, and why."""

    why: str


class PushDown(Protocol):
    """Says what a store's search can answer. Replaceable (`query_push_down` of a provider)."""

    def condition(self, condition: Condition, kind: Kind) -> Pushed | NoPush:
        """What to ask for one condition."""

    def order(self, sorting: Sorting, numbers: Collection[str], kind: Kind) -> tuple[str, ...] | NoPush:
        """The store's words for a sorting, if its order is exactly MongoDB's.

        Args:
            sorting: what is asked.
            numbers: paths at which the query lets through nothing but numbers and dates (no NaN either).
            kind: what is searched.
        """

    def fits(self, conjunction: Conjunction, kind: Kind) -> Conjunction:
        """The conjunction, without the conditions that would be too many or too long for one search."""

    def text(self, conjunction: Conjunction) -> str:
        """The filter string of a search."""


class NoPushDown:
    """Pushes nothing down: everything is evaluated on documents at hand."""

    _WHY = NoPush("no server is asked")

    def condition(self, condition: Condition, kind: Kind) -> NoPush:
        """Nothing to ask."""
        return self._WHY

    def order(self, sorting: Sorting, numbers: Collection[str], kind: Kind) -> NoPush:
        """No order of a store's."""
        return self._WHY

    def fits(self, conjunction: Conjunction, kind: Kind) -> Conjunction:
        """Everything fits."""
        return conjunction

    def text(self, conjunction: Conjunction) -> str:
        """No words."""
        return ""
