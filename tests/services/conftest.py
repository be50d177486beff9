"""Services on local repos, with a run of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withrun.cache.artifacts import ArtifactCache
from withrun.schema import Experiment, Run
from withrun.services.artifacts import ArtifactService
from withrun.transfer.file_transfer import FileTransfer

MakeService = Callable[..., ArtifactService]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose artifacts lie in a local folder."""
    return Run(
        id="0123456789abcdef0123456789abcdef",
        name="r",
        exp=Experiment(id="0", name="Default"),
        repo_url=str(tmp_path / "repo" / "artifacts"),
    )


@pytest.fixture
def make(tmp_path: Path) -> MakeService:
    """Makes services that share a cache folder."""

    def service(**options: Any) -> ArtifactService:
        options.setdefault("cache", ArtifactCache(tmp_path / "cache"))
        options.setdefault("transfer", FileTransfer(prog_bar=False))
        options.setdefault("http", lambda: None)
        options.setdefault("temp_artifacts_dir", tmp_path / "temp")
        return ArtifactService(**options)

    return service


@pytest.fixture
def direct(make: MakeService) -> ArtifactService:
    """A service as it is by default: local repos are used where they lie."""
    return make()


@pytest.fixture
def cached(make: MakeService) -> ArtifactService:
    """A service that caches local repos as remote ones are."""
    return make(cache_local_artifacts=True)
