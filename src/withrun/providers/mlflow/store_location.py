"""Where an embedded store lies: its URI made absolute, for MLflow to open, and as it may be shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from withrun.errors import InvalidArgument

from .server_url import without_credentials

__all__ = ["StoreLocation", "locate", "sqlite_uri"]

_DATABASE = re.compile(r"(sqlite|mysql|postgresql|mssql)(\+\w+)?://", re.IGNORECASE)


class StoreLocation(NamedTuple):
    """A store that MLflow opens in this process.

    Attributes:
        uri: absolute, for MLflow; may hold credentials.
        shown: the same without them, for names and messages.
        is_database: whether it is one of the databases that MLflow's SQL store opens.
        sqlite_path: the database's file, if it is SQLite.
    """

    uri: str
    shown: str
    is_database: bool = False
    sqlite_path: Path | None = None

    def __repr__(self) -> str:
        return f"StoreLocation({self.shown!r})"


def locate(tracking_uri: str) -> StoreLocation:
    """Make a store's URI absolute, against the current folder.

    Raises:
        InvalidArgument: the URI names nothing that could keep runs.
    """
    if _DATABASE.match(tracking_uri):
        scheme, _, rest = tracking_uri.partition("://")
        uri = f"{scheme.lower()}://{rest}"
        return (
            _locate_sqlite(uri)
            if uri.startswith("sqlite")
            else StoreLocation(uri, without_credentials(uri), is_database=True)
        )
    scheme = urlsplit(tracking_uri).scheme.lower()
    if scheme in ("", "file") and tracking_uri not in ("databricks", "databricks-uc", "uc"):
        path = tracking_uri if not scheme else unquote(urlsplit(tracking_uri).path)
        if not path:
            raise InvalidArgument(
                f"the tracking URI {tracking_uri!r} names no store; use a server's URL or sqlite:///PATH"
            )
        uri = _absolute(path).as_uri()
        return StoreLocation(uri, uri)
    return StoreLocation(tracking_uri, without_credentials(tracking_uri))


def sqlite_uri(path: Path) -> str:
    """The URI that SQLAlchemy reads as that absolute path.

    Raises:
        InvalidArgument: this version of SQLAlchemy has no way to write it.
    """
    text = str(path)
    if "%" not in text and "?" not in text:
        return f"sqlite:///{text}"
    from sqlalchemy.engine import make_url

    if make_url("sqlite:///%20").database == " ":  # newer versions read %20 as a blank
        text = text.replace("%", "%25").replace("?", "%3F")
    elif "?" in text:
        raise InvalidArgument(
            f"a database at {text!r} can't be named to this version of SQLAlchemy, for which a '?' ends the "
            "path; choose a folder without one, or upgrade SQLAlchemy"
        )
    return f"sqlite:///{text}"


def _absolute(text: str) -> Path:
    """The absolute path, without `..`, so that one store has one name.

    A link to a store stays: it is the name under which its user knows it.
    """
    path = Path(text).absolute()
    if ".." not in path.parts:
        return path
    last = len(path.parts) - path.parts[::-1].index("..")
    return Path(*path.parts[:last]).resolve().joinpath(*path.parts[last:])


def _locate_sqlite(uri: str) -> StoreLocation:
    # SQLAlchemy's own reading of the URL, which differs between its versions in whether %20 is a blank: so
    # the file is the one that MLflow's UI and command line open under the same URI.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError) as exc:
        raise InvalidArgument(f"the tracking URI {uri!r} can't be read ({exc}); use sqlite:///PATH") from exc
    database = url.database
    if not database or ":memory:" in database or database.startswith("file:") or "\0" in database or url.host:
        raise InvalidArgument(
            f"the tracking URI {uri!r} names no file; use sqlite:///PATH (sqlite:////PATH if it is "
            "absolute). A database in memory would be another one in each thread, and lose all at exit"
        )
    path = _absolute(database)
    shown = sqlite_uri(path)
    query = uri.partition("?")[1] + uri.partition("?")[2]
    return StoreLocation(
        # With the driver's name, because for a bare `sqlite:///` MLflow makes the parent folder itself, and
        # takes %25 in it literally.
        uri=f"sqlite+pysqlite{shown.removeprefix('sqlite')}{query}",
        shown=shown,
        is_database=True,
        sqlite_path=path,
    )
