"""The API on MLflow: configuration, and which backend it connects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, PrivateAttr, SecretStr, model_validator

from withrun.api import BaseMlflowApi
from withrun.backend import Backend, FilterGrammar
from withrun.deadline import within
from withrun.errors import InvalidArgument
from withrun.providers.mlflow.default_store import default_tracking_uri
from withrun.providers.mlflow.pushdown import MlflowPushDown
from withrun.providers.mlflow.server_url import parse_server_url
from withrun.providers.mlflow.settings import ClientSettings
from withrun.query.pushing import PushDown

if TYPE_CHECKING:
    import httpx

__all__ = ["MlflowApi"]

_CREDENTIALS = {"headers", "token", "username", "password", "client_key_password", "proxy"}
"""Fields of `ClientSettings` that hold, or may hold, credentials: kept out of pickles."""


_DELIVERY_THREADS = 4
"""Runs that are written to side by side: as many as a stock `mlflow server` has workers."""


class MlflowApi(BaseMlflowApi):
    """An API on an MLflow tracking server, or on any store that MLflow knows.

    Attributes:
        tracking_uri: a server's URL, `sqlite:///PATH`, or another store's URI; default: what a bare
            `mlflow ui` in the current folder would show. Credentials in it are used, and not shown: a
            server's are moved to `client_settings`.
        healthcheck: ask the server whether it answers when the API is made, unless runs may start without it
            (`on_unreachable="offline"`).
        client_settings: timeouts, retries, headers, credentials and TLS of this instance.
        query_push_down: makes what tells which conditions of a query the store can answer.
    """

    tracking_uri: str = Field(default_factory=default_tracking_uri)
    healthcheck: bool = True
    client_settings: ClientSettings = Field(default_factory=ClientSettings)

    query_push_down: Callable[[FilterGrammar], PushDown] = MlflowPushDown

    _backend: Backend = PrivateAttr()
    _is_connected: bool = PrivateAttr(default=False)
    _full_uri: str = PrivateAttr()  # with a database's credentials, which `tracking_uri` does not show

    @model_validator(mode="before")
    @classmethod
    def _move_credentials(cls, conf: Any) -> Any:
        """Take user name and password out of a server's URL, so that the URL can be shown."""
        uri = conf.get("tracking_uri") if isinstance(conf, dict) else None
        if not isinstance(uri, str) or not _is_server(uri):
            return conf
        server = parse_server_url(uri)
        settings = conf.get("client_settings") or {}
        if isinstance(settings, ClientSettings):
            settings = {name: getattr(settings, name) for name in settings.model_fields_set}
        if server.username is not None:
            settings = {"username": server.username, "password": server.password or "", **settings}
        return {**conf, "tracking_uri": server.url, "client_settings": settings}

    def model_post_init(self, context: Any, /) -> None:
        """Choose the backend and the default cache; the backend is asked only if its health is checked."""
        super().model_post_init(context)
        self._full_uri = self.tracking_uri
        self._backend = self._make_backend()
        if not _is_embedded(self.tracking_uri):
            object.__setattr__(self, "tracking_uri", self._backend.store_uri)
        if self.cache_dir is None:
            key = hashlib.sha256(self._backend.store_uri.encode()).hexdigest()[:16]
            object.__setattr__(self, "cache_dir", Path(platformdirs.user_cache_dir("withrun")) / key)
        must_answer = self.healthcheck and not self.offline_mode and self.on_unreachable != "offline"
        if must_answer and _is_server(self.tracking_uri):
            with within(self.connect_timeout):
                self._backend.server_info()

    def _make_backend(self) -> Backend:
        # Each imports what it needs: a session against a server never imports MLflow.
        if _is_server(self.tracking_uri):
            from withrun.providers.mlflow.rest import RestBackend

            return RestBackend(self.tracking_uri, self.client_settings)
        from withrun.providers.mlflow.store import StoreBackend

        return StoreBackend(self._full_uri)

    def _connect(self) -> Backend:
        if self._is_connected:
            return self._make_backend()
        self._is_connected = True
        return self._backend

    def _delivery_threads(self) -> int:
        return 1 if _is_embedded(self.tracking_uri) else _DELIVERY_THREADS

    def _identity(self) -> str:
        secrets = {name: getattr(self.client_settings, name) for name in sorted(_CREDENTIALS)}
        return hashlib.sha256(repr((self._full_uri, _revealed(secrets))).encode()).hexdigest()

    def _http(self) -> httpx.Client | None:
        return getattr(self._backend, "http", None)

    def _push_down(self) -> PushDown:
        return self.query_push_down(self._backend.grammar)

    def _own_conf(self) -> dict[str, Any]:
        return {**super()._own_conf(), "tracking_uri": self._full_uri}

    @classmethod
    def conf_from_pickle(cls, conf: dict[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
        """The pickled configuration, less the URI if it is the environment's own, which has credentials."""
        uri = environment.get("tracking_uri")
        if not isinstance(uri, str) or _shown(uri) != conf.get("tracking_uri"):
            return conf
        return {name: value for name, value in conf.items() if name != "tracking_uri"}

    def _portable_conf(self) -> dict[str, Any]:
        conf = super()._portable_conf()
        conf["tracking_uri"] = self._backend.store_uri
        given = self.client_settings.model_fields_set - _CREDENTIALS
        conf["client_settings"] = {name: getattr(self.client_settings, name) for name in given}
        return conf


def _revealed(value: Any) -> Any:
    """A value with the secrets in it laid open, for a hash that tells them apart."""
    if isinstance(value, dict):
        return sorted((name, _revealed(inner)) for name, inner in value.items())
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _is_embedded(uri: str) -> bool:
    """Whether the store is a file or folder here, whose URI has no credentials."""
    scheme = urlsplit(uri).scheme.lower()
    return scheme in ("", "file") or scheme.partition("+")[0] == "sqlite"


def _shown(uri: str) -> str | None:
    """The name of the store at a URI, as `store_uri` gives it; None if the URI can't be used."""
    try:
        if _is_server(uri):
            return parse_server_url(uri).url
        from withrun.providers.mlflow.store_location import locate

        return locate(uri).shown
    except InvalidArgument:
        return None


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme.lower() in ("http", "https")
