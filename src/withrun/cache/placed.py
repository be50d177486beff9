"""Placed links: what `place` made leads to an artifact for as long as it is there.

A link goes by way of the pointer `placed` of its entry, not by `current`: that one goes when something is
published to the run, while what a user placed stays what it is until a newer copy is served. `links` says
where the links are. One that was moved or removed holds nothing: the artifact can be pulled again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["LINKS", "PLACED", "follow", "forget", "held", "link_through"]

PLACED = "placed"
LINKS = "links"


def link_through(folder: Path, version: str, link: Path) -> str:
    """Note in an entry's folder a link that is about to be made at `link`; returns what it is to go through.

    A folder that can't be written to, such as an export in an image, is never made smaller either: there it
    is the version itself.
    """
    try:
        with (folder / LINKS).open("ab") as notes:
            notes.write(os.fsencode(os.path.abspath(link)) + b"\0")  # noqa: PTH100 - links above stay
        if (_target(folder) or "") < version:  # names grow with time
            _point(folder, version)
    except OSError:
        return version
    return PLACED


def follow(folder: Path, version: str, *, only: str | None = None) -> None:
    """Let placed links, if there are any, lead to `version` now; with `only`, if they lead to that one."""
    target = _target(folder)
    if target is not None and only in (None, target):
        _point(folder, version)


def held(folder: Path) -> str | None:
    """Return the version that placed links lead to; None if none of them is left."""
    target = _target(folder)
    if target is None:
        return None
    try:
        links = (folder / LINKS).read_bytes().split(b"\0")
    except FileNotFoundError:
        return None
    home = os.path.realpath(folder)
    return target if any(_leads_to(link, home) for link in links if link) else None


def forget(folder: Path) -> None:
    """Let placed links lead nowhere."""
    for name in (PLACED, LINKS):
        (folder / name).unlink(missing_ok=True)


def _leads_to(link: bytes, home: str) -> bool:
    try:
        target = Path(os.fsdecode(link)).readlink()
    except OSError:
        return False
    return Path(os.path.realpath(target)).is_relative_to(home)


def _target(folder: Path) -> str | None:
    try:
        return (folder / PLACED).readlink().name
    except OSError:
        return None


def _point(folder: Path, version: str) -> None:
    fresh = folder / f"{PLACED}.{secrets.token_hex(8)}"
    try:
        fresh.symlink_to(version)
        fresh.replace(folder / PLACED)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
