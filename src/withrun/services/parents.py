"""What the results of one search refer to: their experiments, models and runs, each fetched once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from withrun.backend import Backend, ExperimentRecord, Page, RunRecord
from withrun.errors import NotFound
from withrun.schema import Experiment, Model, Run
from withrun.services.entities import EntityBuilder
from withrun.services.experiments import ExperimentService

__all__ = ["Parents"]

R = TypeVar("R")

_FEW: Final = 3
"""Entities that are fetched one by one; more are searched for."""

_IDS_A_FILTER: Final = 100
"""Run IDs in one filter."""

_EXPERIMENTS_A_CALL: Final = 1_000
_PAGE: Final = 1_000


class Parents:
    """Remembers for one search what its results refer to. For one thread: the one that reads the results.

    Nothing is remembered beyond the search, so that a name or tag that was changed meanwhile is seen by the
    next one.

    Args:
        backend: where to fetch.
        build: makes entities of records.
        experiments: is told of the experiments that were fetched.
    """

    def __init__(self, backend: Backend, build: EntityBuilder, experiments: ExperimentService) -> None:
        self._backend = backend
        self._build = build
        self._service = experiments
        self._experiments: dict[str, Experiment] = {}
        self._models: dict[str, Model] = {}
        self._runs: dict[str, Run | None] = {}

    def experiment_of(self, record: ExperimentRecord) -> Experiment:
        """The experiment of a record that is at hand."""
        known = self._experiments.get(record.experiment_id)
        if known is None:
            known = self._service.remember(self._build.experiment(record))
            self._experiments[record.experiment_id] = known
        return known

    def runs_of(self, records: Iterable[RunRecord]) -> Iterator[Run]:
        """The runs of a page, each made when it is read; long values are left out."""
        return (self._build.run(r, self._experiment(r.experiment_id), whole=False) for r in records)

    def models(self, names: Iterable[str]) -> dict[str, Model]:
        """Registered models by name.

        Raises:
            NotFound: one was deleted since the search found a version of it.
        """
        wanted = set(names)
        missing = wanted - self._models.keys()
        if len(missing) > _FEW:
            for record in _all_pages(
                lambda token: self._backend.search_models(max_results=_PAGE, page_token=token)
            ):
                self._models.setdefault(record.name, self._build.model(record))
                if wanted <= self._models.keys():
                    break
        for name in wanted - self._models.keys():
            self._models[name] = self._build.model(self._backend.get_model(name))
        return {name: self._models[name] for name in wanted}

    def runs(self, run_ids: Iterable[str]) -> dict[str, Run | None]:
        """Runs by ID, deleted ones too; None for one that was removed for good. Long values are left out."""
        wanted = set(run_ids)
        missing = sorted(wanted - self._runs.keys())
        if len(missing) > _FEW:
            self._search_runs(missing)
        else:
            for run_id in missing:
                self._runs[run_id] = self._fetch_run(run_id)
        return {run_id: self._runs[run_id] for run_id in wanted}

    def _experiment(self, experiment_id: str) -> Experiment:
        known = self._experiments.get(experiment_id)
        return known or self.experiment_of(self._backend.get_experiment(experiment_id))

    def _fetch_run(self, run_id: str) -> Run | None:
        try:
            record = self._backend.get_run(run_id)
        except NotFound:
            return None
        return next(self.runs_of([record]))

    def _search_runs(self, run_ids: list[str]) -> None:
        """Fetch runs by searching for their IDs; a search has to name experiments, so it names all."""
        experiments = [
            self.experiment_of(record).id
            for record in _all_pages(
                lambda token: self._backend.search_experiments(
                    view_type="ALL", max_results=_PAGE, page_token=token
                )
            )
        ]
        self._runs.update(dict.fromkeys(run_ids))
        # Only what looks like an ID stands in a filter; a version may name anything as its run.
        plain = [run_id for run_id in run_ids if run_id.isascii() and run_id.isalnum()]
        for some in _parts(plain, _IDS_A_FILTER):
            found = self._runs_among(some, experiments)
            self._runs.update((run.id, run) for run in found)

    def _runs_among(self, run_ids: list[str], experiments: list[str]) -> Iterator[Run]:
        ids = ", ".join(f"'{run_id}'" for run_id in run_ids)
        for group in _parts(experiments, _EXPERIMENTS_A_CALL):

            def page(token: str, group: tuple[str, ...] = tuple(group)) -> Page[RunRecord]:
                return self._backend.search_runs(
                    group,
                    f"attributes.run_id IN ({ids})",
                    view_type="ALL",
                    max_results=_IDS_A_FILTER,
                    page_token=token,
                )

            yield from self.runs_of(_all_pages(page))


def _all_pages(page: Callable[[str], Page[R]]) -> Iterator[R]:
    token = ""
    while True:
        found = page(token)
        yield from found.items
        if not found.next_token or found.next_token == token:
            return
        token = found.next_token


def _parts(items: list[str], size: int) -> Iterator[list[str]]:
    return (items[n : n + size] for n in range(0, len(items), size))
