"""Entries: which folders below `artifacts/` are the cache's, and what each is for.

A `cache_dir` may be chosen where an `artifacts/` of the user's own lies already, MLflow's for one. What is no
entry is left alone by everything that cleans.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from withrun.cache import placed
from withrun.cache.changes import NAME as CHANGES
from withrun.cache.layout import Key
from withrun.cache.versions import CURRENT, VERSION

__all__ = ["folders", "owners"]

_ENTRY = re.compile(r"[0-9a-f]{32}")
_OWN = re.compile(rf"{VERSION.pattern}|path\.json")
"""Of an entry's folder one of these is there from the first to the last; nobody else has any like them."""
_POINTER = rf"({CURRENT}|{placed.PLACED})(\.[0-9a-f]+)?"
_CHILD = re.compile(rf"{VERSION.pattern}|{_POINTER}|{placed.LINKS}|part|path\.json")


def owners(artifacts: Path) -> list[str]:
    """Return the names of all owners that something is cached of, or was."""
    try:
        homes = [Path(entry.path) for entry in os.scandir(artifacts) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return sorted(home.name for home in homes if _is_home(home))


def folders(home: Path) -> Iterator[tuple[Path, Key | None]]:
    """Yield the folders of an owner's entries, each with what it is for; None if that can't be read."""
    try:
        found = sorted(path for path in home.iterdir() if _is_entry(path))
    except FileNotFoundError:
        return
    for folder in found:
        yield folder, _key_of(folder)


def _is_home(folder: Path) -> bool:
    try:
        children = list(folder.iterdir())
    except FileNotFoundError:
        return False
    return [child.name for child in children] == [CHANGES] or any(_is_entry(child) for child in children)


def _is_entry(folder: Path) -> bool:
    """Tell whether a folder is an entry of the cache: called like one, and holding what the cache puts there.

    An empty folder, or one of a user's own that is called like one of the cache's own, is none.
    """
    if not _ENTRY.fullmatch(folder.name):
        return False
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are what is matched
    except (FileNotFoundError, NotADirectoryError):
        return False
    is_ours = any(_OWN.fullmatch(name) for name in names) and all(_CHILD.fullmatch(name) for name in names)
    return is_ours and not folder.is_symlink()


def _key_of(folder: Path) -> Key | None:
    try:
        path = msgspec.json.decode((folder / "path.json").read_bytes(), type=str)
    except (OSError, msgspec.MsgspecError):
        return None
    return Key(folder.parent.name, path)
