"""The methods of an API on queries, whatever they search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from withrun.api.parts import Part
from withrun.contract.searching import SearchingContract
from withrun.contract.types import Query, Sorting

if TYPE_CHECKING:
    from withrun.query.fields import Kind
    from withrun.query.plan import Plan

__all__ = ["SearchingMethods"]


class SearchingMethods(Part, SearchingContract):
    """What an API says of its searches; documented in the contract."""

    def explain(self, query: Query = None, sorting: Sorting = None, kind: Kind = "runs") -> Plan:
        return self.services.search.plan(query, sorting, kind)
