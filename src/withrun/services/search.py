"""Searching: from a query to entities, streamed from the store or from cached metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from withrun.backend import (
    Backend,
    ExperimentRecord,
    ModelRecord,
    RunRecord,
    VersionRecord,
)
from withrun.errors import CacheError, InvalidArgument
from withrun.query.fields import Kind
from withrun.query.plan import Plan, make_plan
from withrun.query.previews import PreviewText
from withrun.query.pushing import PushDown
from withrun.query.search import PageSource, Results
from withrun.query.sources import BackendSource, ListSource
from withrun.schema import Experiment, Model, ModelVersion, Run
from withrun.services.entities import EntityBuilder
from withrun.services.experiments import ExperimentService
from withrun.services.identify import version_key
from withrun.services.local_names import LocalNames
from withrun.services.metadata import MetadataService
from withrun.services.models import ModelService
from withrun.services.parents import Parents
from withrun.services.runs import RunService
from withrun.services.writes import WritePath

__all__ = ["SearchService"]

E = TypeVar("E")
T = TypeVar("T")

Query = Mapping[str, Any] | str | None


class SearchService:
    """What an API finds: plans a query, and searches the backend.

    Args:
        backend: where to search.
        push_down: what the backend's filter strings can answer.
        writes: flushed before a search, so that it sees what was logged here.
        build: makes entities of records.
        experiments: is told of the experiments that a search comes across.
        runs: fetches long values.
        models: makes versions of records.
        names: gives the server's IDs of what is named by local ones.
        cached: search what is cached, and what waits in journals, in place of the backend.
    """

    def __init__(
        self,
        backend: Backend,
        push_down: Callable[[], PushDown],
        writes: WritePath,
        build: EntityBuilder,
        experiments: ExperimentService,
        runs: RunService,
        models: ModelService,
        names: LocalNames,
        cached: MetadataService | None = None,
    ) -> None:
        self._cached = cached
        self._names = names
        self._backend = backend
        self._push_down = push_down
        self._writes = writes
        self._build = build
        self._experiments = experiments
        self._runs = runs
        self._models = models

    def plan(self, query: Query, sorting: Any, kind: Kind) -> Plan:
        """How a search would be answered; asks the store nothing but its version.

        Raises:
            InvalidArgument: the query or the sorting can't be understood.
            OfflineError: the query is a filter string, which only a server understands, and none is asked.
        """
        if isinstance(query, str):
            query = query.strip() or None
        return make_plan(
            query,
            sorting,
            kind,
            self._push_down(),
            grammar=self._backend.grammar.name,
            rename=lambda node: self._names.in_query(node, kind),
        )

    def exps(
        self,
        query: Query,
        sorting: Any,
        wrap: Callable[[Experiment], T],
        limit: int | None = None,
    ) -> Results[T]:
        """Search experiments."""

        def source() -> PageSource[Any, Experiment]:
            if self._cached is not None:
                return ListSource(lambda: list(self._offline.experiments()), lambda exp: exp.id)
            return BackendSource[ExperimentRecord, Experiment](
                self._backend, "experiments", lambda records: [self._build.experiment(r) for r in records]
            )

        return Results(self.plan(query, sorting, "experiments"), source, wrap, limit)

    def runs(
        self,
        query: Query,
        sorting: Any,
        wrap: Callable[[Run], T],
        experiment_id: str | None = None,
        limit: int | None = None,
    ) -> Results[T]:
        """Search runs, of one experiment if given."""

        def source() -> PageSource[Any, Run]:
            if self._cached is not None:
                return ListSource(lambda: list(self._offline.runs()), lambda run: run.id)
            self._writes.show()
            parents = self._parents()
            return BackendSource[RunRecord, Run](
                self._backend,
                "runs",
                parents.runs_of,
                experiment=parents.experiment_of,
                complete=self._runs.complete,
            )

        if isinstance(query, str) and query.strip() and experiment_id is not None:
            plan = self.plan(query, sorting, "runs")
            searches = tuple(replace(search, experiments=(experiment_id,)) for search in plan.searches)
            plan = replace(plan, searches=searches)
        else:
            plan = self.plan(_narrowed(query, {"exp.id": experiment_id}), sorting, "runs")
        return Results(plan, source, wrap, limit)

    def models(
        self, query: Query, sorting: Any, wrap: Callable[[Model], T], limit: int | None = None
    ) -> Results[T]:
        """Search registered models."""

        def source() -> PageSource[Any, Model]:
            if self._cached is not None:
                return ListSource(lambda: list(self._offline.models()), lambda model: model.name)
            return BackendSource[ModelRecord, Model](
                self._backend, "models", lambda records: [self._build.model(r) for r in records]
            )

        return Results(self.plan(query, sorting, "models"), source, wrap, limit)

    def versions(
        self,
        query: Query,
        sorting: Any,
        wrap: Callable[[ModelVersion], T],
        name: str | None = None,
        run_id: str | None = None,
        limit: int | None = None,
    ) -> Results[T]:
        """Search model versions, of one model or one run if given."""

        def source() -> PageSource[Any, ModelVersion]:
            if self._cached is not None:
                return ListSource(lambda: list(self._offline.versions()), version_key)
            self._writes.show()  # a query may ask for what was logged to a version's run
            parents = self._parents()
            return BackendSource[VersionRecord, ModelVersion](
                self._backend,
                "versions",
                lambda records: self._versions_of(records, parents),
                complete=self._complete_version,
            )

        narrowed = _narrowed(query, {"model.name": name, "run.id": run_id})
        return Results(self.plan(narrowed, sorting, "versions"), source, wrap, limit)

    @property
    def _offline(self) -> MetadataService:
        if self._cached is None:
            raise CacheError("this API is not offline, so that its cache is not what is searched")
        return self._cached

    def _parents(self) -> Parents:
        return Parents(self._backend, self._build, self._experiments)

    def _versions_of(self, records: Sequence[VersionRecord], parents: Parents) -> list[ModelVersion]:
        models = parents.models(r.name for r in records)
        runs = parents.runs(r.run_id for r in records if r.run_id)
        return [self._models.joined(r, models[r.name], runs.get(r.run_id)) for r in records]

    def _complete_version(self, version: ModelVersion, only: PreviewText | None = None) -> ModelVersion:
        if version.run is not None:
            self._runs.complete(version.run, only)
        return version


def _narrowed(query: Query, fields: Mapping[str, str | None]) -> Query:
    """A query whose matches also have those values."""
    wanted = {field: value for field, value in fields.items() if value is not None}
    if not wanted:
        return query
    if isinstance(query, str) and query.strip():
        # MLflow's grammar has AND alone, so that a clause can be added to any filter string.
        names = {"model.name": "name", "run.id": "run_id"}
        clauses = [f"{names[field]} = {_quoted(value)}" for field, value in wanted.items()]
        return " AND ".join([query, *clauses])
    return {"$and": [wanted, query]} if query and not isinstance(query, str) else wanted


def _quoted(text: str) -> str:
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise InvalidArgument(
        f"{text!r} holds both kinds of quotes, which a filter string can't say; give the query as a dict"
    )
