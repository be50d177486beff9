"""The route to clouds: everything that is neither local nor an MLflow server's, through a tool like rclone.

What is the same for every tool is here: the source is examined before anything is sent, what a store lists is
checked before anything is written, and what was pulled is compared with the listing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from withrun.errors import ArtifactNotFound, TransferError
from withrun.transfer.leftovers import clear_file, clear_folder, make_folder
from withrun.transfer.objmeta import ObjMeta
from withrun.transfer.paths import check_name
from withrun.transfer.progress import Bar
from withrun.transfer.tree import Tree, check_has_files, scan
from withrun.transfer.urls import name_of, redact

__all__ = ["CloudTool", "ls", "pull", "push"]


class CloudTool(Protocol):
    """What a route to clouds needs of the tool that does the work; raises withrun's errors."""

    def entries(self, url: str, *, recursive: bool) -> list[dict[str, Any]]:
        """List what `lsjson` lists: a folder's entries, or a file's own."""

    def is_file(self, url: str) -> bool:
        """Tell a file from a folder that holds just one file of its own name."""

    def has_empty_folders(self, url: str) -> bool:
        """Whether nothing in a listing means a folder with nothing in it; else there is no such folder."""

    def check_names(self, url: str, names: Iterable[str]) -> None:
        """Refuse what the tool can't move: the URL, or paths relative to it.

        Raises:
            IllegalPath: it would bring them to other names.
        """

    def copyto(self, source: str, target: str, bar: Bar, sizes: Mapping[str, int]) -> None:
        """Copy a file to exactly `target`, or a folder's content into `target`.

        `sizes` has the bytes of every file below `source` by relative path; by `""` if it is the file itself.
        """

    def sync(self, source: str, target: str, bar: Bar, sizes: Mapping[str, int]) -> None:
        """Make the folder `target` what the folder `source` is; `sizes` as for `copyto`."""


def push(tool: CloudTool, source: Path, url: str, bar: Bar) -> None:
    """Publish the file or folder `source` at exactly that URL; nothing else there is touched."""
    tree = _check(tool, source, url)
    bar.total(tree.size)
    tool.copyto(str(source.absolute()), url, bar, {file.relative: file.size for file in tree.files})


def _check(tool: CloudTool, source: Path, url: str) -> Tree:
    """Return what is to be published, all of which the tool can bring to that URL."""
    tree = scan(source)
    check_has_files(tree, source)
    if tree.is_file and not name_of(url):
        raise TransferError(
            f"Can't publish the file {str(source)!r} as {redact(url)!r}: that is a bucket or a root. "
            "Give the file a path below it."
        )
    tool.check_names(url, (file.relative for file in tree.files))
    return tree


def pull(tool: CloudTool, url: str, target: Path, bar: Bar) -> None:
    """Bring the file or folder at that URL to `target`, and check that it arrived whole."""
    tool.check_names(url, ())
    found = ls(tool, url, recursive=True)
    if isinstance(found, ObjMeta):
        clear_file(target)
        make_folder(target.parent)
        bar.total(max(found.Size, 0))
        tool.copyto(url, str(target.absolute()), bar, {"": found.Size})
        _check_arrived({target: found.Size}, url)
        return
    sizes = {meta.Path: meta.Size for meta in found if not meta.IsDir}
    tool.check_names(url, sizes)
    clear_folder(target, sizes, (meta.Path for meta in found if meta.IsDir))
    bar.total(sum(max(size, 0) for size in sizes.values()))
    if found:
        tool.sync(url, str(target.absolute()), bar, sizes)
    _check_arrived({target / path: size for path, size in sizes.items()}, url)


def ls(tool: CloudTool, url: str, *, recursive: bool) -> list[ObjMeta] | ObjMeta:
    """List a folder, sorted by path; one ObjMeta for a file."""
    found = [_checked(entry, url) for entry in tool.entries(url, recursive=recursive)]
    name = name_of(url)
    if len(found) == 1 and not found[0].IsDir and found[0].Path == name and tool.is_file(url):
        return found[0]
    if not found and name and not tool.has_empty_folders(url):
        raise ArtifactNotFound(f"There is no artifact at {redact(url)!r}.")
    return sorted(found, key=lambda meta: meta.Path)


def _checked(entry: dict[str, Any], url: str) -> ObjMeta:
    path = check_name(
        str(entry.get("Path") or entry.get("Name") or "").rstrip("/"),
        what=f"the listing of {redact(url)!r} holds",
    )
    is_dir = bool(entry.get("IsDir", False))
    described = ObjMeta.of(path, is_dir=is_dir)
    return ObjMeta.model_validate(
        {
            "Path": path,
            "Name": described.Name,
            "Size": -1 if is_dir else entry.get("Size", -1),
            "MimeType": entry.get("MimeType") or described.MimeType,
            "ModTime": entry.get("ModTime") or None,
            "IsDir": is_dir,
        }
    )


def _check_arrived(expected: dict[Path, int], url: str) -> None:
    for path, size in expected.items():
        try:
            found = path.lstat().st_size
        except OSError as error:
            raise TransferError(
                f"{str(path)!r} did not arrive from {redact(url)!r}, though it is listed there. Pull again."
            ) from error
        if size not in (-1, found):
            raise TransferError(
                f"{found:,} bytes of {path.name!r} arrived from {redact(url)!r}, where {size:,} are listed. "
                "It may be being written there; pull again."
            )
