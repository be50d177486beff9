"""Placing: putting an artifact at a path that a user chose, in one step, as a link or a protected copy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from withrun.cache.lending import beside
from withrun.errors import InvalidArgument, TargetExists, TransferError
from withrun.services.local_files import delete

__all__ = ["place"]


def place(target: Path, make: Callable[[Path], None], *, overwrite: bool, keep_clear: list[Path]) -> None:
    """Put at `target` what `make` makes at the path that it is given.

    It is made beside `target` and renamed, so that there is the old or the new, and after an error the old.

    Args:
        target: where it is to be; the folders above are made.
        make: makes a file, folder or link at the given path.
        overwrite: whether what is at `target` may go.
        keep_clear: folders that `target` must neither be in nor hold.

    Raises:
        TargetExists: something is at `target`, and `overwrite` is False.
        InvalidArgument: `target` is in, or would replace, a folder to keep clear of.
    """
    _check(target, keep_clear)
    if os.path.lexists(target) and not overwrite:
        raise _exists(target)
    fresh = beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        make(fresh)
        _put(fresh, target, overwrite=overwrite)
    except TargetExists:
        raise
    except OSError as error:
        raise TransferError(
            f"Can't place an artifact at {str(target)!r}: {error.strerror or error}. Nothing there was "
            "changed; make room, mend the permissions, or choose another target."
        ) from error
    finally:
        with contextlib.suppress(NotADirectoryError):  # the folder to place it in is a file
            delete(fresh)


def _put(fresh: Path, target: Path, *, overwrite: bool) -> None:
    if not overwrite:
        if fresh.is_dir() and not fresh.is_symlink():
            if os.path.lexists(target):
                raise _exists(target)
            fresh.rename(target)
        else:
            try:
                os.link(fresh, target, follow_symlinks=False)  # fails if something came there meanwhile
            except FileExistsError:
                raise _exists(target) from None
            except OSError:  # no hard links here: the best that is left
                if os.path.lexists(target):
                    raise _exists(target) from None
                fresh.rename(target)
        return
    real_folder = target.is_dir() and not target.is_symlink()
    if not real_folder and not (fresh.is_dir() and not fresh.is_symlink()):
        fresh.replace(target)
        return
    aside = beside(target)
    try:
        with contextlib.suppress(FileNotFoundError):
            target.rename(aside)
        fresh.rename(target)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(target):
            aside.rename(target)
        raise
    try:
        delete(aside)
    except OSError as error:
        raise TransferError(
            f"The artifact is at {str(target)!r} now, but what was there before could not be removed: "
            f"{error.strerror or error}. What is left of it is at {str(aside)!r}."
        ) from error


def _check(target: Path, keep_clear: list[Path]) -> None:
    real = Path(os.path.realpath(target.parent)) / target.name
    if not target.name or target.name == "..":
        raise InvalidArgument(
            f"target {str(target)!r} has no name of its own; give the artifact's whole path."
        )
    for folder in keep_clear:
        kept = Path(os.path.realpath(folder))
        if real.is_relative_to(kept) or kept.is_relative_to(real):
            raise InvalidArgument(
                f"target {str(target)!r} overlaps {str(folder)!r}, where artifacts, or what withrun knows of "
                "them, are kept. Choose a target outside of it."
            )


def _exists(target: Path) -> TargetExists:
    return TargetExists(
        f"Something is at {str(target)!r} already. Give overwrite=True to replace it, or another target."
    )
