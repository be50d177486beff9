"""Publication: what the cache does while something is published, so that its copy is what the repo holds.

The copy is made beside the upload, which mostly waits for the server. It is served only if nobody else, of
those who share this cache, published to the same place from before the upload until the copy is served: else
it is not known whose files the repo holds now, and they have to be pulled.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from withrun.cache.failures import explained
from withrun.cache.layout import Key
from withrun.cache.locks import reading, removing
from withrun.errors import CacheError

if TYPE_CHECKING:
    from withrun.cache.artifacts import ArtifactCache

__all__ = ["Copy", "Publication", "sweep_staging"]

_STAGING = "staging"
_NAME = re.compile(r"[0-9a-f]{16}")

Copy = Callable[[Path, Callable[[], None]], None]
"""Makes a copy at a path; calls the function that it is given now and then, which raises to stop it."""


class Publication:
    """One publishing to the path of a key; used around it, from before the first byte is sent.

    Args:
        cache: where copies are kept.
        key: what is published.
        copy: makes the copy that is to be kept; None if none is.
    """

    def __init__(self, cache: ArtifactCache, key: Key, copy: Copy | None) -> None:
        self._cache, self._key, self._copy = cache, key, copy
        self._by = secrets.token_hex(8)
        self._log = cache.log(key.owner)
        self._home = cache.root / _STAGING / self._by
        self._start = self._end = self._log.mark()
        self._published = self._disturbed = False
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._not_forgotten: CacheError | None = None

    def __enter__(self) -> Publication:
        if self._copy is not None:
            with contextlib.suppress(OSError):  # where this fails, so does the copy, and says so
                # Others who publish there are to see that this one does.
                (self._cache.artifacts / self._key.owner).mkdir(parents=True, exist_ok=True)
        # Before, so that a process that dies half-way leaves no copy that is no longer true.
        self._cache.forget(self._key, by=self._by)
        if self._copy is not None:
            self._begin(self._copy)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with self._stack:
            if not self._published:
                self.published()

    def _begin(self, copy: Copy) -> None:
        try:
            (self._home / "content").mkdir(parents=True)
            self._stack.callback(shutil.rmtree, self._home, ignore_errors=True)
            self._stack.enter_context(reading(self._home))
            self._thread = threading.Thread(target=self._make, args=(copy,), name="withrun-copy")
            self._thread.start()
            self._stack.callback(self._thread.join)
        except OSError as error:
            self._failure = error  # no reason not to publish

    def published(self) -> None:
        """Say that the upload is over, well or not. What goes wrong with that is raised by `check`."""
        self._published = True
        # Another one may have pulled in between.
        if not self._forget() and self._thread is not None:
            self._discard(self._thread)  # it may be what takes the room
            self._forget()
        self._end = self._log.mark()
        self._disturbed = self._log.concerns(self._start, self._key.path, but=self._by)

    def _forget(self) -> bool:
        try:
            self._cache.forget(self._key, by=self._by)
        except CacheError as error:
            self._not_forgotten = error
            return False
        self._not_forgotten = None
        return True

    def _discard(self, thread: threading.Thread) -> None:
        self._stop.set()
        thread.join()
        self._failure = self._failure or self._not_forgotten
        shutil.rmtree(self._home / "content", ignore_errors=True)

    def check(self) -> None:
        """Raise if others may still be served what they pulled before this was published.

        Raises:
            CacheError: the cache can't be written.
        """
        if self._not_forgotten is not None:
            raise self._not_forgotten

    def adopt(self, holds: Callable[[], bool]) -> Path | None:
        """Serve the copy from now on, and return its path; None if it may not be what the repo holds.

        Args:
            holds: tells, when the copy is made, whether the source is still what was published.

        Raises:
            CacheError: it could not be made.
        """
        if self._copy is None:
            return None
        if self._thread is not None:
            self._thread.join()
        if self._disturbed or not holds():
            return None
        with explained(self._key, self._cache.root):
            if self._failure is not None:
                raise self._failure
            return self._cache.adopt(
                self._key, self._home, lambda: self._log.concerns(self._end, self._key.path)
            )

    def _make(self, copy: Copy) -> None:
        try:
            copy(self._home / "content" / self._key.name, self._check)
        except BaseException as error:  # noqa: BLE001 - raised where the copy is asked for
            self._failure = error
            shutil.rmtree(self._home / "content", ignore_errors=True)  # the disk may be full

    def _check(self) -> None:
        if self._stop.is_set():
            raise InterruptedError("the publishing ended before its copy was made")


def sweep_staging(root: Path) -> None:
    """Remove from a cache folder the copies of publishings whose process died."""
    try:
        found = [entry.path for entry in os.scandir(root / _STAGING) if _NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return
    for path in found:
        with contextlib.suppress(FileNotFoundError), removing(Path(path)) as free:
            if free:
                shutil.rmtree(path)
