"""Copying and removing files and folders of this machine, whichever of the two they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from withrun.transfer.copying import copy_file
from withrun.transfer.tree import scan

__all__ = ["delete", "replicate"]


def replicate(source: Path, target: Path, check: Callable[[], None] = lambda: None) -> None:
    """Make `target` a copy of the file or folder `source`, its links followed; replaces what is there.

    Args:
        source: what to copy.
        target: where to.
        check: raises to give up; called between chunks.
    """
    delete(target)
    tree = scan(source)
    if not tree.is_file:
        target.mkdir()
    for folder in tree.folders:
        (target / folder).mkdir()
    for file in tree.files:
        place = target / file.relative if file.relative else target
        copy_file(file.path, place, advance=lambda _: check(), atomic=False)


def delete(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link; nothing may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
