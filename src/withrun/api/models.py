"""The methods of an API on registered models and their versions."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from withrun.api.parts import Part
from withrun.contract.models import ModelsContract
from withrun.contract.types import MV, ModelLike, Query, RunLike, Sorting, Source
from withrun.handles import ModelApi, ModelVersionApi
from withrun.schema import Model, ModelVersion, Run
from withrun.services.artifacts import of_run
from withrun.services.identify import check_given, check_types, model_name
from withrun.services.models import refuse_chosen_version
from withrun.services.source import path_of, target_path

if TYPE_CHECKING:
    from withrun.query.search import Results

__all__ = ["ModelMethods"]


class ModelMethods(Part, ModelsContract):
    """What an API does with registered models and versions; documented in the contract."""

    def create_model(self, name: str, tags: Mapping[str, Any] | None = None) -> ModelApi:
        self._need_server("create_model")
        return ModelApi.of(self._api, self.services.models.create(name, tags))

    def get_or_create_model(self, name: str) -> ModelApi:
        return ModelApi.of(self._api, self.services.models.get_or_create(name))

    def get_model(self, model: ModelLike, *, force_cache_refresh: bool = False) -> ModelApi:
        check_given(force_cache_refresh=(force_cache_refresh, bool))
        return ModelApi.of(self._api, self.services.metadata.model(model_name(model), force_cache_refresh))

    def find_models(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ModelApi]:
        return self.services.search.models(query, sorting, lambda model: ModelApi.of(self._api, model), limit)

    def set_tags_on_model(self, model: ModelLike, tags: Mapping[str, Any]) -> ModelApi:
        self._need_server("set_tags_on_model")
        self._check_own(model=model)
        self.services.models.set_tags(model_name(model), tags)
        fresh = ModelApi.of(self._api, self.services.models.fetch(model_name(model)))
        return model._take(fresh) if isinstance(model, ModelApi) else fresh

    def get_model_url(self, model: ModelLike) -> str:
        return self._page(f"models/{quote(model_name(model), safe='')}")

    def cache_model_meta(self, model: ModelLike) -> ModelApi:
        return self.get_model(model, force_cache_refresh=True)

    def export_model_meta(self, model: ModelLike, target: Path | str) -> Path:
        check_given(target=(target, (Path, str)))
        return self.services.metadata.export(self.get_model(model), Path(target))

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
        check_types(version=(version, str), path_in_run=(path_in_run, str), tags=(tags, Mapping))
        refuse_chosen_version(version)
        self._check_own(model=model, run=run)
        # All that can be judged without the store is, before anything is published.
        services = self.services
        services.models.check_tags(tags)
        inside = target_path(path_of(source), model_name(model) if path_in_run is None else path_in_run)
        owner = (
            services.metadata.current(run) if isinstance(run, Run) else self._api.get_run(self._run_id(run))
        )
        spool = services.writes.spool_of(owner.id)
        where = of_run(owner, inside)
        services.models.paths.check_free(owner, where.path)
        if spool is not None:
            entity: Model = services.models.promise(model_name(model))
        else:
            services.models.check_registrable(owner)
            entity = model if isinstance(model, Model) else services.models.get_or_create(model_name(model))
        registered: list[ModelVersion] = []

        def register() -> str:
            if spool is not None:
                version = services.models.register_later(entity, owner, where.path, tags, spool)
            else:
                # Another may have come, from elsewhere, while this was sent.
                services.models.paths.check_free(owner, where.path)
                version = services.models.register(entity, owner, where.path, tags)
            registered.append(version)
            return f"version {version.version} of model {entity.name!r}"

        with contextlib.ExitStack() as stack:

            def before(_: Collection[str]) -> None:
                stack.enter_context(services.artifacts.claimed(where))
                services.models.paths.check_free(owner, where.path)

            services.artifacts.log(
                owner,
                source,
                where.path,
                keep_the_source=keep_the_source,
                allow_duplication=allow_duplication,
                use_cache=use_cache,
                before=before,
                register=register,
            )
        return ModelVersionApi.of(self._api, registered[0])

    def get_model_version(self, model_version: MV, *, force_cache_refresh: bool = False) -> ModelVersionApi:
        check_given(force_cache_refresh=(force_cache_refresh, bool))
        alias = self._alias(model_version)
        name, version = self._version_key(model_version)
        found = self._version_handle(self.services.metadata.version(name, version, force_cache_refresh))
        return found._named(alias)

    def find_model_versions(
        self, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ModelVersionApi]:
        return self.services.search.versions(query, sorting, self._version_handle, limit=limit)

    def set_tags_on_model_version(self, model_version: MV, tags: Mapping[str, Any]) -> ModelVersionApi:
        self._need_server("set_tags_on_model_version")
        self._check_own(version=model_version)
        models = self.services.models
        name, version = models.resolve(*self._version_key(model_version))
        models.set_version_tags(name, version, tags)
        fresh = self._version_handle(models.fetch_version(name, version))
        return model_version._take(fresh) if isinstance(model_version, ModelVersionApi) else fresh

    def get_model_version_url(self, model_version: MV) -> str:
        name, version = self._version_key(model_version)
        if version.startswith("@"):
            version = self.get_model_version(model_version).version
        return self._page(f"models/{quote(name, safe='')}/versions/{quote(version, safe='')}")

    def cache_model_version_meta(self, model_version: MV) -> ModelVersionApi:
        found = self.get_model_version(model_version, force_cache_refresh=True)
        self.services.metadata.keep(found, found._alias)
        return found

    def export_model_version_meta(self, mv: ModelVersion | tuple[str, str], target: Path | str) -> Path:
        check_given(target=(target, (Path, str)))
        found = self.get_model_version(mv)
        file = self.services.metadata.export(found, Path(target))
        self.services.metadata.keep(found, found._alias, Path(target))
        return file

    def find_versions_of_model(
        self, model: ModelLike, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ModelVersionApi]:
        """Search the versions of one registered model."""
        return self.services.search.versions(
            query, sorting, self._version_handle, name=model_name(model), limit=limit
        )

    def find_versions_of_run(
        self, run: RunLike, query: Query = None, sorting: Sorting = None, *, limit: int | None = None
    ) -> Results[ModelVersionApi]:
        """Search the model versions that one run made."""
        return self.services.search.versions(
            query, sorting, self._version_handle, run_id=self._run_id(run), limit=limit
        )

    def _version_handle(self, version: ModelVersion) -> ModelVersionApi:
        return ModelVersionApi.of(self._api, version)
