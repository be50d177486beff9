"""The spool: files and folders that wait to be published, and what becomes of them then."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from withrun.journal.disk import unusable

__all__ = ["Spool"]

logger = logging.getLogger("withrun.journal")


class Spool:
    """A journal's spool folder.

    What was published is deleted once the journal has acknowledged it: a process that dies before that
    publishes it again. What was refused is moved beside the file of refused records, so that it outlives
    the journal. Absolute names are the user's own files: neither deleted nor moved.

    Args:
        folder: where they wait.
        kept: where what was refused goes.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        self.folder = folder
        self._kept = kept
        self._published: list[Path] = []

    def source(self, name: str) -> Path:
        """Where an intent's file or folder is now."""
        waiting = self.folder / name
        moved = self._kept / name
        # Moved by a process that died before it could acknowledge that.
        return moved if moved.exists() and not waiting.exists() else waiting

    def published(self, name: str) -> None:
        """Note that a file or folder was published; it is deleted by the next `sweep`."""
        if name and not Path(name).is_absolute():
            self._published.append(self.folder / name)

    def sweep(self) -> None:
        """Delete what was published; to be called once that is acknowledged."""
        done, self._published = self._published, []
        for path in done:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)  # the journal's deletion takes what is left
            else:
                path.unlink(missing_ok=True)

    def keep(self, name: str) -> Path:
        """Move what was refused out of the journal, return where it is now."""
        source = self.source(name)
        if Path(name).is_absolute() or not source.is_relative_to(self.folder) or not source.exists():
            return source
        target = self._kept / name
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            source.rename(target)
        except OSError as error:
            raise unusable(target.parent, error) from error
        return target
