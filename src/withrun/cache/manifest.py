"""The manifest of a cached artifact: its files with size and hash, made when it is sealed.

Sealing is what turns a folder that was just filled into one that may be served: every file is hashed, written
through to the disk and write-protected, and whatever is neither file nor folder is refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from withrun.errors import CacheError

__all__ = ["FileRecord", "Manifest", "differences", "equals", "protect", "seal", "unprotect"]

_CHUNK = 1 << 20
_PIECE = 32 << 20
_WORKERS = 4
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class FileRecord(msgspec.Struct, frozen=True):
    """A file's size in bytes and a digest of its content.

    The digest is the SHA-256 of the content; of a file larger than a piece, that of its pieces' SHA-256, so
    that no other tool's checksum is to be compared with it.
    """

    size: int
    digest: str = msgspec.field(name="sha256")  # as manifests have had it


class Manifest(msgspec.Struct, frozen=True):
    """What a cached artifact is, and what it holds.

    Attributes:
        owner: the run, or the outside source, that it belongs to, as the cache names it.
        path: its path there; empty for all of it.
        is_file: whether it is a single file; `files` then holds it under its name.
        files: by path below the artifact, POSIX.
        began: when its pull began (nanoseconds since the epoch); exports have it nowhere else.
    """

    owner: str
    path: str
    is_file: bool
    files: dict[str, FileRecord]
    began: int = 0


def seal(content: Path, *, owner: str, path: str, began: int = 0) -> Manifest:
    """Hash, sync and write-protect the file or folder `content`; folders stay writable, to be removable.

    Raises:
        CacheError: nothing is there, or something that is neither a file nor a folder: what comes from a
            store is served only if it can't lead elsewhere.
    """
    try:
        status = content.lstat()
    except FileNotFoundError as error:
        raise CacheError(
            f"Nothing arrived at {str(content)!r}, though the transfer reported success."
        ) from error
    is_file = stat.S_ISREG(status.st_mode)
    files = [(content.name, content)] if is_file else list(_files(content, ""))
    with ThreadPoolExecutor(min(_WORKERS, len(files) or 1), "withrun-cache") as pool:
        records = dict(pool.map(_seal_file, files))
    return Manifest(owner=owner, path=path, is_file=is_file, files=records, began=began)


def differences(content: Path, manifest: Manifest) -> list[str]:
    """Compare what lies at `content` with its manifest; says in words what differs."""
    found: list[str] = []
    for relative, record in manifest.files.items():
        file = content if manifest.is_file else content / relative
        try:
            size = file.lstat().st_size
            if size != record.size:
                found.append(f"{relative}: {size:,} bytes in place of {record.size:,}")
            elif _digest(file) != record.digest:
                found.append(f"{relative}: other content than was pulled")
        except OSError as error:
            found.append(f"{relative}: {error.strerror}")
    if not manifest.is_file and content.is_dir():
        extra = {relative for relative, _ in _files(content, "")} - manifest.files.keys()
        found += [f"{relative}: was not there when it was pulled" for relative in sorted(extra)]
    return found


def equals(manifest: Manifest, files: Mapping[str, Path]) -> bool:
    """Tell whether files, by their paths in the artifact (empty for a single one), are what was sealed."""
    names = dict.fromkeys(manifest.files, "") if manifest.is_file else {name: name for name in manifest.files}
    if set(names.values()) != set(files):
        return False
    return all(
        files[name].stat().st_size == manifest.files[sealed].size
        and _digest(files[name]) == manifest.files[sealed].digest
        for sealed, name in names.items()
    )


def protect(content: Path) -> None:
    """Take the right to write from a file, or from a folder's files, as sealing does."""
    for file in _each(content):
        file.chmod(stat.S_IMODE(file.stat().st_mode) & ~_WRITE)


def unprotect(content: Path) -> None:
    """Give the owner of a file, or of a folder's files, the right to write back."""
    for file in _each(content):
        file.chmod(stat.S_IMODE(file.stat().st_mode) | stat.S_IWUSR)


def _each(content: Path) -> list[Path]:
    return [content] if content.is_file() else [file for _, file in _files(content, "")]


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    mode = folder.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise CacheError(f"{str(folder)!r} is neither a file nor a folder; such things are not cached.")
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        folder.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_file(follow_symlinks=False):
                yield prefix + entry.name, Path(entry.path)
            else:
                yield from _files(Path(entry.path), f"{prefix}{entry.name}/")


def _seal_file(file: tuple[str, Path]) -> tuple[str, FileRecord]:
    relative, path = file
    with path.open("rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        # Synced, or a power cut after the rename could leave a whole name with an empty file behind it.
        if status.st_size <= _PIECE:
            digest = _digest(path)
            os.fsync(stream.fileno())
        else:
            with ThreadPoolExecutor(1, "withrun-sync") as pool:  # the disk works while the hash is computed
                synced = pool.submit(os.fsync, stream.fileno())
                digest = _digest(path)
                synced.result()
        os.fchmod(stream.fileno(), stat.S_IMODE(status.st_mode) & ~_WRITE)
    return relative, FileRecord(status.st_size, digest)


def _digest(path: Path) -> str:
    """The SHA-256 of a file; of one larger than a piece, that of its pieces' own, which takes all cores."""
    size = path.stat().st_size
    if size <= _PIECE:
        return _piece_digest(path, 0).hex()
    with ThreadPoolExecutor(_WORKERS, "withrun-hash") as pool:
        pieces = pool.map(lambda start: _piece_digest(path, start), range(0, size, _PIECE))
        return hashlib.sha256(b"".join(pieces)).hexdigest()


def _piece_digest(path: Path, start: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        left = _PIECE
        while left and (chunk := stream.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.digest()
