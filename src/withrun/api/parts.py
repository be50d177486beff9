"""What the groups of methods of an API share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from withrun.cache.metadata import Alias
from withrun.errors import InvalidArgument, OfflineError
from withrun.handles.base import Handle, follow
from withrun.handles.model_version import ModelVersionApi
from withrun.schema import ModelVersion
from withrun.services.identify import experiment_id, run_id, version_key

if TYPE_CHECKING:
    from withrun.api.base import BaseMlflowApi
    from withrun.contract.types import MV, Exp, RunLike
    from withrun.services.assembly import Services

__all__ = ["Part"]


class Part:
    """One group of an API's methods; documented in the contract."""

    if TYPE_CHECKING:
        offline_mode: bool

        @property
        def services(self) -> Services:
            """What stands behind the methods."""

    @property
    def _api(self) -> BaseMlflowApi:
        return cast("BaseMlflowApi", self)

    # An entity by whatever names it: itself, a handle on it, its ID, also a local one. See `Handle.follow`.

    def _exp_id(self, exp: Exp) -> str:
        follow(exp)
        return self.services.names.experiment(experiment_id(exp))

    def _run_id(self, run: RunLike) -> str:
        follow(run)
        return self.services.names.run(run_id(run))

    def _version_key(self, version: MV) -> tuple[str, str]:
        follow(version)
        name, number = version_key(version)
        return name, self.services.names.version(name, number)

    def _alias(self, version: MV) -> Alias | None:
        """The alias by which a version is asked for, or a handle on it was; None if it is by number."""
        if isinstance(version, ModelVersionApi):
            return version._alias
        if isinstance(version, ModelVersion):
            return None
        _, number = version_key(version)
        return Alias(number[1:]) if number.startswith("@") else None

    def _need_server(self, call: str) -> None:
        """Refuse a call that offline nothing can answer."""
        if self.offline_mode:
            raise OfflineError(
                f"{call} needs the server, and this API is offline; use one that is not in offline mode"
            )

    def _check_own(self, **entities: Any) -> None:
        """Refuse handles on entities of another store, whose IDs name something else, or nothing, here."""
        for name, entity in entities.items():
            if not isinstance(entity, Handle) or entity.api is self:
                continue
            theirs, own = entity.api.store_uri, self._api.store_uri
            if theirs != own:
                raise InvalidArgument(
                    f"the {name} is of the store {theirs}, and this API is on {own}: use the handle's own "
                    "API, or name one of this store (by its ID, if both URIs mean the same store)"
                )

    def _page(self, fragment: str) -> str:
        """URL of a page of MLflow's web interface; of a store without one, its URI with that fragment."""
        uri = self._api.store_uri
        slash = "/" if urlsplit(uri).scheme in ("http", "https") else ""
        return f"{uri.rstrip('/') if slash else uri}{slash}#/{fragment}"
