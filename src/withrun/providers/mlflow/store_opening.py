"""Opens MLflow's own stores in this process: quietly, whole, and with no trace in the current folder."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock

from withrun.errors import ServerError, ServerUnreachable

from .grammar import release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .store_location import StoreLocation

__all__ = ["Stores", "abandon_engines", "open_stores"]

_ARTIFACTS = "mlartifacts"
_NOISY = ("", "alembic", "alembic.runtime.migration", "mlflow", "mlflow.store.db.utils", "sqlalchemy")

_opening = threading.Lock()
"""Held while stores are opened: that hushes logging, and MLflow doesn't guard its caches."""

_abandoned: list[object] = []
"""Engines of a parent process. Kept, because closing an inherited SQLite connection could roll back what
the parent is writing."""


class Stores(NamedTuple):
    """MLflow's two stores behind one URI, an `AbstractStore` each."""

    tracking: Any
    registry: Any


def open_stores(location: StoreLocation) -> Stores:
    """Open the stores; a new database gets its tables and its Default experiment, whoever else is at it.

    Raises:
        WithrunError: `ServerUnreachable` if the database can't be opened, `ServerError` in MLflow's own words
            if MLflow refuses it.
    """
    with _opening, _hushed():
        if location.sqlite_path is not None:
            with _first_to_open(location.sqlite_path, location.shown):
                return _open_database(location, (location.sqlite_path.parent / _ARTIFACTS).as_uri())
        if location.is_database:
            _check_reachable(location)
            return _open_database(location, "./mlruns")
        return _open_by_scheme(location)


def _open_database(location: StoreLocation, artifact_root: str) -> Stores:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

    # The classes and not MLflow's look-up by URI: that one takes the artifact root from the environment, or
    # the current folder, and keeps one store per URI for the whole process.
    tracking = TrackingStore(location.uri, artifact_root)
    return Stores(tracking, RegistryStore(location.uri))


def _open_by_scheme(location: StoreLocation) -> Stores:
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as tracking

    # Databricks keeps its registry apart; elsewhere both are in one place. Older MLflow has no such function.
    default_registry = getattr(registry, "_get_default_registry_uri_for_tracking_uri", lambda uri: uri)
    registry_uri = default_registry(location.uri)
    return Stores(
        tracking._get_store(location.uri),
        registry._get_store(registry_uri, location.uri),
    )


@contextlib.contextmanager
def _first_to_open(path: Path, shown: str) -> Iterator[None]:
    """Let one process at a time set up a new database: MLflow's migrations fail when two run at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ServerUnreachable(f"the folder of {shown} can't be made: {exc}") from exc
    if _is_set_up(path, shown):
        yield
        return
    lock_path = path.with_name(f".{path.name}.setup.lock")
    lock = FileLock(lock_path)
    try:
        lock.acquire()
    except OSError as exc:
        raise ServerUnreachable(f"{shown} is new, and its folder can't be written to: {exc}") from exc
    try:
        yield
        # Who waits for the lock of a removed file goes on to find the database set up, and does nothing.
        lock_path.unlink(missing_ok=True)
    finally:
        lock.release()


def _is_set_up(path: Path, shown: str) -> bool:
    """Whether the database holds an experiment, which is the last that setting it up writes."""
    if not path.exists():
        return False
    if not path.is_file():
        raise ServerError(f"{shown} is no file; name a SQLite database, or a path that is free", status=400)
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=20)
        ) as connection:
            try:
                return connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone() is not None
            except sqlite3.OperationalError as exc:
                if "no such table" in str(exc):
                    return False
                raise
    except sqlite3.OperationalError as exc:
        raise ServerUnreachable(
            f"{shown} can't be opened: {exc}; check the path and its permissions"
        ) from exc
    except sqlite3.DatabaseError as exc:
        raise ServerError(f"{shown} is no SQLite database: {exc}; name another file", status=400) from exc


def _check_reachable(location: StoreLocation) -> None:
    """Connect once: MLflow itself would go on trying for an hour."""
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_sqlalchemy_engine(location.uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except ImportError as exc:
        raise ServerUnreachable(
            f"{location.shown} needs a database driver that is not installed: {exc}"
        ) from exc
    except SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", None) or type(exc).__name__)
        raise ServerUnreachable(f"{location.shown} can't be reached: {reason}") from exc


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep MLflow's and alembic's reports of setting up tables to themselves, and logging as it was."""
    from mlflow.version import VERSION

    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [(logger, logger.level, list(logger.handlers), logger.disabled) for logger in loggers]
    for logger in loggers[1:]:
        if logger.getEffectiveLevel() < logging.WARNING:
            logger.setLevel(logging.WARNING)
    disabled_below = logging.root.manager.disable
    if release(VERSION) < (3, 0):
        # MLflow 2 configures all logging anew in the middle of its migrations, levels set before included.
        logging.disable(max(disabled_below, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled_below)
        for logger, level, handlers, disabled in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.disabled = disabled


def abandon_engines(location: StoreLocation, stores: Stores | None) -> None:
    """In a forked child: make MLflow open its database anew, and never close what the parent has open."""
    global _opening  # a thread that the child doesn't have may have held it
    _opening = threading.Lock()
    if stores is None or not location.is_database:
        return
    _abandoned.append(stores)
    for store in stores:
        kind = type(store)
        for name in ("_engine_map", "_db_uri_sql_alchemy_engine_map"):
            engines = getattr(kind, name, {})
            _abandoned.append(engines.pop(location.uri, None))
        for name in ("_engine_map_lock", "_db_uri_sql_alchemy_engine_map_lock"):
            if hasattr(kind, name):
                setattr(kind, name, threading.Lock())
