"""Pages from a tracking server: the one `PageSource` that searches of all kinds use."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, cast

from withrun.backend import Backend, ExperimentRecord, Page
from withrun.query.documents import as_document
from withrun.query.fields import Kind
from withrun.query.plan import Plan, Search
from withrun.query.previews import PreviewText, as_texts

__all__ = ["BackendSource", "ListSource"]

R = TypeVar("R")
E = TypeVar("E")

_EXPERIMENTS_A_CALL: Final = 1_000
"""Experiments named in one search of runs; more are searched in several."""

_FEW_EXPERIMENTS: Final = 5
"""Experiments that are fetched one by one as runs of them are found; beyond, all are listed at once."""


class BackendSource(Generic[R, E]):
    """Pages of one kind of record from a backend.

    Args:
        backend: where to search.
        kind: what to search.
        build: makes the entities of a page's records, one each. It sees a whole page at once, so that what
            the records share (their experiments, models and runs) is fetched once. A time or number that the
            record has must be in the entity, for the store may have sorted by it.
        experiment: makes the entity of an experiment's record; needed for runs. It is given every record that
            a search comes across, so that `build` need not fetch these.
        complete: adds to a match what `build` left out, such as long values; or what one preview stands for.
    """

    def __init__(
        self,
        backend: Backend,
        kind: Kind,
        build: Callable[[Sequence[R]], Iterable[E]],
        *,
        experiment: Callable[[ExperimentRecord], Any] | None = None,
        complete: Callable[[E, PreviewText | None], E] | None = None,
    ) -> None:
        self.backend = backend
        self.kind = kind
        self._build = build
        self._experiment = experiment
        self._complete = complete

    def split(self, plan: Plan) -> Sequence[tuple[Search, tuple[str, ...]]]:
        """The plan's searches with their experiments: those named, those that the query leaves, or all.

        Deleted experiments are searched too. Deleting one deletes its runs; one that was restored since is
        found as MLflow finds it, by its own state.
        """
        if self.kind != "runs":
            return [(search, ()) for search in plan.searches]
        # An ID that is no number is refused by SQL stores; whether there is one, the list of all says.
        named = {one for search in plan.searches for one in search.experiments or ()}
        if (
            plan.in_experiments is None
            and len(named) <= _FEW_EXPERIMENTS
            and all(_all_numbers(search) for search in plan.searches)
        ):
            known = None
        else:
            known = [r.experiment_id for r in _all_experiments(self.backend) if self._is_chosen(r, plan)]
        parts: list[tuple[Search, tuple[str, ...]]] = []
        for search in plan.searches:
            wanted = search.experiments
            if known is not None:
                wanted = tuple(one for one in known if wanted is None or one in wanted)
            chosen = wanted or ()
            parts += [
                (search, chosen[n : n + _EXPERIMENTS_A_CALL])
                for n in range(0, len(chosen), _EXPERIMENTS_A_CALL)
            ]
        return parts

    def _is_chosen(self, record: ExperimentRecord, plan: Plan) -> bool:
        if self._experiment is None:
            return True
        entity = self._experiment(record)
        # Nothing is kept beside an experiment's tags: one that reads like a preview is a text.
        return plan.in_experiments is None or plan.in_experiments({"exp": as_texts(as_document(entity))})

    def page(self, search: Search, experiments: tuple[str, ...], size: int, token: str) -> Page[R]:
        """Fetch a page; sizes are cut to what the store allows."""
        size = min(size, self.backend.grammar.max_results.get(self.kind, size))
        options: dict[str, Any] = {"max_results": size, "order_by": search.order_by, "page_token": token}
        found: Page[Any]
        if self.kind == "runs":
            found = self.backend.search_runs(experiments, search.filter, **options)
        elif self.kind == "experiments":
            found = self.backend.search_experiments(search.filter, **options)
        elif self.kind == "models":
            found = self.backend.search_models(search.filter, **options)
        else:
            found = self.backend.search_versions(search.filter, **options)
        return cast("Page[R]", found)

    def identity(self, record: R) -> Hashable:
        """The record's ID, or name, or name and version."""
        return _IDENTITIES[self.kind](record)

    def natural(self, record: R) -> Any:
        """Where MLflow's default order puts the record."""
        return _NATURAL[self.kind](record)

    def entities(self, records: Sequence[R]) -> Iterable[E]:
        """The entities of a page."""
        return self._build(records)

    def complete(self, entity: E, only: PreviewText | None = None) -> E:
        """The entity, with what was left out, or with what one preview stands for."""
        return entity if self._complete is None else self._complete(entity, only)


_IDENTITIES: Final[Mapping[Kind, Callable[[Any], Hashable]]] = {
    "runs": lambda record: record.run_id,
    "experiments": lambda record: record.experiment_id,
    "models": lambda record: record.name,
    "versions": lambda record: (record.name, record.version),
}

# MLflow's default orders: runs by start, newest first, then by ID; experiments by creation, newest first;
# models by name; versions by last update, newest first, then by name. A time that is missing comes last.
_NATURAL: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "runs": lambda record: (_newest_first(record.start_time), record.run_id),
    "experiments": lambda record: (_newest_first(record.creation_time), _numeric(record.experiment_id)),
    "models": lambda record: record.name,
    "versions": lambda record: (
        _newest_first(record.last_updated_timestamp),
        record.name,
        -_numeric(record.version)[0],
    ),
}


def _all_numbers(search: Search) -> bool:
    return search.experiments is not None and all(
        one.isascii() and one.isdigit() and len(one) < 10 for one in search.experiments
    )


def _newest_first(time: int | None) -> tuple[bool, int]:
    return (time is None, -(time or 0))


def _numeric(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isascii() and text.isdigit() else (0, text)


def _all_experiments(backend: Backend) -> Iterator[ExperimentRecord]:
    token = ""
    while True:
        page = backend.search_experiments(view_type="ALL", max_results=1000, page_token=token)
        yield from page.items
        if not page.next_token or page.next_token == token:
            return
        token = page.next_token


class ListSource(Generic[E]):
    """Entities that are at hand, such as the cached metadata of an offline search."""

    def __init__(self, items: Callable[[], Sequence[E]], identity: Callable[[E], Hashable]) -> None:
        self._items = items
        self._identity = identity

    def split(self, plan: Plan) -> Sequence[tuple[Search, tuple[str, ...]]]:
        """All of the plan's searches, which is one: nothing can be pushed down."""
        return [(search, ()) for search in plan.searches]

    def page(self, search: Search, experiments: tuple[str, ...], size: int, token: str) -> Page[E]:
        """All of them."""
        return Page(tuple(self._items()))

    def identity(self, record: E) -> Hashable:
        """What the caller says tells entities apart."""
        return self._identity(record)

    def natural(self, record: E) -> Any:
        """There is one stream of them, so that no order is needed to merge."""
        return ()

    def entities(self, records: Sequence[E]) -> Sequence[E]:
        """They are entities already."""
        return records

    def complete(self, entity: E, only: PreviewText | None = None) -> E:
        """They are whole already."""
        return entity
