"""The methods of an API on experiments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from withrun.api.parts import Part
from withrun.contract.experiments import ExperimentsContract
from withrun.contract.types import Exp, Query, Sorting
from withrun.handles import ExpApi
from withrun.services.identify import check_given

if TYPE_CHECKING:
    from withrun.query.search import Results

__all__ = ["ExperimentMethods"]


class ExperimentMethods(Part, ExperimentsContract):
    """What an API does with experiments; documented in the contract."""

    def create_exp(self, name: str, tags: Mapping[str, Any] | None = None) -> ExpApi:
        self._need_server("create_exp")
        return ExpApi.of(self._api, self.services.experiments.create(name, tags))

    def get_or_create_exp(self, name: str) -> ExpApi:
        known = self.services.metadata.exp_by_name(name) if self.offline_mode else None
        return ExpApi.of(self._api, known or self.services.experiments.get_or_create(name))

    def get_exp(self, exp: Exp, *, force_cache_refresh: bool = False) -> ExpApi:
        check_given(force_cache_refresh=(force_cache_refresh, bool))
        return ExpApi.of(self._api, self.services.metadata.exp(self._exp_id(exp), force_cache_refresh))

    def find_exps(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ExpApi]:
        return self.services.search.exps(query, sorting, lambda exp: ExpApi.of(self._api, exp), limit)

    def set_tags_on_exp(self, exp: Exp, tags: Mapping[str, Any]) -> ExpApi:
        self._need_server("set_tags_on_exp")
        self._check_own(experiment=exp)
        self.services.experiments.set_tags(self._exp_id(exp), tags)
        fresh = ExpApi.of(self._api, self.services.experiments.fetch(self._exp_id(exp)))
        return exp._take(fresh) if isinstance(exp, ExpApi) else fresh

    def get_exp_url(self, exp: Exp) -> str:
        return self._page(f"experiments/{self._exp_id(exp)}")

    def cache_exp_meta(self, exp: Exp) -> ExpApi:
        return self.get_exp(exp, force_cache_refresh=True)

    def export_exp_meta(self, exp: Exp, target: Path | str) -> Path:
        check_given(target=(target, (Path, str)))
        return self.services.metadata.export(self.get_exp(exp), Path(target))
