"""The files under a path that is to be published, with the user's symlinks followed.

Everything that can go wrong with a source (a broken link, a loop, a device) is found here, before the
first byte is sent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from withrun.errors import ArtifactNotFound, InvalidArgument, TransferError
from withrun.transfer.paths import ABSENT, check_link

__all__ = ["Tree", "TreeFile", "check_has_files", "scan"]


@dataclass(frozen=True)
class TreeFile:
    """A file below the source: its path relative to it (POSIX; empty if it is the source) and its size."""

    relative: str
    path: Path
    size: int


@dataclass(frozen=True)
class Tree:
    """What is to be published.

    Attributes:
        is_file: whether the source is a single file; `files` then holds just it.
        files: in the order of their paths.
        folders: relative paths of all folders below the source, parents first.
    """

    is_file: bool
    files: list[TreeFile] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


def scan(source: Path, *, ignore_prefix: str | None = None, confined: bool = False) -> Tree:
    """List the files and folders under `source`, following symlinks.

    Args:
        source: the file or folder.
        ignore_prefix: names that start with it are left out.
        confined: symlinks must stay below `source`. A user's own links are followed wherever they lead;
            those in a repository may be anybody's.

    Raises:
        ArtifactNotFound: nothing is at `source`.
        IllegalPath: `confined`, and a symlink leads out.
        TransferError: a broken or looping symlink, something that is neither file nor folder, or a folder
            that can't be read.
    """
    status = _status(source, source)
    if stat.S_ISREG(status.st_mode):
        return Tree(is_file=True, files=[TreeFile("", source, status.st_size)])
    tree = Tree(is_file=False)
    walk = _walk(source, source, "", (_identity(status),), ignore_prefix=ignore_prefix, confined=confined)
    for relative, path, found in walk:
        if stat.S_ISDIR(found.st_mode):
            tree.folders.append(relative)
        else:
            tree.files.append(TreeFile(relative, path, found.st_size))
    return tree


def check_has_files(tree: Tree, source: Path) -> None:
    """Refuse a folder without any file, for a storage that keeps nothing but files.

    Raises:
        InvalidArgument: published, it would be nowhere.
    """
    if not tree.files:
        raise InvalidArgument(
            f"Can't publish the folder {str(source)!r}: it holds no file, and its storage keeps nothing but "
            "files. Put one in it, or leave it out; a local repo would keep it."
        )


def _walk(
    source: Path,
    folder: Path,
    prefix: str,
    above: tuple[tuple[int, int], ...],
    *,
    ignore_prefix: str | None,
    confined: bool,
) -> Iterator[tuple[str, Path, os.stat_result]]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names are wanted, as they are on the disk
    except OSError as error:
        raise TransferError(f"Can't read the folder {str(folder)!r}: {error.strerror}.") from error
    for name in names:
        if ignore_prefix and name.startswith(ignore_prefix):
            continue  # before it is looked at: it may be gone any moment
        path = folder / name
        if confined and path.is_symlink():
            check_link(path, source)
        status = _status(path, source)
        relative = prefix + name
        yield relative, path, status
        if stat.S_ISDIR(status.st_mode):
            identity = _identity(status)
            if identity in above:
                raise TransferError(
                    f"Can't publish {str(source)!r}: the symlink {str(path)!r} leads back to a folder that "
                    "holds it, so it has no end. Remove the link, or publish its parts."
                )
            yield from _walk(
                source,
                path,
                relative + "/",
                (*above, identity),
                ignore_prefix=ignore_prefix,
                confined=confined,
            )


def _status(path: Path, source: Path) -> os.stat_result:
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in ABSENT:
            if os.path.islink(path):  # noqa: PTH114 - pathlib's raises where the name is too long
                raise TransferError(
                    f"Can't publish {str(source)!r}: the symlink {str(path)!r} is broken. Mend or remove it."
                ) from error
            raise ArtifactNotFound(f"There is no file or folder at {str(path)!r}.") from error
        raise TransferError(f"Can't read {str(path)!r}: {error.strerror}.") from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise TransferError(
            f"Can't publish {str(path)!r}: it is neither a file nor a folder (a pipe, socket or device)."
        )
    return status


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
