"""The handle on a model version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from withrun.contract.types import Loader, T
from withrun.handles.base import Handle
from withrun.handles.model import ModelApi
from withrun.handles.run import RunApi
from withrun.schema import ModelVersion

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi
    from withrun.cache.metadata import Alias
    from withrun.transfer.objmeta import ObjMeta

__all__ = ["ModelVersionApi"]


class ModelVersionApi(ModelVersion, Handle):
    """A model version with an API behind it."""

    __slots__ = ("_alias",)

    if TYPE_CHECKING:
        _alias: Alias | None
        model: ModelApi
        run: RunApi | None

    def _bind(self, api: BaseMlflowApi) -> None:
        super()._bind(api)
        self._named(None)
        if not isinstance(self.model, ModelApi) or self.model.api is not api:
            self.__dict__["model"] = ModelApi.of(api, self.model)
        if self.run is not None and (not isinstance(self.run, RunApi) or self.run.api is not api):
            self.__dict__["run"] = RunApi.of(api, self.run)

    def _named(self, alias: Alias | None) -> Self:
        """Remember the alias that the handle was got by: what it caches or exports is found by that, too."""
        object.__setattr__(self, "_alias", alias)
        return self

    def _identity(self) -> tuple[str, ...]:
        return self.model.name, self.version

    def follow(self) -> Self:
        """In place of a local version take the server's number, once the version was registered there."""
        if not self._api.offline_mode:
            self.__dict__["version"] = self._api.services.names.version(self.model.name, self.version)
            if self.run is not None:
                self.run.follow()
        return self

    @property
    def url(self) -> str:
        """The version's page in the server's web interface."""
        return self._api.get_model_version_url(self)

    def cache(self) -> Self:
        """Keep metadata and artifact for offline use."""
        self.cache_meta()
        self.cache_artifact()
        return self

    def export(self, target: Path | str) -> Path:
        """Copy metadata and artifact into the folder `target`, which then serves as an offline cache.

        Returns:
            the artifact's path there.
        """
        self.export_meta(target)
        return self.export_artifact(target)

    def cache_meta(self) -> Self:
        """Fetch the version and keep its metadata, its model's and its run's for offline use."""
        return self._take(self._api.cache_model_version_meta(self))

    def export_meta(self, target: Path | str) -> Path:
        """Copy the version's metadata, its model's and its run's into the folder `target`, as a cache."""
        return self._api.export_model_version_meta(self, target)

    def cache_artifact(self) -> Path:
        """Pull the artifact into the cache, even if it is there."""
        return self._api.cache_model_artifact(self)

    def export_artifact(self, target: Path | str) -> Path:
        """Copy the artifact into the folder `target`, laid out as a cache."""
        return self._api.export_model_artifact(self, target)

    def get_artifact(self) -> Path:
        """A local path of the artifact, pulled if it is not in the cache; not to be changed."""
        return self._api.get_model_artifact(self)

    def load_artifact(self, loader: Loader[T]) -> T:
        """Call `loader` with a local path of the artifact, and return what it returns."""
        return self._api.load_model_artifact(self, loader)

    def place_artifact(self, target: Path | str, overwrite: bool = False, link: bool = True) -> Path:
        """Put the artifact at `target`: links into the cache, or copies."""
        return self._api.place_model_artifact(self, target, overwrite, link)

    def list_artifacts(self, path_suffix: str = "") -> list[ObjMeta] | ObjMeta:
        """List what the artifact holds, from `path_suffix` down."""
        return self._api.list_model_artifact(self, path_suffix)

    def clean_cached_artifact(self) -> Self:
        """Remove the artifact from the cache."""
        self._api.clean_cached_model_artifact(self)
        return self

    def set_tags(self, tags: Mapping[str, Any]) -> Self:
        """Set tags; other tags stay as they are."""
        self._api.set_tags_on_model_version(self, tags)
        return self

    def set_alias(self, alias: str) -> Self:
        """Point an alias at this version, wherever it pointed before."""
        self._api.services.models.set_alias(self.model.name, alias, self.version)
        return self

    def update(self) -> Self:
        """Fetch the version anew."""
        return self._take(self._api.get_model_version(self))
