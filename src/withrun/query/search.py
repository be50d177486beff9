"""Carrying out a plan: pages fetched ahead, evaluated, merged, sorted if the store could not, streamed.

Memory holds two pages of each search (`withrun.query.paging` sizes them), and the IDs of what was found. Only
a sorting that the store can't do needs all matches at once, and with a limit just that many.

The wiring is a `PageSource` for each search (`withrun.query.sources` has one for every backend):

```python
plan = make_plan(query, sorting, "runs", push_down)
return Results(plan, lambda: BackendSource(backend, "runs", build=entities_of_records), wrap=to_handle)
```
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from withrun.backend import Page
from withrun.errors import InvalidArgument, MissingDependency, ServerError
from withrun.query.ahead import Ahead
from withrun.query.documents import as_document, flat_row
from withrun.query.paging import PageSizes
from withrun.query.plan import Plan, Search
from withrun.query.previews import PreviewText, Undecided, as_texts
from withrun.query.sorting import sort, sort_key

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PageSource", "Results", "run_plan"]

R = TypeVar("R")
E = TypeVar("E")
T = TypeVar("T")

_CONNECTIONS: Final = 4
"""Searches of one plan that are under way at once."""


_MUCH: Final = 20
"""Records that are fetched of a search which narrower ones are to replace if it finds more."""

_NOT_UNDERSTOOD: Final = "INVALID_PARAMETER_VALUE"
"""How a store says that a filter string of the caller's own is none of its grammar."""


class PageSource(Protocol[R, E]):
    """Where the pages of a search come from, and what their records mean."""

    def split(self, plan: Plan) -> Sequence[tuple[Search, tuple[str, ...]]]:
        """The plan's searches, each with the experiments to search in, split to what one call can name."""

    def page(self, search: Search, experiments: tuple[str, ...], size: int, token: str) -> Page[R]:
        """Fetch a page of at most `size` records; called from other threads."""

    def identity(self, record: R) -> Hashable:
        """What tells a record from others."""

    def natural(self, record: R) -> Any:
        """The record's place in the order in which the store returns records when none is asked for."""

    def entities(self, records: Sequence[R]) -> Iterable[E]:
        """The entities of a page's records, one each; fetches what they have in common once.

        Best made one by one as they are read: most are looked at and dropped.
        """

    def complete(self, entity: E, only: PreviewText | None = None) -> E:
        """The entity of a match, with what was left out of those that are only looked at.

        Args:
            entity: as `entities` gave it.
            only: fetch what this preview stands for, and nothing else.
        """


@dataclass(frozen=True)
class _Found(Generic[E]):
    """A match on its way through merging and sorting."""

    identity: Hashable
    natural: Any
    entity: E
    place: tuple[Any, ...]


def run_plan(plan: Plan, source: PageSource[R, E], limit: int | None = None) -> Iterator[E]:
    """Search, and yield the matches in the plan's order; each once.

    Args:
        plan: what to ask and what to evaluate.
        source: where pages come from.
        limit: at most that many.
    """
    if limit == 0:
        return
    sort_here = bool(plan.sorting) and not plan.sorted_by_store
    pool = Ahead(_CONNECTIONS)
    try:
        wanted = None if sort_here else limit
        streams = [
            _Stream(plan, source, search, experiments, PageSizes(wanted, exact=plan.exact), pool)
            for search, experiments in source.split(plan)
        ]
        matches = _without_repeats(_merged(streams, plan))
        if sort_here:
            matches = iter(sort(matches, lambda found: found.place, limit))
        for found in islice(matches, limit):
            yield source.complete(found.entity)
    finally:
        pool.close()


class _Stream(Generic[R, E]):
    """The matches of one search, page by page, the next page fetched while one is read."""

    def __init__(
        self,
        plan: Plan,
        source: PageSource[R, E],
        search: Search,
        experiments: tuple[str, ...],
        sizes: PageSizes,
        pool: Ahead,
    ) -> None:
        self.plan = plan
        self.source = source
        self.search = search
        self.experiments = experiments
        self.sizes = sizes
        self.pool = pool
        self.place = sort_key(plan.sorting)
        if search.narrower:
            sizes.begin_with(_MUCH)
        self.next_page = self._fetch()  # at once, so that all searches of a plan run side by side

    def _fetch(self, token: str = "") -> Future[tuple[Page[R], float]]:
        return self.pool.submit(self._timed_page, self.sizes.take(), token)

    def _timed_page(self, size: int, token: str) -> tuple[Page[R], float]:
        start = time.monotonic()
        try:
            page = self.source.page(self.search, self.experiments, size, token)
        except ServerError as exc:
            if self.plan.matches is None and exc.code == _NOT_UNDERSTOOD:
                raise InvalidArgument(f"the filter string {self.search.filter!r} is refused: {exc}") from exc
            raise
        return page, time.monotonic() - start

    def __iter__(self) -> Iterator[_Found[E]]:
        token = ""
        while True:
            page, seconds = self.next_page.result()
            if page.next_token and page.next_token == token:
                raise ServerError(
                    f"the store gave the same page token twice in a search of {self.plan.kind}; "
                    "it would never end. Narrow the query, or ask the store's operator."
                )
            token = page.next_token
            if token and self.search.narrower:
                yield from _merged(self._narrower(), self.plan)
                return
            self.sizes.came(len(page.items), seconds)
            ahead = bool(token) and not self.sizes.enough
            if ahead:
                self.next_page = self._fetch(token)
            yield from self._matches(page.items)
            del page  # before waiting for the next one
            if not token:
                return
            if not ahead:
                self.next_page = self._fetch(token)

    def _narrower(self) -> list[_Stream[R, E]]:
        """The searches to make in place of this one, which finds much."""
        chosen = (
            (search, tuple(one for one in self.experiments if _is_in(one, search)))
            for search in self.search.narrower
        )
        # A search of runs names experiments; one that has none left finds nothing.
        return [
            _Stream(self.plan, self.source, search, experiments, self.sizes.another(), self.pool)
            for search, experiments in chosen
            if experiments or not self.experiments
        ]

    def _matches(self, records: Sequence[R]) -> Iterator[_Found[E]]:
        source = self.source
        for record, entity in zip(records, source.entities(records), strict=True):
            fetched: set[PreviewText] = set()
            while True:
                try:
                    found, place = self._judge(entity, fetched)
                    break
                except Undecided as exc:
                    # One long value after another: what one says may make the next one needless.
                    entity = source.complete(entity, exc.preview)
                    fetched.add(exc.preview)
            if found:
                yield _Found(source.identity(record), source.natural(record), entity, place)

    def _judge(self, entity: E, fetched: Collection[PreviewText]) -> tuple[bool, tuple[Any, ...]]:
        """Whether it is a match, and if so its place in the sorting.

        A preview that is still there although it was fetched is all that is left of a value.
        """
        document = as_document(entity)
        if fetched:
            document = as_texts(document, fetched)
        matches = self.plan.matches
        found = matches is None or matches(document)
        return found, self.place(document) if found else ()


def _is_in(experiment: str, search: Search) -> bool:
    return search.experiments is None or experiment in search.experiments


def _merged(streams: Sequence[_Stream[R, E]], plan: Plan) -> Iterator[_Found[E]]:
    if len(streams) == 1:
        return iter(streams[0])
    if plan.sorted_by_store:
        return heapq.merge(*streams, key=lambda found: (found.place, found.natural))
    return heapq.merge(*streams, key=lambda found: found.natural)


def _without_repeats(matches: Iterator[_Found[E]]) -> Iterator[_Found[E]]:
    """Drop what was seen: found by two searches, or moved to a later page by a run that was just created."""
    seen: set[Hashable] = set()
    for found in matches:
        if found.identity not in seen:
            seen.add(found.identity)
            yield found


class Results(Generic[T]):
    """What a search finds, fetched as it is read.

    Iterating starts a search; iterating again starts another. `next(results)` works too, and then a `for`
    goes on from there. There is no `len`: it would mean fetching everything.
    """

    def __init__(
        self,
        plan: Plan,
        source: Callable[[], PageSource[Any, E]],
        wrap: Callable[[E], T] | None = None,
        limit: int | None = None,
    ) -> None:
        self._plan = plan
        self._source: Callable[[], PageSource[Any, Any]] = source
        self._wrap = wrap
        self._limit = None if limit is None else _checked(limit)
        self._running: Iterator[T] | None = None

    def __iter__(self) -> Iterator[T]:
        return self._search(self._limit) if self._running is None else self._running

    def __next__(self) -> T:
        if self._running is None:
            self._running = self._search(self._limit)
        return next(self._running)

    def __repr__(self) -> str:
        limit = "" if self._limit is None else f", limit={self._limit}"
        return f"Results({self._plan.kind}, {len(self._plan.searches)} searches{limit})"

    def first(self) -> T | None:
        """The first match, fetched by itself; None if there is none."""
        found = self._search(1 if self._limit is None else min(1, self._limit))
        try:
            return next(found, None)
        finally:
            found.close()

    def limit(self, count: int) -> Results[T]:
        """The same search, ended after `count` matches; pages are sized for that.

        Raises:
            InvalidArgument: the count is no whole number from 0.
        """
        least = _checked(count) if self._limit is None else min(_checked(count), self._limit)
        return Results(self._plan, self._source, self._wrap, least)

    def explain(self) -> Plan:
        """How the search is answered: printed, it says what goes to the store, what stays, and why."""
        return self._plan

    def to_frame(self) -> pd.DataFrame:
        """A DataFrame with a row a match and a column a field, such as `params.model.depth`.

        Raises:
            MissingDependency: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as exc:
            raise MissingDependency("to_frame() needs pandas: pip install pandas") from exc
        rows = [flat_row(as_document(entity)) for entity in run_plan(self._plan, self._source(), self._limit)]
        frame: pd.DataFrame = pd.DataFrame(rows)
        return frame

    def _search(self, limit: int | None) -> Any:
        for entity in run_plan(self._plan, self._source(), limit):
            yield entity if self._wrap is None else self._wrap(entity)


def _checked(limit: Any) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise InvalidArgument(f"limit is {limit!r:.100}; give a whole number from 0.")
    return limit
