"""ArtifactCache: local copies of artifacts that are whole or not there.

A copy is filled in a folder of its own (`part/`), sealed (see `manifest.py`), renamed to a version, and
served from the moment that the pointer `current` is swapped to it. So a look-up needs no lock, a process that
is killed at any moment leaves nothing that reads as a hit, and who reads a version while a newer one comes
goes on reading it. What a power cut might undo is served only until then (see `settling.py`). `layout.py`
shows the folders.

A cached folder serves everything below it. Where several copies cover a path, the newest decides.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from withrun.cache import entries, lending, placed
from withrun.cache.changes import NAME as CHANGES
from withrun.cache.changes import ChangeLog, Mark
from withrun.cache.failures import explained, is_disk_full
from withrun.cache.layout import HOMES, Key
from withrun.cache.locks import exclusive, keep_read, try_exclusive
from withrun.cache.manifest import equals, seal
from withrun.cache.settling import (
    boot_id,
    is_sound,
    let_go,
    read_manifest,
    settle,
    settle_later,
    write_manifest,
)
from withrun.cache.versions import (
    CURRENT,
    began,
    began_in,
    is_idle,
    name_for,
    note_use,
    remove_old,
    serve,
    served,
    unserve,
    versions,
)
from withrun.errors import ArtifactNotFound, CacheError

__all__ = ["ArtifactCache"]

_PART = "part"

_RESUME_WITHIN = 6 * 3600.0
"""Seconds after which a cut-off pull is not gone on with: it may hold files that the repo has lost since."""

_ATTEMPTS = 5


class ArtifactCache:
    """The artifacts below a cache folder, shared with every thread and process that uses the folder.

    Args:
        root: the `cache_dir`; made when something is first put there.
        portable: write versions in the place of pointers to them, so that tools that lose symlinks can copy
            the result anywhere. For exports; replacing what is there is not one step then.
    """

    def __init__(self, root: Path, *, portable: bool = False) -> None:
        self.root = root.absolute()  # links lead here, from anywhere
        self._portable = portable
        self.artifacts = self.root / "artifacts"
        self._base = str(self.artifacts)  # looking up is hot, and strings are quicker than paths
        self._sound: set[str] = set()  # versions that were found fit to be served; they stay so

    @property
    def homes(self) -> list[Path]:
        """The folders below the cache folder that are its own, where nobody may put anything else."""
        return [self.root / name for name in HOMES]

    # --- looking up ---

    def find(self, key: Key) -> Path | None:
        """Return the path of a cached copy, and note its use; None if there is none."""
        version, path = self._cover(key)
        if version is None or path is None:
            return None
        note_use(version)
        return Path(path)

    def covers(self, key: Key) -> bool:
        """Tell whether the cache holds a copy of this, or of a folder that this would lie in."""
        return self._cover(key)[0] is not None

    def holds(self, path: Path) -> bool:
        """Tell whether a path lies in this cache; a link elsewhere that leads into it does not."""
        real = Path(os.path.realpath(path.parent)) / path.name
        return real.is_relative_to(os.path.realpath(self.artifacts))

    def lasting(self, path: Path, link: Path) -> Path:
        """Return what a link, to be made at `link`, leads by to what `path`, of a cached copy, does.

        Later it leads to a newer copy. For as long as the link is there, `forget` and trimming leave it one.
        """
        real = Path(os.path.realpath(path.parent)) / path.name
        owner, entry, version, *rest = real.relative_to(os.path.realpath(self.artifacts)).parts
        through = placed.link_through(self.artifacts / owner / entry, version, link)
        return self.artifacts.joinpath(owner, entry, through, *rest)

    @contextlib.contextmanager
    def reading(self, key: Key) -> Iterator[Path | None]:
        """Give the path of a cached copy, which stays until the block is left; None if there is none."""
        while True:
            version, path = self._cover(key)
            if version is None or path is None:
                yield None
                return
            with contextlib.ExitStack() as stack:
                if not keep_read(Path(version), Path(path), stack):
                    continue  # it is being removed; there may be a newer one
                note_use(version)
                yield Path(path)
                return

    def _cover(self, key: Key) -> tuple[str | None, str | None]:
        """Find the newest version that covers `key`, and the path of `key` in it if it is there."""
        found: list[tuple[str, str, str]] = []  # an entry's folder, its version, what is asked for in it
        rest, at = "", key
        while True:
            folder = f"{self._base}/{at.folder}"
            name = served(folder)
            if name is not None and self._is_sound(f"{folder}/{name}"):
                found.append((folder, name, f"{at.name}{rest}"))
            if not at.path:
                break
            rest = f"/{at.name}{rest}"
            at = at.above()
        if not found:
            return None, None
        if len(found) > 1:
            found.sort(key=lambda entry: began_in(entry[0], entry[1]), reverse=True)
        folder, name, inner = found[0]
        version = f"{folder}/{name}"
        path = f"{version}/content/{inner}"
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            # Either it is not in that folder, or the folder was removed just now and tells nothing.
            return (version if os.path.lexists(version) else None), None
        # Sealed copies hold no links: if there is one, somebody tampered with it.
        return (version, path) if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else (None, None)

    def _is_sound(self, version: str) -> bool:
        if version in self._sound:
            return True
        if not is_sound(Path(version)):
            return False
        self._sound.add(version)
        return True

    # --- filling ---

    def fill(
        self,
        key: Key,
        write: Callable[[Path], object],
        *,
        since: int = 0,
        hold: contextlib.ExitStack | None = None,
    ) -> Path:
        """Put a copy of an artifact into the cache and return its path.

        One thread of one process at a time fills an artifact; who waited for it takes its result.

        Args:
            key: the artifact.
            write: is given a path in an existing folder, to put the file or folder there. The path may hold
                what an interrupted fill left.
            since: a copy whose fill began no earlier (nanoseconds since the epoch) is taken as it is; 0 takes
                any.
            hold: if given, the copy stays until this is left, as within `reading`; it is taken hold of before
                anybody may remove it, however often they do.

        Raises:
            CacheError: it can't be written (disk full, no permission), or is not fit to be served.
        """
        with explained(key, self.root), exclusive(self._lock_of(self.artifacts / key.folder), what=str(key)):
            for _ in range(_ATTEMPTS):
                version, path = self._cover(key)
                if (
                    version is not None
                    and path is not None
                    and began(Path(version).name) >= since
                    and (hold is None or keep_read(Path(version), Path(path), hold))
                ):
                    return Path(path)
                after = began(Path(version).name) if version is not None else 0
                found = self._fill_once(key, write, after=after)
                if found is not None and (hold is None or keep_read(found.parent.parent, found, hold)):
                    return found
        raise CacheError(
            f"Others published to {key} each of the {_ATTEMPTS} times that it was pulled, so no copy of it "
            "would hold. Try again when they have finished."
        )

    def _fill_once(self, key: Key, write: Callable[[Path], object], *, after: int) -> Path | None:
        """Fill, seal and serve; None if something was published there meanwhile."""
        part = self.artifacts / key.folder / _PART
        mark = self._open_part(key, part)
        start = max(time.time_ns(), after + 1)
        try:
            write(part / "content" / key.name)
            self.seal(key, part, start)
        except Exception as error:
            if isinstance(error, ArtifactNotFound) or is_disk_full(error, self.root):
                shutil.rmtree(part, ignore_errors=True)
            raise
        return self._serve(key, part, start, lambda: self.log(key.owner).concerns(mark, key.path))

    def _open_part(self, key: Key, part: Path) -> Mark:
        """Make the folder to fill, or keep what an interrupted fill left if it is still good."""
        log = self.log(key.owner)
        while True:
            try:
                mark = Mark((part / CHANGES).read_text())
                if _is_resumable(part) and not log.concerns(mark, key.path):
                    return mark
            except (FileNotFoundError, UnicodeDecodeError):
                pass
            if part.exists():
                shutil.rmtree(part)
            with contextlib.suppress(FileNotFoundError):  # a cleaning removed the folder above just now
                part.parent.mkdir(parents=True, exist_ok=True)
                (part.parent / "path.json").write_bytes(msgspec.json.encode(key.path))
                (part / "content").mkdir(parents=True, exist_ok=True)
                (part / CHANGES).write_text(log.mark().text)

    def seal(self, key: Key, part: Path, began: int) -> None:
        """Make what lies in `part` a version that can be served. For the cache's own modules."""
        # An export goes to other machines, and there is nobody who would settle it later.
        boot = "" if self._portable else boot_id()
        content = part / "content" / key.name
        write_manifest(part, seal(content, owner=key.owner, path=key.path, began=began, boot=boot))

    def _serve(self, key: Key, part: Path, began: int, is_outdated: Callable[[], bool]) -> Path | None:
        """Serve the version in `part`, unless it is outdated: then nothing is. The lock is held."""
        folder = self.artifacts / key.folder
        version = folder / name_for(began)
        part.rename(version)
        version = serve(folder, version, portable=self._portable)
        # In this order: who publishes notes it first and looks for what is served second.
        if is_outdated():
            unserve(folder)
            remove_old(folder)
            return None
        remove_old(folder, keep=0 if self._portable else 1)
        settle_later(version)
        return version / "content" / key.name

    def adopt(self, key: Key, part: Path, is_outdated: Callable[[], bool]) -> Path | None:
        """Serve the copy in `part`, made aside, from now on; None if it is outdated, and removed.

        For the cache's own modules.
        """
        with exclusive(self._lock_of(self.artifacts / key.folder), what=str(key)):
            version, _ = self._cover(key)
            began_at = max(time.time_ns(), began(Path(version).name) + 1 if version is not None else 0)
            self.seal(key, part, began_at)
            if is_outdated():
                return None
            folder = self.artifacts / key.folder
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "path.json").write_bytes(msgspec.json.encode(key.path))
            return self._serve(key, part, began_at, is_outdated)

    # --- lending and forgetting ---

    def equals(self, copy: Path, files: Mapping[str, Path]) -> bool:
        """Tell whether a copy, as `fill` returned it, is what these files are, by their paths in it."""
        settle(copy.parent.parent)
        manifest = read_manifest(copy.parent.parent)
        return manifest is not None and equals(manifest, files)

    def lend(self, copy: Path, source: Path) -> None:
        """Replace the user's own `source` by a link to its copy, the path that `fill` returned."""
        settle(copy.parent.parent)  # what is the user's own survives a power cut
        lending.lend(copy, source)

    def forget(self, key: Key, *, by: str = "") -> None:
        """Serve nothing any more that overlaps `key`: something was, or is about to be, published there.

        Copies that are being read, or that a link leads to which a user's own file became or which was
        placed, stay on the disk for as long as that lasts. A pull that is under way starts again.

        Args:
            key: where something is published.
            by: who publishes, as the log of changes is to name it.
        """
        self._drop(key, give_back=False, by=by)

    def clean(self, key: Key) -> None:
        """Remove what overlaps `key`; what was lent is given back to its user first."""
        self._drop(key, give_back=True)

    def clean_all(self) -> None:
        """Remove all artifacts, as `clean` does."""
        for owner in self.owners():
            self.clean(Key(owner, ""))

    def owners(self) -> list[str]:
        """Return the names of all owners that something is cached of, or was."""
        return entries.owners(self.artifacts)

    def folders(self, owner: str) -> Iterator[tuple[Path, Key | None]]:
        """Yield the folders of an owner's entries, each with what it is for; None if that can't be read."""
        return entries.folders(self.artifacts / owner)

    def sweep(self, folder: Path) -> None:
        """Remove from an entry's folder the copies that nobody is served, and a pull cut off long ago."""
        with try_exclusive(self._lock_of(folder)) as held:
            if not held:
                return
            remove_old(folder)
            part = folder / _PART
            if part.exists() and not _is_resumable(part):
                shutil.rmtree(part)
            if not versions(folder) and served(str(folder)) is None and not part.exists():
                shutil.rmtree(folder)

    def discard(self, folder: Path, *, dry_run: bool = False) -> bool:
        """Remove the entry in `folder`, unless a process or a user's link uses it; tells whether.

        With `dry_run` it only tells whether it would.
        """
        with try_exclusive(self._lock_of(folder)) as held, contextlib.ExitStack() as stack:
            if not held:
                return False
            name = served(str(folder))
            found = [*versions(folder), *([folder / CURRENT] if name == CURRENT else [])]
            dropped = [version for version in found if let_go(version)]
            idle = placed.held(folder) is None and all(is_idle(version, stack) for version in found)
            if idle and not dry_run:
                unserve(folder)
                shutil.rmtree(folder)
            else:
                for version in dropped:
                    settle_later(version)
            return idle

    def _drop(self, key: Key, *, give_back: bool, by: str = "") -> None:
        home = self.artifacts / key.owner
        if not home.is_dir():
            return
        with explained(key, self.root):
            try:
                self.log(key.owner).note(key.path, by=by)
            finally:  # removing needs no room on the disk
                for folder, found in self.folders(key.owner):
                    if found is None or found.overlaps(key.path):
                        self._drop_entry(folder, give_back=give_back)
            if not by and os.listdir(home) == [CHANGES]:  # noqa: PTH208 - names are what is compared
                (home / CHANGES).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # a new pull came
                    home.rmdir()

    def _drop_entry(self, folder: Path, *, give_back: bool) -> None:
        if give_back:
            for version in versions(folder):
                lending.give_back(version)
            placed.forget(folder)
        unserve(folder)
        with try_exclusive(self._lock_of(folder)) as held:
            if not held:
                return  # a pull is under way there; it removes what is old when it is done
            remove_old(folder)
            shutil.rmtree(folder / _PART, ignore_errors=True)
            if not versions(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _lock_of(self, folder: Path) -> Path:
        return self.root / "locks" / f"{folder.parent.name}.{folder.name}.lock"

    def log(self, owner: str) -> ChangeLog:
        """Return the log of what was published to an owner's path. For the cache's own modules."""
        return ChangeLog(self.artifacts / owner, self.root / "locks" / f"{owner}.{CHANGES}.lock")


def _is_resumable(part: Path) -> bool:
    return time.time() - part.stat().st_mtime < _RESUME_WITHIN
