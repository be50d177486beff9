"""The contract on artifacts of runs and of model versions, and on the cache that holds them.

**log** publishes to the run's artifact folder (and may keep a cached copy), **cache** pulls into the cache,
**get** gives a local path, **load** gets and calls a loader, **place** links or copies out of the cache,
**export** copies with the cache's structure, **list** lists the artifact folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from withrun.contract.types import MV, Loader, RunLike, Source, T

if TYPE_CHECKING:
    from withrun.transfer.objmeta import ObjMeta

__all__ = ["ArtifactsContract"]


class ArtifactsContract(ABC):
    """What an API does with artifacts."""

    # --- of runs ---

    @abstractmethod
    def log_run_artifact(
        self,
        run: RunLike,
        source: Source,
        path_in_run: str | None = None,
        keep_the_source: bool | None = None,
        allow_duplication: bool | None = None,
        use_cache: bool | None = None,
    ) -> None:
        """Publish a file or folder to a run; adds and replaces file by file, deletes nothing.

        Args:
            run: the run or its ID.
            source: a path, or a callback that is given a path to write to.
            path_in_run: plain relative POSIX path; default is the source's own name. A callback has none.
            keep_the_source: default True for a path, False for a callback.
            allow_duplication: if False, the source may become a link to its copy in the cache to save disk;
                default True when the source is kept and the run's folder is local. No later call changes what
                the link leads to, and cleaning the cache gives the source back. What waits for the server
                stays as it is.
            use_cache: keep a copy in the cache; default True when the run's folder is remote, or the source
                may become a link. If it can't be kept, a warning says why; with True, that is an error.

        Raises:
            AlreadyExists: it would change the files of a model version.
            CacheError: it was published, but not cached though `use_cache` is True.
            IllegalPath: `path_in_run` is absolute, empty or climbs.
            FailedToPublishArtifact: names the source, or what the callback wrote, which is kept.
        """

    @abstractmethod
    def list_run_artifacts(self, run: RunLike, path_in_run: str = "") -> list[ObjMeta] | ObjMeta:
        """List what a run holds in a folder; of a file, its own `ObjMeta` in place of a list.

        Raises:
            ArtifactNotFound: nothing is there.
        """

    @abstractmethod
    def cache_run_artifact(self, run: RunLike, path_in_run: str = "") -> Path:
        """Pull an artifact into the cache, even if it is there; returns its path in the cache."""

    @abstractmethod
    def get_run_artifact(self, run: RunLike, path_in_run: str = "") -> Path:
        """A local path of an artifact, pulled if it is not in the cache; not to be changed."""

    @abstractmethod
    def load_run_artifact(self, run: RunLike, loader: Loader[T], path_in_run: str = "") -> T:
        """Call `loader` with a local path of an artifact, and return what it returns."""

    @abstractmethod
    def place_run_artifact(
        self,
        run: RunLike,
        target: Path | str,
        path_in_run: str = "",
        overwrite: bool = False,
        link: bool = True,
    ) -> Path:
        """Put an artifact at `target`: links into the cache, or copies; files are write-protected.

        Raises:
            TargetExists: something is at `target`, and `overwrite` is False.
        """

    @abstractmethod
    def export_run_artifact(self, run: RunLike, target: Path | str, path_in_run: str = "") -> Path:
        """Copy an artifact into the folder `target`, laid out as a cache.

        Returns:
            the artifact's path there.
        """

    @abstractmethod
    def clean_cached_run_artifact(self, run: RunLike, path_in_run: str = "") -> None:
        """Remove an artifact from the cache."""

    # --- of model versions ---

    @abstractmethod
    def list_model_artifact(self, model_version: MV, path_suffix: str = "") -> list[ObjMeta] | ObjMeta:
        """List what a model version's artifact holds, from `path_suffix` down."""

    @abstractmethod
    def cache_model_artifact(self, model_version: MV) -> Path:
        """Pull a model version's artifact into the cache, even if it is there."""

    @abstractmethod
    def get_model_artifact(self, model_version: MV) -> Path:
        """A local path of a model version's artifact, pulled if it is not in the cache; not to be changed."""

    @abstractmethod
    def load_model_artifact(self, model_version: MV, loader: Loader[T]) -> T:
        """Call `loader` with a local path of a model version's artifact, and return what it returns."""

    @abstractmethod
    def place_model_artifact(
        self, model_version: MV, target: Path | str, overwrite: bool = False, link: bool = True
    ) -> Path:
        """Put a model version's artifact at `target`: links into the cache, or copies."""

    @abstractmethod
    def export_model_artifact(self, model_version: MV, target: Path | str) -> Path:
        """Copy a model version's artifact into the folder `target`, laid out as a cache."""

    @abstractmethod
    def clean_cached_model_artifact(self, model_version: MV) -> None:
        """Remove a model version's artifact from the cache."""

    # --- the cache as a whole ---

    @abstractmethod
    def clean_all_cache(self) -> None:
        """Remove all cached metadata and artifacts; what is logged but not yet delivered is not among it."""

    @abstractmethod
    def clean_temp_artifacts(self) -> None:
        """Remove what dumper callbacks wrote and could not be published."""
