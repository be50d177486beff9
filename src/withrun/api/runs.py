"""The methods of an API on runs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from withrun import context
from withrun.api.parts import Part
from withrun.contract.runs import RunsContract
from withrun.contract.types import Exp, Query, RunLike, Sorting
from withrun.errors import NotCached, ServerError
from withrun.handles import RunApi, lifecycle
from withrun.schema import Experiment, Run, RunStatus
from withrun.services.identify import check_given, check_repo, check_types, end_status

if TYPE_CHECKING:
    from withrun.query.search import Results

__all__ = ["RunMethods"]


class RunMethods(Part, RunsContract):
    """What an API does with runs; documented in the contract."""

    def create_run(
        self,
        exp: Exp,
        name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        repo: str | None = None,
        parent: RunLike | None = None,
    ) -> RunApi:
        return self._create(exp, name, tags, repo, parent, scheduled=True)

    def start_run(
        self,
        exp: Exp,
        name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        repo: str | None = None,
        parent: RunLike | None = None,
        *,
        nested: bool = False,
    ) -> RunApi:
        check_types(nested=(nested, bool))
        if parent is None:
            if nested:
                parent = context.active(self)
            else:
                lifecycle.check_may_start(self._api)
        lifecycle.end_left_open_by_cell(self._api)
        run = self._create(exp, name, tags, repo, parent)
        run.adopt(lifecycle.make_active(run))
        return run

    def resume_run(self, run: RunLike) -> RunApi:
        handle = self._handle(run)
        lifecycle.resume(handle)
        return handle

    def end_run(self, run: RunLike, succeeded: bool | str | RunStatus = True) -> RunApi:
        status = end_status(succeeded)
        handle = self._handle(run)
        lifecycle.end(handle, status)
        return handle

    def get_run(self, run: RunLike, *, force_cache_refresh: bool = False) -> RunApi:
        check_given(force_cache_refresh=(force_cache_refresh, bool))
        return RunApi.of(self._api, self.services.metadata.run(self._run_id(run), force_cache_refresh))

    def find_runs(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[RunApi]:
        return self.services.search.runs(query, sorting, lambda run: RunApi.of(self._api, run), limit=limit)

    def find_child_runs(self, parent: RunLike, *, limit: int | None = None) -> Results[RunApi]:
        key, given = f"tags.{self._api.tag_keys.parent}", self._run_id(parent)
        server_id = self.services.runs.server_id(given)
        # Children that are not delivered yet know a parent that is by its local ID.
        wanted = given if server_id in (None, given) else {"$in": [given, server_id]}
        return self.find_runs({key: wanted}, limit=limit)

    def set_tags_on_run(self, run: RunLike, tags: Mapping[str, Any]) -> RunApi:
        return self._handle(run).set_tags(tags)

    def log_params(self, run: RunLike, params: Mapping[str, Any]) -> RunApi:
        return self._handle(run).log_params(params)

    def log_metrics(self, run: RunLike, metrics: Mapping[str, Any]) -> RunApi:
        return self._handle(run).log_metrics(metrics)

    def get_run_url(self, run: RunLike, exp: Exp | None = None) -> str:
        if exp is None:
            exp = run.exp if isinstance(run, Run) else self._handle(run).exp
        return self._page(f"experiments/{self._exp_id(exp)}/runs/{self._run_id(run)}")

    def cache_run_meta(self, run: RunLike) -> RunApi:
        return self.get_run(run, force_cache_refresh=True)

    def export_run_meta(self, run: RunLike, target: Path | str) -> Path:
        check_given(target=(target, (Path, str)))
        return self.services.metadata.export(self.get_run(run), Path(target))

    def find_runs_of(
        self, exp: Exp, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[RunApi]:
        """Search the runs of one experiment."""
        return self.services.search.runs(
            query, sorting, lambda run: RunApi.of(self._api, run), self._exp_id(exp), limit
        )

    def _create(
        self,
        exp: Exp,
        name: str | None,
        tags: Mapping[str, Any] | None,
        repo: str | None,
        parent: RunLike | None,
        *,
        scheduled: bool = False,
    ) -> RunApi:
        check_types(name=(name, str), tags=(tags, Mapping))
        check_repo(repo)
        self._check_own(experiment=exp, parent=parent)
        if isinstance(parent, str):  # an ID, that may be of no run
            parent = self._handle(parent)
        parent_id = None if parent is None else self._run_id(parent)
        # Inside an open run nothing stops the training: its children go on without the server.
        must_start = parent_id is not None and lifecycle.open_handle(self._api, parent_id) is not None
        experiments = self.services.experiments
        entity = (
            exp if isinstance(exp, Experiment) else self._to_run_in(self._exp_id(exp), must_start=must_start)
        )
        try:
            run = self.services.runs.create(
                entity, name, tags, repo, parent_id, scheduled=scheduled, must_start=must_start
            )
        except ServerError:
            if isinstance(exp, Experiment):  # it was not asked for, and may be deleted by now
                experiments.fetch_active(exp.id)
            raise
        return RunApi.of(self._api, run)

    def _to_run_in(self, exp_id: str, *, must_start: bool) -> Experiment:
        """The experiment of an ID, to start a run in."""
        if self.offline_mode:
            with contextlib.suppress(NotCached):
                return self.services.metadata.exp(exp_id)
        return self.services.experiments.fetch_active(exp_id, must_start=must_start)

    def _handle(self, run: RunLike) -> RunApi:
        """A handle with the run's current fields: the caller's own, or one that is fetched."""
        if isinstance(run, RunApi) and run.api is self._api:
            return run
        self._check_own(run=run)
        if isinstance(run, Run):
            return RunApi.of(self._api, run)
        return lifecycle.open_handle(self._api, self._run_id(run)) or self.get_run(run)
