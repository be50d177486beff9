"""Lending: a user's own file or folder became a link to its copy in the cache, to save disk.

What is lent is the user's: no trimming or newer copy ever takes it away, and cleaning gives it back. Where
the link can't be found any more, because it was moved or removed, only cleaning removes what it led to.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from pathlib import Path

from withrun.cache.manifest import unprotect
from withrun.errors import CacheError

__all__ = ["beside", "give_back", "is_lent", "lend"]

_NOTE = "lent"
_log = logging.getLogger("withrun")


def lend(content: Path, source: Path) -> None:
    """Replace the user's `source` by a link to its copy at `content`, a path in a version's folder.

    A copy is lent once; then another source of the same content stays as it is.
    """
    version = content.parent.parent
    try:
        with (version / _NOTE).open("xb") as note:
            note.write(os.fsencode(source))
    except FileExistsError:
        return  # it is lent to another already, whose note must stay; this one keeps its own
    try:
        _replace_by_link(source, content)
    except BaseException:
        if not source.is_symlink():
            (version / _NOTE).unlink(missing_ok=True)
        raise


def _replace_by_link(source: Path, target: Path) -> None:
    """Replace the file or folder `source` by a symlink to `target`; after any error, one of the two is there.

    Raises:
        CacheError: it is a link now, and what it was before could not be removed.
    """
    fresh = beside(source)
    # A link can't be renamed over a folder, which has another name beside its own for the moment in between.
    aside = beside(source) if source.is_dir() else None
    try:
        fresh.symlink_to(target)
        if aside is not None:
            source.rename(aside)
        fresh.replace(source)
    except BaseException:
        fresh.unlink(missing_ok=True)
        if aside is not None and aside.exists() and not os.path.lexists(source):
            aside.rename(source)
        raise
    if aside is not None:
        try:
            shutil.rmtree(aside)
        except OSError as error:
            raise CacheError(
                f"{str(source)!r} is a link to its cached copy now; what it was before could not be removed: "
                f"{error.strerror or error}. What is left of that is at {str(aside)!r}."
            ) from error


def is_lent(version: Path) -> bool:
    """Tell whether the folder `version` holds what was a user's own.

    So it does when the link is no longer where it was made: it may have been moved.
    """
    return (version / _NOTE).exists()


def give_back(version: Path) -> None:
    """Put what was lent back in the place of the user's link, before the copy is removed.

    Raises:
        CacheError: it can't be put there; nothing is removed then.
    """
    if not is_lent(version):
        return
    link = _borrower(version)
    if link is None:
        _log.warning(
            "Removing from the cache what %s was replaced by a link to: no such link is there any more. "
            "If it was moved, it leads nowhere now; the artifact can be pulled again.",
            _lent_to(version),
        )
        (version / _NOTE).unlink(missing_ok=True)
        return
    content = link.readlink()
    fresh = beside(link)
    try:
        if content.is_dir():
            shutil.copytree(content, fresh, copy_function=_link_or_copy)
        else:
            _link_or_copy(str(content), str(fresh))
        unprotect(fresh)
        if not fresh.is_dir():
            fresh.replace(link)
        else:
            try:
                link.unlink()
                fresh.rename(link)
            finally:
                if not os.path.lexists(link):
                    link.symlink_to(content)
    except OSError as error:
        raise CacheError(
            f"Can't put back what {str(link)!r} links to, {str(content)!r} in the cache: "
            f"{error.strerror or error}. Nothing was removed; make room or mend the permissions, and repeat."
        ) from error
    (version / _NOTE).unlink(missing_ok=True)


def _lent_to(version: Path) -> Path:
    return Path(os.fsdecode((version / _NOTE).read_bytes()))


def _borrower(version: Path) -> Path | None:
    try:
        link = _lent_to(version)
        target = link.readlink()
    except OSError:
        return None
    # By their real paths: the cache folder may have been named through a symlink then, or now.
    return link if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(version)) else None


def beside(path: Path) -> Path:
    """A free name beside `path` that tells what it was, should a process die while it is called so."""
    return path.with_name(f".withrun-{secrets.token_hex(8)}-{path.name[:50]}")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
