"""What the groups of methods of an API share."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from withrun.errors import OfflineError

if TYPE_CHECKING:
    from withrun.api.base import BaseMlflowApi
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

    def _need_server(self, call: str) -> None:
        """Refuse a call that offline nothing can answer."""
        if self.offline_mode:
            raise OfflineError(
                f"{call} needs the server, and this API is offline; use one that is not in offline mode"
            )

    def _page(self, fragment: str) -> str:
        """URL of a page of MLflow's web interface; of a store without one, its URI with that fragment."""
        uri = self._api.store_uri
        slash = "/" if urlsplit(uri).scheme in ("http", "https") else ""
        return f"{uri.rstrip('/') if slash else uri}{slash}#/{fragment}"
