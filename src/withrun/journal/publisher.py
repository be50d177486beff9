"""Publisher: what the layer above does for the journal, because artifacts and versions are its business."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from withrun.journal.record import ArtifactIntent, VersionIntent

__all__ = ["Publisher"]


class Publisher(Protocol):
    """Publishes what was spooled; called again for the same intent, its methods change nothing more.

    They raise `ServerUnreachable` to be called again until the server is back. `TransferError`, which may be
    anything, is tried a few times. Any other error sets the record aside at once, and what was spooled is
    moved beside the refused records. A `FailedToPublishArtifact` counts as the error that caused it.
    """

    def publish_artifact(self, intent: ArtifactIntent, source: Path, run_id: str) -> None:
        """Publish the file or folder at `source` to the run, which has its server ID by now."""

    def publish_version(
        self, intent: VersionIntent, source: Path | None, run_id: str, resolve: Callable[[str], str]
    ) -> str:
        """Register a version, found by its uid if it was registered before; return its number.

        Args:
            intent: what to register.
            source: what to publish first; None if it was logged before.
            run_id: the run, by its server ID.
            resolve: maps a local run ID, in tags or options, to the server's.
        """
