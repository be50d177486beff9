"""The handle on an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from withrun.handles.base import Handle
from withrun.schema import Experiment

if TYPE_CHECKING:
    from withrun.contract.types import Query, RunLike, Sorting
    from withrun.handles.run import RunApi
    from withrun.query.search import Results

__all__ = ["ExpApi"]


class ExpApi(Experiment, Handle):
    """An experiment with an API behind it."""

    __slots__ = ()

    def _identity(self) -> tuple[str, ...]:
        return (self.id,)

    def follow(self) -> Self:
        """In place of a local ID take the server's, once the experiment was delivered."""
        if not self._api.offline_mode:
            self.__dict__["id"] = self._api.services.names.experiment(self.id)
        return self

    @property
    def url(self) -> str:
        """The experiment's page in the server's web interface."""
        return self._api.get_exp_url(self)

    def start_run(
        self,
        name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        repo: str | None = None,
        parent: RunLike | None = None,
        *,
        nested: bool = False,
    ) -> RunApi:
        """Start a run in this experiment; see `start_run` of the API."""
        return self._api.start_run(self, name, tags, repo, parent, nested=nested)

    def create_run(
        self,
        name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        repo: str | None = None,
        parent: RunLike | None = None,
    ) -> RunApi:
        """Declare a run in this experiment, to be started later; see `create_run` of the API."""
        return self._api.create_run(self, name, tags, repo, parent)

    def find_runs(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[RunApi]:
        """Search the runs of this experiment; see `find_runs` of the API."""
        return self._api.find_runs_of(self, query, sorting, limit=limit)

    def set_tags(self, tags: Mapping[str, Any]) -> Self:
        """Set tags; other tags stay as they are."""
        self._api.set_tags_on_exp(self, tags)
        return self

    def cache_meta(self) -> Self:
        """Fetch the experiment and keep its metadata for offline use."""
        return self._take(self._api.cache_exp_meta(self))

    def export_meta(self, target: Path | str) -> Path:
        """Copy the experiment's metadata into the folder `target`, laid out as a cache."""
        return self._api.export_exp_meta(self, target)

    def update(self) -> Self:
        """Fetch the experiment anew."""
        return self._take(self._api.get_exp(self))
