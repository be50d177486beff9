"""What an earlier pull left in a target and the store no longer holds: removed before a pull goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from withrun.errors import TransferError

__all__ = ["clear_file", "clear_folder", "make_folder"]


def clear_file(target: Path) -> None:
    """Remove a folder or symlink at `target`, where a file is to be pulled to."""
    try:
        if target.is_symlink():
            target.unlink()
        elif target.is_dir():
            shutil.rmtree(target)
    except OSError as error:
        raise _failed(target, error) from error


def clear_folder(target: Path, files: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Make `target` a folder that holds nothing but some of what is listed, and no symlink.

    Left are regular files in the places of `files`, and folders in those of `folders` and above files.

    Args:
        target: where a folder is to be pulled to.
        files: what the store lists, by checked relative paths.
        folders: the same, for those that may have no file in them.
    """
    kept_files = set(files)
    kept_folders = set(folders)
    for path in (*kept_files, *kept_folders):
        for above in PurePosixPath(path).parents:
            if (text := str(above)) in kept_folders:
                break
            kept_folders.add(text)
    try:
        if not target.is_dir():
            target.unlink(missing_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        _clear(target, "", kept_files, kept_folders)
    except OSError as error:
        raise _failed(target, error) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; it may be there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(folder, error) from error


def _clear(folder: Path, prefix: str, files: set[str], folders: set[str]) -> None:
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        relative, path = prefix + entry.name, Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if relative in folders:
                _clear(path, relative + "/", files, folders)
            else:
                shutil.rmtree(path)
        elif relative not in files or not entry.is_file(follow_symlinks=False):
            path.unlink()


def _failed(target: Path, error: OSError) -> TransferError:
    return TransferError(
        f"Can't pull to {str(target)!r}: {error.strerror} ({str(error.filename or target)!r}). "
        "Make room or mend the permissions, and repeat; what has arrived is kept."
    )
