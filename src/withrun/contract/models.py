"""The contract on registered models and their versions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from withrun.contract.types import MV, ModelLike, Query, RunLike, Sorting, Source
from withrun.schema import ModelVersion

if TYPE_CHECKING:
    from withrun.handles import ModelApi, ModelVersionApi
    from withrun.query.search import Results

__all__ = ["ModelsContract"]


class ModelsContract(ABC):
    """What an API does with registered models and model versions."""

    @abstractmethod
    def create_model(self, name: str, tags: Mapping[str, Any] | None = None) -> ModelApi:
        """Register a model name, under which versions are logged.

        Raises:
            AlreadyExists: the name is taken.
            OfflineError: the API is offline; `get_or_create_model` works there.
        """

    @abstractmethod
    def get_or_create_model(self, name: str) -> ModelApi:
        """Fetch the registered model of that name, creating it if there is none."""

    @abstractmethod
    def get_model(self, model: ModelLike, *, force_cache_refresh: bool = False) -> ModelApi:
        """Fetch a registered model; offline, from the cached metadata."""

    @abstractmethod
    def find_models(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ModelApi]:
        """Search registered models.

        Args:
            query: a MongoDB query over the fields of `Model`, or an MLflow filter string.
            sorting: such as `[("name", 1)]`.
            limit: at most that many; pages are sized for it.
        """

    @abstractmethod
    def set_tags_on_model(self, model: ModelLike, tags: Mapping[str, Any]) -> ModelApi:
        """Set tags on a registered model; other tags stay as they are."""

    @abstractmethod
    def get_model_url(self, model: ModelLike) -> str:
        """The registered model's page in the server's web interface."""

    @abstractmethod
    def cache_model_meta(self, model: ModelLike) -> ModelApi:
        """Fetch a registered model and keep its metadata for offline use."""

    @abstractmethod
    def export_model_meta(self, model: ModelLike, target: Path | str) -> Path:
        """Copy a registered model's metadata into the folder `target`, laid out as a cache."""

    @abstractmethod
    def log_model_version(
        self,
        model: ModelLike,
        run: RunLike,
        source: Source,
        path_in_run: str | None = None,
        keep_the_source: bool | None = None,
        allow_duplication: bool | None = None,
        use_cache: bool | None = None,
        version: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> ModelVersionApi:
        """Publish an artifact under a run and register it as the next version of a model.

        Args:
            model: the registered model or its name.
            run: the run that made it.
            source: a path, or a callback that is given a path to write to.
            path_in_run: where to put it; default is the model's name.
            keep_the_source: see `log_run_artifact`.
            allow_duplication: see `log_run_artifact`.
            use_cache: see `log_run_artifact`.
            version: the version's number, where the store lets one choose it.
            tags: nested dict of JSON values.

        Of several that are published to one path at once by processes that share a `cache_dir`, one succeeds.
        Between machines that share none, the second to be registered is refused, after it was sent.

        Raises:
            AlreadyExists: another version's artifact lies at that path of the run.
            CacheError: it is registered, as the error says, and not cached though `use_cache` is True.
            FailedToPublishArtifact: names what was kept.
            InvalidArgument: `version` was given, and the store numbers versions itself; or the run has a
                local `repo`, and the store is a server, which registers no such versions.
        """

    @abstractmethod
    def get_model_version(self, model_version: MV, *, force_cache_refresh: bool = False) -> ModelVersionApi:
        """Fetch a model version; offline, from the cached metadata."""

    @abstractmethod
    def find_model_versions(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ModelVersionApi]:
        """Search model versions.

        Args:
            query: a MongoDB query over the fields of `ModelVersion`, or an MLflow filter string.
            sorting: such as `[("run.start_time", -1)]`.
            limit: at most that many; pages are sized for it.

        Example:
            >>> api.find_model_versions({"model": "digits", "run.metrics.accuracy": {"$gt": 0.9}}).first()
        """

    @abstractmethod
    def set_tags_on_model_version(self, model_version: MV, tags: Mapping[str, Any]) -> ModelVersionApi:
        """Set tags on a model version; other tags stay as they are."""

    @abstractmethod
    def get_model_version_url(self, model_version: MV) -> str:
        """The model version's page in the server's web interface."""

    @abstractmethod
    def cache_model_version_meta(self, model_version: MV) -> ModelVersionApi:
        """Fetch a model version and keep its metadata, its model's and its run's for offline use."""

    @abstractmethod
    def export_model_version_meta(self, mv: ModelVersion | tuple[str, str], target: Path | str) -> Path:
        """Copy a model version's metadata, its model's and its run's into the folder `target`, as a cache."""
