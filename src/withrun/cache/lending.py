"""Lending: a user's own file or folder became a link to its copy in the cache, to save disk.

What is lent is the user's: it stays for as long as the link points to it, and cleaning gives it back, so that
no cleaning or newer copy ever takes it away.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from withrun.cache.manifest import unprotect
from withrun.errors import CacheError

__all__ = ["give_back", "is_lent", "lend"]

_NOTE = "lent"


def lend(content: Path, source: Path) -> None:
    """Replace the user's `source` by a link to its copy at `content`, a path in a version's folder."""
    version = content.parent.parent
    (version / _NOTE).write_bytes(os.fsencode(source))
    replace_by_link(source, content)


def replace_by_link(source: Path, target: Path) -> None:
    """Replace the file or folder `source` by a symlink to `target`; at no time is neither there."""
    fresh = _beside(source)
    fresh.symlink_to(target)
    if source.is_dir():
        # A link can't be renamed over a folder. Between these two lines the folder has another name beside
        # its own; it is removed after the link is in place.
        aside = _beside(source)
        source.rename(aside)
        fresh.replace(source)
        shutil.rmtree(aside)
    else:
        fresh.replace(source)


def is_lent(version: Path) -> bool:
    """Tell whether a user's link still points into the folder `version`."""
    return _borrower(version) is not None


def give_back(version: Path) -> None:
    """Put what was lent back in the place of the user's link; nothing if there is no such link any more.

    Raises:
        CacheError: it can't be put there; nothing is removed then.
    """
    link = _borrower(version)
    if link is None:
        return
    content = link.readlink()
    fresh = _beside(link)
    try:
        if content.is_dir():
            shutil.copytree(content, fresh, copy_function=_link_or_copy)
        else:
            _link_or_copy(str(content), str(fresh))
        unprotect(fresh)
        if fresh.is_dir():
            link.unlink()
        fresh.replace(link)
    except OSError as error:
        raise CacheError(
            f"Can't put back what {str(link)!r} links to, {str(content)!r} in the cache: "
            f"{error.strerror or error}. Nothing was removed; make room or mend the permissions, and repeat."
        ) from error
    (version / _NOTE).unlink(missing_ok=True)


def _borrower(version: Path) -> Path | None:
    try:
        link = Path(os.fsdecode((version / _NOTE).read_bytes()))
        target = link.readlink()
    except OSError:
        return None
    # By their real paths: the cache folder may have been named through a symlink then, or now.
    return link if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(version)) else None


def _beside(path: Path) -> Path:
    return path.with_name(f".withrun-{secrets.token_hex(8)}")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
