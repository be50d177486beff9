"""Adds an instance's credentials to its requests, and to no request that goes to another server."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Generator

import httpx
from pydantic import SecretStr

from withrun.errors import InvalidArgument

from .server_url import ServerUrl
from .settings import ClientSettings

__all__ = ["Credentials"]

_SHORTEST_SECRET = 4
"""Shorter ones are parts of ordinary words, and blotting those out would make messages unreadable."""


class Credentials(httpx.Auth):
    """Sets the configured headers and authorization on requests to one server.

    They are not the client's default headers, because those would also go to another host that the same
    client is sent to (a redirect, a pre-signed upload).

    Raises:
        InvalidArgument: the URL and the settings both hold credentials.
    """

    def __init__(self, server: ServerUrl, settings: ClientSettings) -> None:
        if server.username is not None and (settings.token is not None or settings.username is not None):
            raise InvalidArgument(
                f"credentials for {server.url} are given twice, in the tracking URI and in client_settings: "
                "leave one of them out"
            )
        self._origin = _origin(httpx.URL(server.url))
        self._headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._basic = _basic_authorization(server, settings)
        self._token = _Token(settings.token) if settings.token is not None else None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Complete a request; repeat it once with a fresh token if the server refuses the one it got."""
        if _origin(request.url) != self._origin:
            yield request
            return
        request.headers.update(self._headers)
        if self._basic is not None:
            request.headers["Authorization"] = self._basic
        if self._token is None:
            yield request
            return
        token = self._token.get()
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401 and self._token.renewable:
            request.headers["Authorization"] = f"Bearer {self._token.renew(token)}"
            yield request

    def forget_lock(self) -> None:
        """In a forked child: a thread that the child doesn't have may have held the lock."""
        if self._token is not None:
            self._token.lock = threading.Lock()

    def redact(self, text: str) -> str:
        """The text without any of the secrets, in case a server repeats in its answer what it was sent."""
        secrets = [*self._headers.values()]
        if self._basic is not None:
            encoded = self._basic.removeprefix("Basic ")
            secrets += [encoded, base64.b64decode(encoded).decode().partition(":")[2]]
        if self._token is not None and self._token.current is not None:
            secrets.append(self._token.current)
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text


class _Token:
    """A bearer token that is fixed, or kept until it must be renewed."""

    def __init__(self, source: SecretStr | Callable[[], str]) -> None:
        self._renew = source if not isinstance(source, SecretStr) else None
        self.lock = threading.Lock()
        self.current = source.get_secret_value() if isinstance(source, SecretStr) else None

    @property
    def renewable(self) -> bool:
        return self._renew is not None

    def get(self) -> str:
        return self.current if self.current is not None else self.renew(None)

    def renew(self, refused: str | None) -> str:
        """A token other than the one that was refused; threads that are refused together renew it once."""
        with self.lock:
            if self.current is None or self.current == refused:
                assert self._renew is not None  # noqa: S101 - a fixed token is never None nor renewed
                token = self._renew()
                if not isinstance(token, str) or not (token.isascii() and token.isprintable()) or not token:
                    raise InvalidArgument(
                        "the token function of client_settings must return a token as a non-empty string of "
                        f"printable ASCII characters; it returned another value ({type(token).__name__})"
                    )
                self.current = token
            return self.current


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port


def _basic_authorization(server: ServerUrl, settings: ClientSettings) -> str | None:
    if server.username is not None:
        username, password = server.username, server.password or ""
    elif settings.username is not None:
        username = settings.username
        password = settings.password.get_secret_value() if settings.password is not None else ""
    else:
        return None
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
