"""Where a model version's artifact lies: what the registry has as its source, resolved and compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from withrun.backend import Backend, VersionRecord
from withrun.errors import InvalidArgument
from withrun.transfer.urls import local_path, scheme_of

__all__ = ["path_below", "resolved_source"]


def resolved_source(backend: Backend, record: VersionRecord, folder_of: Callable[[str], str]) -> str:
    """URL of a version's artifact, with what MLflow's own clients write as its source resolved.

    Args:
        backend: resolves sources that name a model.
        record: the version.
        folder_of: gives the URL of a run's artifact folder, for sources that name a run.

    Raises:
        NotFound: the source names a run or model that is gone.
    """
    source = record.source
    scheme = urlsplit(source).scheme
    if scheme == "runs":
        run_id, _, path = source.removeprefix("runs:/").lstrip("/").partition("/")
        return f"{folder_of(run_id).rstrip('/')}/{unquote(path)}".rstrip("/")
    if scheme == "models":
        model_id = record.model_id or source.removeprefix("models:/").strip("/")
        if model_id.startswith("m-"):
            return backend.get_logged_model(model_id).artifact_uri
        return backend.version_download_uri(record.name, record.version)
    return source


def path_below(root: str, url: str) -> str | None:
    """The path of `url` below the folder `root`, empty for the folder itself; None if it lies elsewhere."""
    if not root or not url:
        return None
    base, place = _plain(root), _plain(url)
    if place == base:
        return ""
    return place[len(base) :].strip("/") if place.startswith(f"{base}/") else None


def _plain(url: str) -> str:
    """A URL in the one form that two of the same place share: stores write local paths in several."""
    if scheme_of(url) in ("", "file"):
        try:
            path = local_path(url)
        except InvalidArgument:  # a file of another host, which is no path here
            path = None
        if path is not None:
            return os.path.normpath(path).rstrip("/")
    return url.rstrip("/")
