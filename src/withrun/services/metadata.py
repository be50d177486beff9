"""Entities by identifier: from the store, or offline from cached metadata; caching and exporting them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from withrun.cache.metadata import Alias, MetadataCache
from withrun.cache.serializer import EntitySerializer
from withrun.errors import CacheError, InvalidArgument, NotCached, OfflineError
from withrun.journal import looks_local
from withrun.schema import Experiment, Model, ModelVersion, Run
from withrun.services.experiments import ExperimentService
from withrun.services.local_entities import LocalEntities
from withrun.services.models import ModelService
from withrun.services.runs import RunService

__all__ = ["MetadataService"]

_KEPT_REPOS = 1024
"""Runs whose artifact folders are remembered."""

E = TypeVar("E", Experiment, Run, Model, ModelVersion)


class MetadataService:
    """Fetches entities, keeps them for offline use, and exports them.

    Args:
        root: the cache folder; None if the API has none.
        serializer: how metadata is written.
        offline: read what is cached, and ask no server.
        local: what was logged without the server and is not delivered; offline, it is read too.
    """

    def __init__(
        self,
        root: Path | None,
        serializer: EntitySerializer,
        offline: bool,
        experiments: ExperimentService,
        runs: RunService,
        models: ModelService,
        local: LocalEntities | None = None,
    ) -> None:
        self._root = root
        self._serializer = serializer
        self._cache = None if root is None else MetadataCache(root, serializer)
        self._offline = offline
        self._experiments = experiments
        self._runs = runs
        self._models = models
        self._local = local
        self._repos: dict[str, str] = {}

    @property
    def cache(self) -> MetadataCache:
        """The cached metadata.

        Raises:
            CacheError: the API has no cache.
        """
        if self._cache is None:
            raise CacheError("this API has no cache; give it a cache_dir")
        return self._cache

    def exp(self, experiment_id: str, refresh: bool = False) -> Experiment:
        """An experiment; `refresh` also writes it to the cache."""
        return self._entity(
            f"experiment {experiment_id!r}",
            refresh,
            lambda: self._experiments.fetch(experiment_id),
            lambda cache: cache.experiment(self._server_id("experiment", experiment_id)),
            lambda local: local.experiment(experiment_id),
        )

    def exp_by_name(self, name: str) -> Experiment | None:
        """Offline, the experiment of a name: the cached one, or a local one; None if there is neither."""
        return next((exp for exp in self.experiments() if exp.name == name), None)

    def run(self, run_id: str, refresh: bool = False) -> Run:
        """A run; `refresh` also writes it, with its experiment, to the cache."""
        return self._entity(
            f"run {run_id!r}",
            refresh,
            lambda: self._runs.fetch(run_id),
            lambda cache: cache.run(self._server_id("run", run_id)),
            lambda local: local.run(run_id),
        )

    def current(self, run: Run) -> Run:
        """A run whose artifacts lie where it says: the caller's, unless they are on the server by now.

        Or, as long as they wait, in another place than when the caller got it.
        """
        is_stale = not run.repo_url or self._runs.server_id(run.id) is not None
        if not is_stale and self._local is not None:
            is_stale = self._local.repo_url(run.id) not in (None, run.repo_url)
        return self.run(run.id) if is_stale else run

    def current_version(self, version: ModelVersion) -> ModelVersion:
        """A version with its run as the server knows it by now; see `current`."""
        if version.run is None or (run := self.current(version.run)) is version.run:
            return version
        return version.model_copy(update={"run": run})

    def repo_url(self, run_id: str) -> str:
        """Where a run's artifacts lie, asked for once: on a server that never changes."""
        known = self._repos.get(run_id)
        if known is None:
            known = self.run(run_id).repo_url
            if known and not looks_local(run_id):
                self._repos[run_id] = known
                # A list, made at once: an iterator would fail where another thread adds a run meanwhile.
                for oldest in list(self._repos)[:-_KEPT_REPOS]:
                    self._repos.pop(oldest, None)
        return known

    def keep(self, version: ModelVersion, alias: Alias | None = None, target: Path | None = None) -> None:
        """Have a version's metadata beside its artifact, in the cache or an export; what is there stays.

        Args:
            version: the version.
            alias: names it offline too, from now on, unless what is there was asked for later.
            target: the export; None for the cache.
        """
        cache = self._cache if target is None else MetadataCache(target, self._serializer)
        if cache is None:
            return
        if cache.version(version.model.name, version.version) is None:
            cache.put(version)
        if alias is not None:
            cache.put_alias(version.model.name, alias, version.version)

    def model(self, name: str, refresh: bool = False) -> Model:
        """A registered model; `refresh` also writes it to the cache."""
        return self._entity(
            f"model {name!r}",
            refresh,
            lambda: self._models.fetch(name),
            lambda cache: cache.model(name),
            lambda local: local.model(name),
        )

    def version(self, name: str, version: str, refresh: bool = False) -> ModelVersion:
        """A model version by number or alias; `refresh` also writes it, with its model and run, to the cache.

        Offline, an alias names the version that was cached, or exported, by it.
        """
        alias = Alias(version[1:]) if version.startswith("@") else None
        if alias is not None and self._offline:
            version = self._cached_alias(name, alias.name)
        found = self._entity(
            f"version {version!r} of model {name!r}",
            refresh,
            lambda: self._models.fetch_version(name, version),
            lambda cache: cache.version(name, self._server_version(name, version)),
            lambda local: local.version(name, version),
        )
        if alias is not None and refresh:
            self.cache.put_alias(name, alias, found.version)
        return found

    def _cached_alias(self, name: str, alias: str) -> str:
        found = self.cache.alias(name, alias)
        if found is None:
            raise OfflineError(
                f"which version of model {name!r} the alias '@{alias}' names, the server alone knows, and "
                "this API is offline. Give the version's number, or cache or export the version's metadata "
                "by its alias while online"
            )
        return found

    def export(self, entity: Experiment | Run | Model | ModelVersion, target: Path) -> Path:
        """Write an entity, and those that it refers to, to a folder laid out as a cache; returns its file."""
        if self._root is not None and target.resolve() == self._root.resolve():
            raise InvalidArgument(f"can't export to {str(target)!r}: it is the cache itself")
        return MetadataCache(target, self._serializer).put(entity)

    # --- all there are offline ---

    def experiments(self) -> Iterator[Experiment]:
        """Yield all cached experiments, and the local ones of other names."""
        names = set()
        for exp in self.cache.experiments():
            names.add(exp.name)
            yield exp
        if self._local is not None:
            yield from (exp for exp in self._local.experiments() if exp.name not in names)

    def runs(self) -> Iterator[Run]:
        """Yield all cached and all local runs."""
        yield from self.cache.runs()
        if self._local is not None:
            yield from self._local.runs()

    def models(self) -> Iterator[Model]:
        """Yield all cached registered models, and the local ones of other names."""
        names = set()
        for model in self.cache.models():
            names.add(model.name)
            yield model
        if self._local is not None:
            yield from (model for model in self._local.models() if model.name not in names)

    def versions(self) -> Iterator[ModelVersion]:
        """Yield all cached and all local model versions."""
        yield from self.cache.versions()
        if self._local is not None:
            yield from self._local.versions()

    def _server_id(self, kind: str, given: str) -> str:
        return given if self._local is None else self._local.server_id(kind, given)

    def _server_version(self, name: str, given: str) -> str:
        return given if self._local is None else self._local.server_version(name, given)

    def clean_all(self) -> None:
        """Remove all cached metadata."""
        if self._cache is not None:
            self._cache.clean()

    def _entity(
        self,
        what: str,
        refresh: bool,
        fetch: Callable[[], E],
        cached: Callable[[MetadataCache], E | None],
        local: Callable[[LocalEntities], E | None],
    ) -> E:
        if not self._offline:
            entity = fetch()
            if refresh:
                self.cache.put(entity)
            return entity
        if refresh:
            raise OfflineError(f"{what} can't be cached anew: that needs the server, and this API is offline")
        if self._local is None:
            found = cached(self.cache)
        else:
            found = (None if self._cache is None else cached(self._cache)) or local(self._local)
        if found is None:
            raise NotCached(
                f"{what} is not in the cached metadata of {str(self._root)!r}, and this API is offline; "
                "cache or export it while online"
            )
        return found
