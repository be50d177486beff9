"""The manifest of a cached artifact: its files with size and hash, made in two steps.

*Sealing* turns a folder that was just filled into one that may be served: whatever is neither file nor folder
is refused, every file is write-protected, and its size and time are noted. What is small is hashed then.

*Settling*, see `settling.py`, makes it last: what is large is hashed, and all is written through to the
disk. Until then it is served only while the machine runs on: the death of a process leaves whole what it
wrote, a power cut may not. Both can take as long as downloading the files did, and are done behind the
caller's back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from withrun.errors import CacheError

__all__ = [
    "FileRecord",
    "Manifest",
    "differences",
    "equals",
    "protect",
    "seal",
    "settled",
    "sync_folder",
    "unprotect",
]

_CHUNK = 1 << 20
_PIECE = 32 << 20
_WORKERS = 4
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH

HASHED_AT_ONCE = 8 << 20
"""Bytes of an artifact up to which it is hashed when it is sealed; some milliseconds."""


class FileRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file's size in bytes and a digest of its content.

    The digest is the SHA-256 of the content; of a file larger than a piece, that of its pieces' SHA-256, so
    that no other tool's checksum is to be compared with it. It is empty until it was computed; `modified` is
    the file's time (nanoseconds) when it was sealed, by which a change until then is seen.
    """

    size: int
    digest: str = msgspec.field(name="sha256", default="")
    modified: int = 0


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cached artifact is, and what it holds.

    Attributes:
        owner: the run, or the outside source, that it belongs to, as the cache names it.
        path: its path there; empty for all of it.
        is_file: whether it is a single file; `files` then holds it under its name.
        files: by path below the artifact, POSIX.
        began: when its pull began (nanoseconds since the epoch); exports have it nowhere else.
        boot: the run of the machine that it was sealed in; empty once it is settled.
    """

    owner: str
    path: str
    is_file: bool
    files: dict[str, FileRecord]
    began: int = 0
    boot: str = ""

    @property
    def is_hashed(self) -> bool:
        """Whether the digests of all files are known."""
        return all(record.digest for record in self.files.values())

    def locate(self, content: Path, relative: str) -> Path:
        """Return where a file lies if the artifact lies at `content`."""
        return content if self.is_file else content / relative


def seal(content: Path, *, owner: str, path: str, began: int = 0, boot: str = "") -> Manifest:
    """Write-protect the file or folder `content` and note what it is; folders stay writable, to be removable.

    Args:
        content: what is to be served.
        owner: see `Manifest`, as for `path` and `began`.
        path: see `Manifest`.
        began: see `Manifest`.
        boot: the current run of the machine, to leave settling for later; empty settles at once.

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
    records = {relative: _protected(file) for relative, file in files}
    manifest = Manifest(owner=owner, path=path, is_file=is_file, files=records, began=began, boot=boot)
    if not boot:
        return settled(content, manifest, parallel=True)
    if sum(record.size for record in records.values()) <= HASHED_AT_ONCE:
        return _hashed(content, manifest)
    return manifest


def settled(
    content: Path, manifest: Manifest, *, check: Callable[[], None] = lambda: None, parallel: bool = False
) -> Manifest:
    """Hash what is not yet hashed, write all through to the disk, and return the manifest that says so.

    Args:
        content: where the artifact lies.
        manifest: what sealing noted of it.
        check: raises to give up; called between chunks.
        parallel: use all cores.

    Raises:
        CacheError: a file was changed since it was sealed.
        OSError: one can't be read or synced.
    """
    found = _hashed(content, manifest, check=check, parallel=parallel)
    _sync_all(content, manifest, check)
    return msgspec.structs.replace(found, boot="")


def sync_folder(folder: Path) -> None:
    """Write the names in a folder through to the disk, where the file system can."""
    with contextlib.suppress(OSError):
        _sync(folder)


def differences(content: Path, manifest: Manifest) -> list[str]:
    """Compare what lies at `content` with its manifest; says in words what differs."""
    found: list[str] = []
    for relative, record in manifest.files.items():
        file = manifest.locate(content, relative)
        try:
            status = file.lstat()
            if status.st_size != record.size:
                found.append(f"{relative}: {status.st_size:,} bytes in place of {record.size:,}")
            elif _is_other(file, status, record):
                found.append(f"{relative}: other content than was pulled")
        except OSError as error:
            found.append(f"{relative}: {error.strerror}")
    if not manifest.is_file and content.is_dir():
        extra = {relative for relative, _ in _files(content, "")} - manifest.files.keys()
        found += [f"{relative}: was not there when it was pulled" for relative in sorted(extra)]
    return found


def equals(manifest: Manifest, files: Mapping[str, Path]) -> bool:
    """Tell whether files, by their paths in the artifact (empty for a single one), are what was hashed."""
    names = dict.fromkeys(manifest.files, "") if manifest.is_file else {name: name for name in manifest.files}
    if set(names.values()) != set(files):
        return False
    return all(
        files[name].stat().st_size == manifest.files[sealed].size
        and _digest(files[name], parallel=True) == manifest.files[sealed].digest
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


def _protected(file: Path) -> FileRecord:
    status = file.lstat()
    file.chmod(stat.S_IMODE(status.st_mode) & ~_WRITE)
    return FileRecord(status.st_size, modified=status.st_mtime_ns)


def _hashed(
    content: Path, manifest: Manifest, *, check: Callable[[], None] = lambda: None, parallel: bool = False
) -> Manifest:
    def hashed(relative: str, record: FileRecord) -> FileRecord:
        if record.digest:
            return record
        file = manifest.locate(content, relative)
        digest = _digest(file, check=check, parallel=parallel)
        status = file.lstat()
        if (status.st_size, status.st_mtime_ns) != (record.size, record.modified):
            raise CacheError(f"{str(file)!r} was changed after it was pulled, before it could be hashed.")
        return FileRecord(record.size, digest)

    records = {relative: hashed(relative, record) for relative, record in manifest.files.items()}
    return msgspec.structs.replace(manifest, files=records)


def _sync_all(content: Path, manifest: Manifest, check: Callable[[], None]) -> None:
    """Write an artifact's files through to the disk, with the folders that lead to them in its version."""
    folders = {content.parent, content.parent.parent}
    for relative in manifest.files:
        check()
        at = manifest.locate(content, relative)
        _sync(at)
        while (at := at.parent) not in folders:
            folders.add(at)
    for folder in folders:
        sync_folder(folder)


def _is_other(file: Path, status: os.stat_result, record: FileRecord) -> bool:
    if not record.digest:
        return status.st_mtime_ns != record.modified
    return _digest(file, parallel=True) != record.digest


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path, *, check: Callable[[], None] = lambda: None, parallel: bool = False) -> str:
    """The SHA-256 of a file; of one larger than a piece, that of its pieces' own, on all cores if wanted."""
    size = path.stat().st_size
    if size <= _PIECE:
        return _piece_digest(path, 0, check).hex()
    starts = range(0, size, _PIECE)
    if not parallel:
        return hashlib.sha256(b"".join(_piece_digest(path, start, check) for start in starts)).hexdigest()
    with ThreadPoolExecutor(_WORKERS, "withrun-hash") as pool:
        pieces = pool.map(lambda start: _piece_digest(path, start, check), starts)
        return hashlib.sha256(b"".join(pieces)).hexdigest()


def _piece_digest(path: Path, start: int, check: Callable[[], None]) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        left = _PIECE
        while left and (chunk := stream.read(min(_CHUNK, left))):
            check()
            digest.update(chunk)
            left -= len(chunk)
    return digest.digest()
