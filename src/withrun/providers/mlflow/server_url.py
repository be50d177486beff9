"""The URL of a tracking server: checked, normalised, and freed of the credentials in it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from withrun.errors import InvalidArgument

__all__ = ["ServerUrl", "parse_server_url", "without_credentials"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ServerUrl(NamedTuple):
    """A server's normalised URL, and the credentials that its user information held."""

    url: str
    username: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"ServerUrl({self.url!r})"


def parse_server_url(tracking_uri: str) -> ServerUrl:
    """Normalise a server's URL and split off its credentials.

    Scheme and host become lower-case; the scheme's own port, a trailing slash and user information go; a
    path prefix (`mlflow server --static-prefix`, a reverse proxy) stays.

    Raises:
        InvalidArgument: it is no `http://` or `https://` URL of a server.
    """
    safe = without_credentials(tracking_uri)
    try:
        parts = urlsplit(tracking_uri.strip())
        port = parts.port
        host = parts.hostname
    except ValueError as exc:
        # `from None`: urllib's message may quote the part of the URL that holds the password.
        raise InvalidArgument(
            f"the tracking URI {safe!r} is no valid URL ({type(exc).__name__}); "
            "it should look like http://host:5000"
        ) from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not host:
        raise InvalidArgument(
            f"the tracking URI {safe!r} names no server; it should look like http://host:5000"
        )
    if parts.query or parts.fragment:
        raise InvalidArgument(
            f"the tracking URI {safe!r} has a query or fragment, which a server's address can't have: "
            "leave out what follows its path, as in http://host:5000"
        )
    if any(c.isspace() or not c.isprintable() for c in parts.path + host):
        raise InvalidArgument(
            f"the tracking URI {safe!r} holds blanks or control characters; "
            "it should look like http://host:5000"
        )
    if ":" in host:
        host = f"[{host}]"
    suffix = "" if port is None or port == _DEFAULT_PORTS[scheme] else f":{port}"
    return ServerUrl(
        url=f"{scheme}://{host}{suffix}{parts.path.rstrip('/')}",
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def without_credentials(uri: str) -> str:
    """The URI as it may be shown: without user information, query and fragment."""
    scheme, sep, rest = uri.partition("://")
    if not sep:
        return uri
    # Everything up to the last `@` goes: a password that was not escaped may hold any character.
    shown = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}://{shown}"
