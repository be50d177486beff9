"""Looking after the cache: what it holds, whether that is intact, and making it smaller.

What is being used is never removed: what a pull is filling, what a `load`, `place` or `export` is reading,
what a process has open (where the platform can tell), and what a user's own file became a link to.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from withrun.cache import lending
from withrun.cache.artifacts import ArtifactCache
from withrun.cache.layout import Key
from withrun.cache.manifest import differences
from withrun.cache.publication import sweep_staging
from withrun.cache.settling import boot_id, is_sound, read_manifest, settle
from withrun.cache.versions import served, versions

__all__ = ["CachedArtifact", "Trimmed", "list_artifacts", "trim", "verify"]


@dataclass(frozen=True)
class CachedArtifact:
    """One artifact in the cache.

    Attributes:
        key: what it is; None if the cache's own note of it can't be read.
        folder: where it lies.
        size: bytes on the disk, with older copies and cut-off pulls.
        files: how many files are served.
        last_use: when it was last asked for, good to a minute; None if it is not served.
        status: `ok`; `lent` if a user's file is a link to it; `partial` if it is being pulled or a pull was
            cut off; `stale` if only copies are left that are not served, as after a power cut.
    """

    key: Key | None
    folder: Path
    size: int
    files: int
    last_use: datetime | None
    status: str


@dataclass
class Trimmed:
    """What a trimming did: what was removed, how many bytes that freed, and how many are left."""

    removed: list[CachedArtifact] = field(default_factory=list)
    in_use: list[CachedArtifact] = field(default_factory=list)
    freed: int = 0
    left: int = 0


def list_artifacts(cache: ArtifactCache) -> list[CachedArtifact]:
    """List what the cache holds, the least recently used first."""
    found = [_describe(folder, key) for owner in cache.owners() for folder, key in cache.folders(owner)]
    return sorted(found, key=lambda artifact: artifact.last_use or _NEVER)


def verify(artifact: CachedArtifact) -> list[str]:
    """Compare an artifact with the sizes and hashes of when it was pulled; says in words what differs."""
    name = served(str(artifact.folder))
    if name is None:
        return []
    version = artifact.folder / name
    manifest = read_manifest(version)
    if manifest is None:
        return ["its manifest is missing or unreadable"]
    if manifest.boot != boot_id() and not manifest.is_hashed:
        return [
            "the machine stopped before it was hashed and on the disk; it is not served, and pulled again "
            "when it is asked for"
        ]
    found = differences(version / "content" / Key(manifest.owner, manifest.path).name, manifest)
    if not found:
        with contextlib.suppress(OSError):  # a cache that this process can't write to is as intact
            settle(version)
    return found


def trim(
    cache: ArtifactCache, max_bytes: int, *, spare_recent: float = 0.0, dry_run: bool = False
) -> Trimmed:
    """Make the cached artifacts take `max_bytes` at most, removing the least recently used first.

    Leftovers that nobody is served go in any case. Metadata, and what is logged but not yet delivered, is not
    touched.

    Args:
        cache: the cache.
        max_bytes: how much may stay.
        spare_recent: what was used within that many seconds stays too; its path may just have been given out.
        dry_run: remove nothing, and tell what would be.
    """
    result = Trimmed()
    if not dry_run:
        sweep_staging(cache.root)
    for owner in cache.owners() if not dry_run else ():
        for folder, _ in cache.folders(owner):
            cache.sweep(folder)
    artifacts = list_artifacts(cache)
    result.left = sum(artifact.size for artifact in artifacts)
    for artifact in artifacts:
        if result.left <= max_bytes:
            break
        age = time.time() - (artifact.last_use or _NEVER).timestamp()
        if age < spare_recent or not cache.discard(artifact.folder, dry_run=dry_run):
            result.in_use.append(artifact)
            continue
        result.removed.append(artifact)
        result.freed += artifact.size
        result.left -= artifact.size
    return result


_NEVER = datetime.fromtimestamp(0, tz=timezone.utc)


def _describe(folder: Path, key: Key | None) -> CachedArtifact:
    name = served(str(folder))
    manifest = read_manifest(folder / name) if name is not None else None
    used = _modified(folder / name) if name is not None else None
    if any(lending.is_lent(version) for version in versions(folder)):
        status = "lent"
    elif name is not None and is_sound(folder / name):
        status = "ok"
    else:
        status = "partial" if (folder / "part").exists() else "stale"
    return CachedArtifact(
        key=key,
        folder=folder,
        size=_size(folder),
        files=len(manifest.files) if manifest is not None else 0,
        last_use=used,
        status=status,
    )


def _modified(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, tz=timezone.utc)
    except FileNotFoundError:
        return None


def _size(folder: Path) -> int:
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a pull that goes on beside us
                total += Path(top, name).lstat().st_size
    return total
