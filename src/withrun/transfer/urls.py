"""Artifact URLs: their scheme, the local path they may mean, joining, and what of them may be shown.

Stores write these URLs in several ways (`/abs`, `file:/abs`, `file:///abs`, `s3://bucket/key`,
`mlflow-artifacts:/path`). Only `file:` URLs are percent-encoded; in a cloud URL a `%` is a `%`, as it is for
the stores' own clients.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

from withrun.errors import InvalidArgument
from withrun.transfer.paths import check_relative

__all__ = [
    "has_password",
    "is_proxied",
    "join_url",
    "local_path",
    "name_of",
    "redact",
    "scheme_of",
    "split_url",
    "with_scheme",
]

# One letter is a drive on the platforms that have them, and no scheme anywhere.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-_]+):")
# Greedy: an `@` may be part of the password. So may a `/`, though it should be escaped: what follows the
# first colon is then no port.
_USERINFO = re.compile(r"^([^/]*//)(?:[^/]*|[^/@\[]*:(?!\d*(?:[/?#]|$)).*)@", re.DOTALL)
_QUERY = re.compile(r"\?.*", re.DOTALL)


def scheme_of(url: str) -> str:
    """Return the scheme in lower case; empty for a plain local path.

    Text before a colon is a scheme only where the stores write one: `name:/…` and `file:…`, so that a local
    file may be called `a:b`.
    """
    match = _SCHEME.match(url)
    if not match:
        return ""
    scheme = match[1].lower()
    return scheme if scheme == "file" or url[match.end() : match.end() + 1] == "/" else ""


def with_scheme(url: str, scheme: str) -> str:
    """Return the URL with another scheme; the rest stays as it is."""
    return scheme + url[len(scheme_of(url)) :]


def local_path(url: str) -> Path | None:
    """Return the absolute path that a plain path or a `file:` URL means; None for any other URL."""
    scheme = scheme_of(url)
    if scheme not in ("", "file"):
        return None
    text = url
    if scheme == "file":
        rest = url[len("file:") :].split("#", 1)[0]
        if rest.startswith("//"):
            host, slash, path = rest[2:].partition("/")
            if host not in ("", "localhost"):
                raise InvalidArgument(
                    f"{redact(url)!r} names a file on the host {host!r}, which can't be reached as a file. "
                    "Mount it and give its local path, or use sftp:// or another URL that rclone can reach."
                )
            rest = slash + path
        text = unquote(rest, errors="surrogateescape")
    if not text or "\0" in text:
        raise InvalidArgument(f"{url!r} is no path: it is empty or holds a NUL character.")
    return Path(text).absolute()


def join_url(url: str, relative: str) -> str:
    """Return the URL of `relative` (a plain relative path, checked) below the folder `url`."""
    checked = check_relative(relative)
    # Only `file:` URLs are percent-encoded, see the module's docstring.
    return url.rstrip("/") + "/" + (quote(checked) if scheme_of(url) == "file" else checked)


def name_of(url: str) -> str:
    """Return the last segment of the URL's path, decoded; empty for a root."""
    path = local_path(url)
    if path is not None:
        return path.name
    return split_url(url)[2].rstrip("/").rpartition("/")[2]


def split_url(url: str) -> tuple[str, str, str]:
    """Return scheme, host and path of a URL that is none of a local file; its path is all that follows.

    `urllib.parse` would cut it off at the `?`, `#` or `;` of a file's name, and drop tabs and newlines.
    """
    scheme = scheme_of(url)
    rest = url[len(scheme) + 1 :]
    if not rest.startswith("//"):
        return scheme, "", rest
    host, slash, path = rest[2:].partition("/")
    return scheme, host, slash + path


def is_proxied(url: str) -> bool:
    """Whether the URL is one that an MLflow server's artifact service answers."""
    scheme = scheme_of(url)
    if scheme in ("http", "https"):
        return "/api/2.0/mlflow-artifacts/artifacts" in url
    return scheme == "mlflow-artifacts"


def has_password(url: str) -> bool:
    """Whether the URL holds a password, or what may be one, before its host."""
    userinfo = _USERINFO.match(url)
    return userinfo is not None and ":" in userinfo[0][len(userinfo[1]) :]


def redact(url: str) -> str:
    """Return the URL as an error may show it: without user, password and query."""
    return _QUERY.sub("", _USERINFO.sub(r"\1", url)) if scheme_of(url) not in ("", "file") else url
