"""The spool: files and folders that wait to be published, and what becomes of them then."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from pathlib import Path

from withrun.journal.disk import unusable
from withrun.journal.folder import journals_in

__all__ = ["Spool", "artifact_folder", "artifact_folders", "complete"]

logger = logging.getLogger("withrun.journal")

_SHARED = "runs/"
"""Names below this are those of local runs' artifact folders, which several records may speak of."""


def artifact_folder(journal: Path, run_id: str) -> Path:
    """Where the artifacts of a run that a journal spools lie, laid out as in the run."""
    return journal / "spool" / "runs" / run_id / "artifacts"


def artifact_folders(store_folder: Path, run_id: str) -> list[Path]:
    """Those folders of a run that are there, in the order of the journals; the last is the most complete."""
    folders = (artifact_folder(journal, run_id) for journal in journals_in(store_folder))
    return [folder for folder in folders if folder.is_dir()]


def complete(folder: Path, others: list[Path]) -> None:
    """Have a run's folder begin with what earlier journals hold of the run's artifacts, as links to the same.

    So that all can be read in one place; each journal publishes its own.
    """
    earlier = [other for other in others if other != folder]
    if not earlier or folder.is_dir():
        return
    fresh = folder.with_name(f".{secrets.token_hex(8)}")
    try:
        fresh.mkdir(mode=0o700, parents=True)
        for other in earlier:
            with contextlib.suppress(FileNotFoundError):  # being deleted, because it is delivered
                _link(other, fresh)
        fresh.rename(folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if not folder.is_dir():  # else another thread was quicker
            raise unusable(folder, error) from error


class Spool:
    """A journal's spool folder.

    What was published is deleted once the journal has acknowledged it: a process that dies before that
    publishes it again. What was refused is moved beside the file of refused records, so that it outlives
    the journal. Absolute names are the user's own files: neither deleted nor moved.

    A run that started without the server has its artifacts in `runs/<local ID>/artifacts`, laid out as in the
    run, and they can be read there. Records may name the same file, or a folder and what is in it, so these
    stay as long as the journal does; what is refused of them is kept as further names of the same files.

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
        """Note that a file or folder was published; unless shared, it is deleted by the next `sweep`."""
        if name and not Path(name).is_absolute() and not name.startswith(_SHARED):
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
        """Keep what was refused when the journal goes, return where it is now."""
        source = self.source(name)
        if Path(name).is_absolute() or not source.is_relative_to(self.folder) or not source.exists():
            return source
        target = self._kept / name
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if name.startswith(_SHARED):
                _link(source, target)
            else:
                source.rename(target)
        except OSError as error:
            raise unusable(target.parent, error) from error
        return target


def _link(source: Path, target: Path) -> None:
    """Make `target` another name of a file, or a folder of such names; what lies there is replaced."""
    if source.is_dir():
        target.mkdir(mode=0o700, exist_ok=True)
        for entry in source.iterdir():
            _link(entry, target / entry.name)
        return
    # Under its final name when it is whole.
    fresh = target.with_name(f".{secrets.token_hex(8)}")
    try:
        os.link(source, fresh)
    except OSError:  # a file system without hard links
        shutil.copy2(source, fresh)
    fresh.replace(target)
    fresh.unlink(missing_ok=True)  # left where both are names of one file already
