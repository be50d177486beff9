"""The contract on queries, whatever they search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from withrun.contract.types import Query, Sorting

if TYPE_CHECKING:
    from withrun.query.fields import Kind
    from withrun.query.plan import Plan

__all__ = ["SearchingContract"]


class SearchingContract(ABC):
    """What an API says of its searches."""

    @abstractmethod
    def explain(self, query: Query = None, sorting: Sorting = None, kind: Kind = "runs") -> Plan:
        """How a search would be answered, without searching: what the server is asked, what is left, and why.

        Args:
            query: what the finder would be given.
            sorting: likewise.
            kind: what the finder searches: `"runs"`, `"experiments"`, `"models"` or `"versions"`.

        Example:
            >>> print(api.explain({"params.lr": {"$lt": 0.1}}))
            Search of runs (mlflow 3.17.2)
              1. to the store: params.`lr` LIKE '%' in all experiments
              params.lr $lt 0.1  store, then here: values are stored as text

        Raises:
            InvalidArgument: the query or the sorting can't be understood, or there is no such kind.
            OfflineError: the query is a filter string, and the API is offline.
        """
