"""The methods of an API on artifacts, and on the cache that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from withrun.api.parts import Part
from withrun.contract.artifacts import ArtifactsContract
from withrun.contract.types import MV, Loader, RunLike, Source, T
from withrun.errors import InvalidArgument, NotCached
from withrun.handles.base import follow
from withrun.schema import ModelVersion, Run
from withrun.services.artifacts import Location, of_run, of_run_id, of_version
from withrun.services.identify import check_given, check_types

if TYPE_CHECKING:
    from withrun.transfer.objmeta import ObjMeta

__all__ = ["ArtifactMethods"]


class ArtifactMethods(Part, ArtifactsContract):
    """What an API does with artifacts; documented in the contract."""

    # --- of runs ---

    def log_run_artifact(
        self,
        run: RunLike,
        source: Source,
        path_in_run: str | None = None,
        keep_the_source: bool | None = None,
        allow_duplication: bool | None = None,
        use_cache: bool | None = None,
    ) -> None:
        check_types(
            path_in_run=(path_in_run, str),
            keep_the_source=(keep_the_source, bool),
            allow_duplication=(allow_duplication, bool),
            use_cache=(use_cache, bool),
        )
        self._check_own(run=run)
        self.services.artifacts.log(
            self._owner(run),
            source,
            path_in_run,
            keep_the_source=keep_the_source,
            allow_duplication=allow_duplication,
            use_cache=use_cache,
        )

    def list_run_artifacts(self, run: RunLike, path_in_run: str = "") -> list[ObjMeta] | ObjMeta:
        return self.services.artifacts.list(self._in_run(run, path_in_run))

    def cache_run_artifact(self, run: RunLike, path_in_run: str = "") -> Path:
        return self.services.artifacts.cache(self._in_run(run, path_in_run))

    def get_run_artifact(self, run: RunLike, path_in_run: str = "") -> Path:
        return self.services.artifacts.get(self._in_run(run, path_in_run))

    def load_run_artifact(self, run: RunLike, loader: Loader[T], path_in_run: str = "") -> T:
        _check_loader(loader)
        return self.services.artifacts.load(self._in_run(run, path_in_run), loader)

    def place_run_artifact(
        self,
        run: RunLike,
        target: Path | str,
        path_in_run: str = "",
        overwrite: bool = False,
        link: bool = True,
    ) -> Path:
        check_given(target=(target, (Path, str)), overwrite=(overwrite, bool), link=(link, bool))
        return self.services.artifacts.place(
            self._in_run(run, path_in_run), target, overwrite=overwrite, link=link
        )

    def export_run_artifact(self, run: RunLike, target: Path | str, path_in_run: str = "") -> Path:
        check_given(target=(target, (Path, str)))
        return self.services.artifacts.export(self._in_run(run, path_in_run), target)

    def clean_cached_run_artifact(self, run: RunLike, path_in_run: str = "") -> None:
        check_given(path_in_run=(path_in_run, str))
        self.services.artifacts.clean(of_run_id(self._run_id(run), "", path_in_run))

    # --- of model versions ---

    def list_model_artifact(self, model_version: MV, path_suffix: str = "") -> list[ObjMeta] | ObjMeta:
        check_given(path_suffix=(path_suffix, str))
        return self.services.artifacts.list(self._in_version(model_version).below(path_suffix))

    def cache_model_artifact(self, model_version: MV) -> Path:
        alias, version = self._alias(model_version), self._version(model_version)
        path = self.services.artifacts.cache(of_version(version))
        self.services.metadata.keep(version, alias)
        return path

    def get_model_artifact(self, model_version: MV) -> Path:
        return self.services.artifacts.get(self._in_version(model_version))

    def load_model_artifact(self, model_version: MV, loader: Loader[T]) -> T:
        _check_loader(loader)
        return self.services.artifacts.load(self._in_version(model_version), loader)

    def place_model_artifact(
        self, model_version: MV, target: Path | str, overwrite: bool = False, link: bool = True
    ) -> Path:
        check_given(target=(target, (Path, str)), overwrite=(overwrite, bool), link=(link, bool))
        return self.services.artifacts.place(
            self._in_version(model_version), target, overwrite=overwrite, link=link
        )

    def export_model_artifact(self, model_version: MV, target: Path | str) -> Path:
        check_given(target=(target, (Path, str)))
        alias, version = self._alias(model_version), self._version(model_version)
        path = self.services.artifacts.export(of_version(version), target)
        self.services.metadata.keep(version, alias, Path(target))
        return path

    def clean_cached_model_artifact(self, model_version: MV) -> None:
        self.services.artifacts.clean(self._in_version(model_version))

    # --- the cache as a whole ---

    def clean_all_cache(self) -> None:
        self.services.artifacts.clean_all()
        self.services.metadata.clean_all()

    def clean_temp_artifacts(self) -> None:
        self.services.artifacts.clean_temp()

    # --- within ---

    def _owner(self, run: RunLike) -> Run:
        """A run's entity: the caller's own, or one that is fetched."""
        if isinstance(run, Run):
            follow(run)
            return self.services.metadata.current(run)
        return self.services.metadata.run(self._run_id(run))

    def _in_run(self, run: RunLike, path_in_run: str) -> Location:
        check_given(path_in_run=(path_in_run, str))
        if isinstance(run, Run):
            return of_run(self._owner(run), path_in_run)
        identifier = self._run_id(run)
        try:
            repo_url = self.services.metadata.repo_url(identifier)
        except NotCached:
            # What is cached, or exported, of a run is served though nothing else is known of it.
            where = of_run_id(identifier, "", path_in_run)
            if not self.services.artifacts.is_cached(where):
                raise
            return where
        return of_run_id(identifier, repo_url, path_in_run)

    def _version(self, model_version: MV) -> ModelVersion:
        if isinstance(model_version, ModelVersion):
            follow(model_version)
            return self.services.metadata.current_version(model_version)
        return self.services.metadata.version(*self._version_key(model_version))

    def _in_version(self, model_version: MV) -> Location:
        return of_version(self._version(model_version))


def _check_loader(loader: object) -> None:
    if not callable(loader):
        raise InvalidArgument(
            f"loader={loader!r:.100} is of type {type(loader).__name__}; give a function that takes a path"
        )
