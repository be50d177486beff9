"""The store that a bare `mlflow ui` in the current folder would show."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from withrun.providers.mlflow.store_location import sqlite_uri

__all__ = ["default_tracking_uri"]


def default_tracking_uri() -> str:
    """The URI of the current folder's store, absolute, without importing MLflow.

    MLflow 3.7 and later use `./mlflow.db`, unless `./mlruns` holds experiments of an earlier version; those
    use `./mlruns` (mlflow/tracking/_tracking_service/utils.py).
    """
    here = Path.cwd()
    folder = here / "mlruns"
    holds_experiments = folder.is_dir() and any(
        child.name.isdigit() and (child / "meta.yaml").is_file() for child in folder.iterdir()
    )
    if holds_experiments or _uses_folders():
        return folder.as_uri()
    return sqlite_uri(here / "mlflow.db")


def _uses_folders() -> bool:
    try:
        major, minor = version("mlflow").split(".")[:2]
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) < (3, 7)
