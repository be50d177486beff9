"""Publisher: what the layer above does for the journal, because artifacts and versions are its business."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from withrun.journal.record import ArtifactIntent, VersionIntent

__all__ = ["Publisher"]


class Publisher(Protocol):
    """Publishes what was spooled; called again for the same intent, its methods change nothing more.

    They raise `ServerUnreachable` to be called again later; any other error sets the record aside, with what
    was spooled.
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
