"""The local route: plain paths and `file:` URLs, copied in this process.

Every file lands whole by a rename, so a reader of the repository sees the old or the new one. A pull into
what an earlier one left skips the files that are there with the same size and time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from withrun.errors import ArtifactNotFound, TransferError
from withrun.transfer.copying import TEMP_PREFIX, copy_file
from withrun.transfer.leftovers import clear_file, clear_folder
from withrun.transfer.objmeta import ObjMeta
from withrun.transfer.paths import ABSENT, check_link
from withrun.transfer.progress import Bar
from withrun.transfer.tree import Tree, scan

__all__ = ["ls", "pull", "push"]


def push(source: Path, target: Path, bar: Bar) -> None:
    """Publish the file or folder `source` at exactly `target`; nothing else there is touched."""
    tree = scan(source)
    real_source, real_target = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if real_source == real_target:
        return  # it lies there already
    if not tree.is_file and real_target.is_relative_to(real_source):
        raise TransferError(
            f"Can't publish the folder {str(source)!r} into itself, at {str(target)!r}. "
            "Publish it from elsewhere, or a folder below it."
        )
    _copy_tree(tree, target, bar, publish=True)


def pull(source: Path, target: Path, bar: Bar) -> None:
    """Copy the file or folder `source` to `target`, going on from what an interrupted pull left there.

    Symlinks that lead out of `source` are refused.
    """
    tree = scan(source, ignore_prefix=TEMP_PREFIX, confined=True)
    real_source, real_target = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if real_source == real_target:
        return  # it lies there already
    if real_target.is_relative_to(real_source) or real_source.is_relative_to(real_target):
        raise TransferError(
            f"Can't pull {str(source)!r} to {str(target)!r}: one lies in the other. Pull it to elsewhere."
        )
    if tree.is_file:
        clear_file(target)
    else:
        clear_folder(target, (file.relative for file in tree.files), tree.folders)
    _copy_tree(tree, target, bar, publish=False)


def ls(path: Path, *, recursive: bool) -> list[ObjMeta] | ObjMeta:
    """List a folder, whose symlinks must not lead out of it; one ObjMeta for a file."""
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return _meta(path.name, status)
        found = list(_entries(path, path, "", recursive=recursive, above=(path.resolve(),)))
    except OSError as error:
        if error.errno in ABSENT:
            raise ArtifactNotFound(f"There is no file or folder at {str(path)!r}.") from error
        raise TransferError(f"Can't list {str(path)!r}: {error.strerror} ({error.filename!r}).") from error
    return sorted(found, key=lambda meta: meta.Path)


def _copy_tree(tree: Tree, target: Path, bar: Bar, *, publish: bool) -> None:
    bar.total(tree.size)
    try:
        top = target.parent if tree.is_file else target
        top.mkdir(parents=True, exist_ok=True)
        for folder in tree.folders:
            # Whoever may write to a repository could else have another's upload written elsewhere.
            if (target / folder).is_symlink():
                check_link(target / folder, target)
        for folder in tree.folders:
            (target / folder).mkdir(exist_ok=True)
        for file in tree.files:
            place = target / file.relative if file.relative else target
            if place.is_dir():
                raise TransferError(
                    f"Can't put the file {str(file.path)!r} at {str(place)!r}: a folder lies there. "
                    "Choose another path, or remove the folder."
                )
            if not publish and _is_equal(file.path, place):
                bar.advance(file.size)
            else:
                copy_file(file.path, place, advance=bar.advance, atomic=publish)
    except FileExistsError as error:
        raise TransferError(
            f"Can't make the folder {str(error.filename)!r}: a file lies there. "
            "Choose another path, or remove it."
        ) from error
    except OSError as error:
        raise TransferError(
            f"Can't copy to {str(target)!r}: {error.strerror} ({error.filename or target!r}). "
            "What was copied so far stays; make room or mend the permissions, and repeat."
        ) from error


def _is_equal(source: Path, target: Path) -> bool:
    try:
        there = target.lstat()
    except FileNotFoundError:
        return False
    here = source.stat()
    return stat.S_ISREG(there.st_mode) and (there.st_size, there.st_mtime_ns) == (
        here.st_size,
        here.st_mtime_ns,
    )


def _entries(
    root: Path, folder: Path, prefix: str, *, recursive: bool, above: tuple[Path, ...]
) -> Iterator[ObjMeta]:
    for entry in os.scandir(folder):
        if entry.name.startswith(TEMP_PREFIX):
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue  # a broken link, or removed meanwhile: there is nothing that could be pulled
        if entry.is_symlink():
            check_link(Path(entry.path), root)
        relative = prefix + entry.name
        yield _meta(relative, status)
        if recursive and stat.S_ISDIR(status.st_mode):
            real = Path(os.path.realpath(entry.path))
            if real not in above:
                yield from _entries(
                    root, Path(entry.path), relative + "/", recursive=True, above=(*above, real)
                )


def _meta(relative: str, status: os.stat_result) -> ObjMeta:
    when = datetime.fromtimestamp(status.st_mtime, tz=timezone.utc)
    return ObjMeta.of(relative, is_dir=stat.S_ISDIR(status.st_mode), size=status.st_size, mod_time=when)
