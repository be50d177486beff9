"""Where an artifact comes from: a path, and what lay there when it was published.

Nothing of the user's is lost: a source goes only after all of it was published, and only if it is still what
was published.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from withrun.errors import IllegalPath, InvalidArgument
from withrun.services.local_files import delete
from withrun.transfer.paths import check_relative
from withrun.transfer.tree import Tree, scan

__all__ = ["Snapshot", "path_of", "remove", "target_path"]

_log = logging.getLogger("withrun")


def path_of(source: object) -> Path | None:
    """Return a source that is a path; None if it is a dumper."""
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if not isinstance(text, str) or not text or "\0" in text:
            raise InvalidArgument(
                f"source {source!r} is no path: give text that is not empty and holds no NUL."
            )
        return Path(text)
    if callable(source):
        return None
    raise InvalidArgument(
        f"source is of type {type(source).__name__}; give a path, or a callback that writes to a given path."
    )


def target_path(source: Path | None, path_in_run: str | None) -> str:
    """Return where in the run a source goes: as said, else under its own name."""
    if path_in_run:
        return check_relative(path_in_run, what="path_in_run")
    if source is None:
        raise IllegalPath(
            "path_in_run is empty, and what a callback writes has no name of its own. Give path_in_run."
        )
    name = source.name if source.name not in ("", "..") else Path(os.path.realpath(source)).name
    return check_relative(name, what="the source's name")


class Snapshot:
    """The files of a source as they were before they were published.

    Raises:
        ArtifactNotFound: there is no source.
        TransferError: it holds what can't be published (a broken or looping link, a device).
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.tree: Tree = scan(source)
        self._states = self._look(self.tree)

    def holds(self) -> bool:
        """Tell whether the source is still what it was."""
        try:
            return self._look(scan(self.source)) == self._states
        except OSError:
            return False

    @staticmethod
    def _look(tree: Tree) -> dict[str, tuple[int, int, int]]:
        def state(path: Path) -> tuple[int, int, int]:
            status = path.stat()
            return status.st_size, status.st_mtime_ns, status.st_ino

        return {file.relative: state(file.path) for file in tree.files}


def remove(snapshot: Snapshot) -> None:
    """Remove a published source; of a link, just the link. What changed meanwhile is kept, with a warning."""
    source = snapshot.source
    if not snapshot.holds():
        _log.warning("Kept %s: it changed while it was being published, so not all of it was.", source)
        return
    delete(source)
