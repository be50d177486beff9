"""The handle on a registered model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from withrun.handles.base import Handle
from withrun.schema import Model

if TYPE_CHECKING:
    from withrun.contract.types import Query, RunLike, Sorting, Source
    from withrun.handles.model_version import ModelVersionApi
    from withrun.query.search import Results

__all__ = ["ModelApi"]


class ModelApi(Model, Handle):
    """A registered model with an API behind it."""

    __slots__ = ()

    def _identity(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def url(self) -> str:
        """The model's page in the server's web interface."""
        return self._api.get_model_url(self)

    def get_version(self, version: str) -> ModelVersionApi:
        """Fetch a version by number, or by alias (`"@champion"`)."""
        return self._api.get_model_version((self.name, version))

    def find_versions(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ModelVersionApi]:
        """Search the versions of this model; see `find_model_versions` of the API."""
        return self._api.find_versions_of_model(self, query, sorting, limit=limit)

    def log_version(
        self,
        run: RunLike,
        source: Source,
        path_in_run: str | None = None,
        keep_the_source: bool | None = None,
        allow_duplication: bool | None = None,
        use_cache: bool | None = None,
        version: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> ModelVersionApi:
        """Publish an artifact under a run as the next version; see `log_model_version` of the API."""
        return self._api.log_model_version(
            self, run, source, path_in_run, keep_the_source, allow_duplication, use_cache, version, tags
        )

    def delete_alias(self, alias: str) -> Self:
        """Remove an alias; one that is absent counts as removed."""
        self._api.services.models.delete_alias(self.name, alias)
        return self

    def set_tags(self, tags: Mapping[str, Any]) -> Self:
        """Set tags; other tags stay as they are."""
        self._api.set_tags_on_model(self, tags)
        return self

    def cache_meta(self) -> Self:
        """Fetch the model and keep its metadata for offline use."""
        return self._take(self._api.cache_model_meta(self))

    def export_meta(self, target: Path | str) -> Path:
        """Copy the model's metadata into the folder `target`, laid out as a cache."""
        return self._api.export_model_meta(self, target)

    def update(self) -> Self:
        """Fetch the model anew."""
        return self._take(self._api.get_model(self))
