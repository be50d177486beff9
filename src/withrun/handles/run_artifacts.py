"""The verbs of a run's handle on its artifacts and model versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from withrun.contract.types import Loader, ModelLike, Query, Sorting, Source, T
from withrun.handles.base import Handle
from withrun.schema import Run
from withrun.services.identify import check_types
from withrun.transfer.paths import check_relative

if TYPE_CHECKING:
    from withrun.handles.model_version import ModelVersionApi
    from withrun.query.search import Results
    from withrun.transfer.objmeta import ObjMeta

__all__ = ["ArtifactVerbs"]


class ArtifactVerbs(Run, Handle):
    """Artifacts and model versions of a run; each verb is that of the API, see there."""

    __slots__ = ()

    def log_artifact(
        self,
        source: Source,
        path_in_run: str | None = None,
        keep_the_source: bool | None = None,
        allow_duplication: bool | None = None,
        use_cache: bool | None = None,
    ) -> Self:
        """Publish a file or folder; see `log_run_artifact` of the API."""
        self._api.log_run_artifact(self, source, path_in_run, keep_the_source, allow_duplication, use_cache)
        return self

    def log_model_version(
        self,
        model: ModelLike,
        source: Source,
        path_in_run: str | None = None,
        keep_the_source: bool | None = None,
        allow_duplication: bool | None = None,
        use_cache: bool | None = None,
        version: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> ModelVersionApi:
        """Publish an artifact and register it as the next version of a model; see the API's verb."""
        return self._api.log_model_version(
            model, self, source, path_in_run, keep_the_source, allow_duplication, use_cache, version, tags
        )

    def list_artifacts(self, path_in_run: str = "") -> list[ObjMeta] | ObjMeta:
        """List a folder of the run's artifacts, or the one file at that path."""
        return self._api.list_run_artifacts(self, path_in_run)

    def cache_artifact(self, path_in_run: str = "") -> Path:
        """Pull an artifact into the cache, even if it is there."""
        return self._api.cache_run_artifact(self, path_in_run)

    def get_artifact(self, path_in_run: str = "") -> Path:
        """A local path of an artifact, pulled if it is not in the cache; not to be changed."""
        return self._api.get_run_artifact(self, path_in_run)

    def load_artifact(self, loader: Loader[T], path_in_run: str = "") -> T:
        """Call `loader` with a local path of an artifact, and return what it returns."""
        return self._api.load_run_artifact(self, loader, path_in_run)

    def place_artifact(
        self, target: Path | str, path_in_run: str = "", overwrite: bool = False, link: bool = True
    ) -> Path:
        """Put an artifact at `target`: links into the cache, or copies."""
        return self._api.place_run_artifact(self, target, path_in_run, overwrite, link)

    def export_artifact(self, target: Path | str, path_in_run: str = "") -> Path:
        """Copy an artifact into the folder `target`, laid out as a cache."""
        return self._api.export_run_artifact(self, target, path_in_run)

    def clean_cached_artifact(self, path_in_run: str = "") -> Self:
        """Remove an artifact from the cache."""
        self._api.clean_cached_run_artifact(self, path_in_run)
        return self

    def find_model_versions(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ModelVersionApi]:
        """Search the model versions that this run made; see `find_model_versions` of the API."""
        return self._api.find_versions_of_run(self, query, sorting, limit=limit)

    def get_artifact_uri(self, artifact_path: str | None = None) -> str:
        """URL of the run's artifact folder, or of what lies at `artifact_path` in it."""
        check_types(artifact_path=(artifact_path, str))
        root = self._api.services.metadata.current(self).repo_url.rstrip("/")
        return f"{root}/{check_relative(artifact_path, what='artifact_path')}" if artifact_path else root
