"""Versions: the complete copies in one entry's folder, and the pointer that says which of them is served.

Everything that changes a folder is called by the holder of the artifact's lock, but for `unserve`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from pathlib import Path

from withrun.cache import lending, placed
from withrun.cache.locks import removing
from withrun.cache.opened import nothing_open_below
from withrun.cache.settling import is_unsettled, let_go, read_manifest

__all__ = [
    "CURRENT",
    "VERSION",
    "began",
    "began_in",
    "is_idle",
    "name_for",
    "note_use",
    "remove_old",
    "serve",
    "served",
    "unserve",
    "versions",
]

CURRENT = "current"

_USE_INTERVAL = 60.0
"""Seconds between two notes of an artifact's use: looking one up writes nothing most of the time."""

_SETTLING = 2.0
"""Seconds that a removal waits for another process to finish settling a copy."""

VERSION = re.compile(r"v[0-9a-f]{16}")


def name_for(began: int) -> str:
    """Return the name of a version whose pull began then (nanoseconds since the epoch)."""
    return f"v{began:016x}"


def began(name: str) -> int:
    """Return when the pull of a version began; 0 for an exported copy."""
    return int(name[1:], 16) if VERSION.fullmatch(name) else 0


def began_in(folder: str, name: str) -> int:
    """Return when the pull of an entry's version began, of an exported copy too."""
    if name != CURRENT:
        return began(name)
    manifest = read_manifest(Path(folder, name))
    return manifest.began if manifest is not None else 0


def served(folder: str) -> str | None:
    """Return the name, in an entry's folder, of the version that is served; None if none is."""
    try:
        name = os.readlink(f"{folder}/{CURRENT}")  # noqa: PTH115 - hot
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return CURRENT  # no pointer but the version itself, as exports have it
    return name if VERSION.fullmatch(name) else None


def serve(folder: Path, version: Path, *, portable: bool) -> Path:
    """Make `version` the one that is served, in one step for every reader; returns its path from now on."""
    pointer = folder / CURRENT
    if portable:
        if pointer.is_symlink():
            pointer.unlink()
        elif pointer.exists():
            pointer.rename(folder / _aside())
        version.rename(pointer)
        placed.follow(folder, CURRENT)
        return pointer
    fresh = folder / f"{CURRENT}.{secrets.token_hex(8)}"
    fresh.symlink_to(version.name)
    if pointer.is_dir() and not pointer.is_symlink():
        pointer.rename(folder / _aside())  # an export that became a cache
    fresh.replace(pointer)
    placed.follow(folder, version.name)
    return version


def unserve(folder: Path) -> None:
    """Serve nothing from an entry's folder any more; in one step, with or without the lock."""
    pointer = folder / CURRENT
    try:
        pointer.unlink()
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # macOS says EPERM of a folder
        if pointer.is_symlink() or not pointer.is_dir():
            raise
        aside = _aside()
        pointer.rename(folder / aside)
        placed.follow(folder, aside, only=CURRENT)


def _aside() -> str:
    """A name of its own for a version that was served by no name, older than all that have one."""
    return name_for(secrets.randbits(48))


def versions(folder: Path) -> list[Path]:
    """Return all versions in an entry's folder, the newest first."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are what is matched
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names, reverse=True) if VERSION.fullmatch(name)]


def remove_old(folder: Path, *, keep: int = 0) -> None:
    """Remove the versions that are not served, not being read, not lent to a user, and not placed.

    Args:
        folder: the entry's.
        keep: how many of the newest stay all the same, for who was given their path a moment ago.
    """
    current = served(str(folder))
    kept = (current, placed.held(folder))
    old = [version for version in versions(folder) if version.name not in kept]
    for version in old[keep:]:
        if lending.is_lent(version):
            continue
        let_go(version)
        with removing(version) as free:
            if free:
                shutil.rmtree(version)
    for name in (CURRENT, placed.PLACED):
        for stray in folder.glob(f"{name}.*"):  # a process died between making and swapping it
            stray.unlink(missing_ok=True)


def is_idle(version: Path, stack: contextlib.ExitStack) -> bool:
    """Tell whether nobody uses a version; then readers are kept out until the stack is left."""
    if not stack.enter_context(removing(version)) or lending.is_lent(version):
        return False
    until = time.monotonic() + _SETTLING
    while not nothing_open_below(version):
        # Another process that settles it has it open, and is done with that soon.
        if time.monotonic() > until or not is_unsettled(version):
            return nothing_open_below(version)
        time.sleep(0.02)
    return True


def note_use(version: str) -> None:
    """Remember that a version was used now; cheap, and good to a minute."""
    # A cache that can't be written to (an export in an image) is never trimmed either.
    with contextlib.suppress(OSError):
        if time.time() - os.stat(version).st_mtime > _USE_INTERVAL:  # noqa: PTH116 - hot
            os.utime(version)
