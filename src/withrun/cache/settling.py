"""Settling: making cached artifacts last, behind the back of who pulled them.

A copy is served as soon as it is sealed. That is safe from the death of any process: what was written is the
kernel's by then. It is not safe from a power cut, after which a file may have its name and size and none of
its content. So a copy that is not yet settled is served only within the run of the machine that it was made
in (`boot_id`); a thread of low priority hashes it and writes it through to the disk, and then it is served
for good. What never came to that, because its process was killed, is taken up by a later one that asks for
it; after a restart of the machine it is compared with its hashes, or pulled again where it has none.

The final manifest goes to a file that was made empty with the copy. No name is added, so that whoever removes
the folder meanwhile is not disturbed, and what was cut off while it was written reads as not there.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import msgspec

from withrun.cache.layout import Key
from withrun.cache.manifest import Manifest, differences, settled, sync_folder
from withrun.errors import CacheError

__all__ = [
    "boot_id",
    "is_sound",
    "is_unsettled",
    "let_go",
    "read_manifest",
    "settle",
    "settle_later",
    "wait_until_settled",
    "write_manifest",
]

_SEALED, _SETTLED = "sealed.json", "manifest.json"

_ABANDONED = 600.0
"""Seconds after which a copy is settled by any process that uses it: the one that made it died, it seems."""

_EXIT_WAIT = 5.0
"""Seconds that the end of the process waits for what is not yet settled."""

_log = logging.getLogger("withrun")


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what identifies the machine's run since its start; empty where that can't be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def write_manifest(version: Path, manifest: Manifest) -> None:
    """Write the manifest of a copy that is not yet served."""
    (version / _SETTLED).write_bytes(b"" if manifest.boot else msgspec.json.encode(manifest))
    if manifest.boot:
        (version / _SEALED).write_bytes(msgspec.json.encode(manifest))


def read_manifest(version: Path) -> Manifest | None:
    """Return a version's manifest, the final one if there is one; None if none can be read."""
    # The final one twice: it may have been completed, and the other emptied, in between.
    for name in (_SETTLED, _SEALED, _SETTLED):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((version / name).read_bytes(), type=Manifest)
    return None


def is_sound(version: Path) -> bool:
    """Tell whether a version may be served: it was settled, or was made in this run of the machine.

    One that was hashed before a power cut is compared with its hashes.
    """
    manifest = read_manifest(version)
    if manifest is None:
        return False
    if not manifest.boot:
        return True
    if manifest.boot == boot_id():
        if time.time() - manifest.began / 1e9 > _ABANDONED:
            settle_later(version)
        return True
    if not manifest.is_hashed or differences(_content(version, manifest), manifest):
        return False
    with contextlib.suppress(OSError):  # a cache that can't be written to is compared again next time
        settle(version)
    return True


def settle(version: Path) -> None:
    """Make a version last, now; nothing is done to one that does already.

    Raises:
        CacheError: a file in it was changed, or it has no manifest.
        OSError: it can't be written.
    """
    let_go(version)
    _settle(version)


def settle_later(version: Path) -> None:
    """Make a version last, soon, by a thread of this process; nothing is done to one that does already."""
    if is_unsettled(version):
        _worker.add(version)


def let_go(version: Path) -> bool:
    """Stop settling a version, so that it can be removed; tells whether this process was to settle it."""
    return _worker.drop(version)


def is_unsettled(version: Path) -> bool:
    """Tell whether a version is yet to be settled, by this process or another."""
    try:
        return (version / _SEALED).stat().st_size > 0
    except OSError:
        return False


def wait_until_settled(timeout: float | None = None) -> bool:
    """Wait until all that this process has to settle is; tells whether it is."""
    return _worker.wait(timeout)


class _GivenUp(Exception):
    """Ends the settling of a version that is to be removed."""


class _Worker:
    """A queue of versions, and the thread that settles them; it ends when there is nothing left to do."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start empty; after a fork too, whose parent goes on settling its own."""
        self._changed = threading.Condition()
        self._queue: list[Path] = []
        self._active: Path | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, version: Path) -> None:
        with self._changed:
            if version in self._queue or version == self._active:
                return
            self._queue.append(version)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="withrun-settle", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter is about to end, or there can't be more threads
                    self._thread = None
                    self._queue.clear()

    def drop(self, version: Path) -> bool:
        with self._changed:
            if version in self._queue:
                self._queue.remove(version)
                return True
            if version != self._active:
                return False
            self._stop.set()
            self._changed.wait_for(lambda: version != self._active)
            return True

    def wait(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and self._active is None, timeout)

    def _run(self) -> None:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # there, a thread has a priority of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while (version := self._next()) is not None:
            with contextlib.suppress(_GivenUp):
                self._settle(version)

    def _settle(self, version: Path) -> None:
        try:
            _settle(version, self._check)
        except (OSError, CacheError) as error:
            # It was removed meanwhile, or is another's to write to, or was tampered with, which `verify` will
            # tell. It is served as before, while the machine runs.
            _log.debug("could not settle %s: %s", version, error)

    def _next(self) -> Path | None:
        with self._changed:
            self._active = self._queue.pop(0) if self._queue else None
            if self._active is None:
                self._thread = None
            self._stop.clear()
            self._changed.notify_all()
            return self._active

    def _check(self) -> None:
        if self._stop.is_set():
            raise _GivenUp


def _settle(version: Path, check: Callable[[], None] | None = None) -> None:
    manifest = read_manifest(version)
    if manifest is None:
        raise CacheError(f"The manifest of the cached {str(version)!r} can't be read.")
    if not manifest.boot:
        return
    content = _content(version, manifest)
    # Behind somebody's back by one thread: an interpreter that is about to end starts no more of them.
    final = settled(content, manifest, check=check or (lambda: None), parallel=check is None)
    with (version / _SETTLED).open("r+b") as file:
        # Over what is there, if anything: the beginning of the same or, by another process, all of it.
        file.write(msgspec.json.encode(final))
        file.flush()
        os.fsync(file.fileno())
    os.truncate(version / _SEALED, 0)  # not removed: the folder's time is that of its last use
    sync_folder(version.parent)  # its name, and the pointer to it


def _content(version: Path, manifest: Manifest) -> Path:
    return version / "content" / Key(manifest.owner, manifest.path).name


_worker = _Worker()
os.register_at_fork(after_in_child=_worker.forget)
atexit.register(_worker.wait, _EXIT_WAIT)
