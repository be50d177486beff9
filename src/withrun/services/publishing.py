"""Publisher: one artifact on its way to the repo, and what becomes of its source and of cached copies."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from withrun.cache.artifacts import ArtifactCache
from withrun.cache.publication import Publication
from withrun.errors import (
    ArtifactNotFound,
    BucketNotFound,
    CacheError,
    FailedToPublishArtifact,
    InvalidArgument,
    TransferError,
)
from withrun.services.choices import Choices
from withrun.services.local_files import replicate
from withrun.services.location import Location
from withrun.services.notes import add_note
from withrun.services.source import Snapshot, remove
from withrun.transfer.urls import local_path, redact

if TYPE_CHECKING:
    import httpx

    from withrun.transfer.file_transfer import FileTransfer

__all__ = ["Publisher", "pull"]

_log = logging.getLogger("withrun")


def pull(
    transfer: FileTransfer,
    cache: ArtifactCache,
    http: httpx.Client | None,
    where: Location,
    *,
    since: int,
    hold: contextlib.ExitStack | None = None,
) -> Path:
    """Pull an artifact into the cache, unless it was pulled since then; returns its path there.

    With `hold`, nothing removes it until that is left.
    """
    url = where.url
    try:
        return cache.fill(where.key, lambda part: transfer.pull(url, part, http=http), since=since, hold=hold)
    except BucketNotFound:
        raise
    except ArtifactNotFound as error:
        raise ArtifactNotFound(f"There is no {where}: {error}") from error


@dataclass(frozen=True)
class Publisher:
    """Publishes to one place by settled choices.

    Attributes:
        transfer: moves files.
        cache: the API's artifact cache; None if it has none.
        http: the tracking server's client.
        where: where the artifact goes.
        choices: what becomes of its source.
    """

    transfer: FileTransfer
    cache: ArtifactCache | None
    http: httpx.Client | None
    where: Location
    choices: Choices

    def publish(
        self,
        source: Path,
        register: Callable[[], str | None] | None = None,
        before: Callable[[Collection[str]], None] | None = None,
    ) -> None:
        """Publish the file or folder `source`, then cache, link or remove it as was chosen.

        Args:
            source: what to publish.
            register: done once all of it is in the repo, before anything becomes of the source; returns as
                what, in words.
            before: is given the paths in the run of all that is to be sent, before anything is; raises to
                refuse it.
        """
        self._check(source)
        snapshot = self._look(source)
        if before is not None:
            self._ask(snapshot, before)
        with self._publication(snapshot) as publication:
            try:
                self.transfer.push(source, self.where.url, http=self.http)
            except Exception as error:
                raise FailedToPublishArtifact(
                    f"Could not publish {str(source)!r} to {self.where}, at {redact(self.where.url)!r}: "
                    f"{error}\nThe source is kept at {str(source)!r}; publish it again from there.",
                    source=source,
                ) from error
            except BaseException as error:
                add_note(
                    error, f"Publishing {str(source)!r} to {self.where} was interrupted; the source is kept."
                )
                raise
            if publication is not None:
                publication.published()
            registered = None if register is None else self._register(source, register)
            self._settle(snapshot, publication, registered)

    @contextlib.contextmanager
    def _publication(self, snapshot: Snapshot) -> Iterator[Publication | None]:
        """Let the cache, if there is one, know of the publishing, and copy what is to be cached beside it."""
        if self.cache is None:
            yield None
            return
        # Never as another name of the same file: the source, or what a link in it leads to, is the user's to
        # write to, and a copy is not.
        copy = partial(replicate, snapshot.source) if self.choices.use_cache else None
        with Publication(self.cache, self.where.key, copy) as publication:
            yield publication

    def _look(self, source: Path) -> Snapshot:
        try:
            return Snapshot(source)
        except ArtifactNotFound:
            raise
        except TransferError as error:
            raise FailedToPublishArtifact(
                f"Could not publish {str(source)!r} to {self.where}; nothing was sent: {error}\n"
                f"It is kept at {str(source)!r}; mend it there, and publish it again.",
                source=source,
            ) from error

    def _ask(self, snapshot: Snapshot, before: Callable[[Collection[str]], None]) -> None:
        inside = f"{self.where.path}/" if self.where.path else ""
        paths = [
            f"{inside}{file.relative}" if file.relative else self.where.path for file in snapshot.tree.files
        ]
        try:
            before(paths)
        except BaseException as error:
            add_note(error, f"Nothing was sent; the source is kept at {str(snapshot.source)!r}.")
            raise

    def _register(self, source: Path, register: Callable[[], str | None]) -> str | None:
        try:
            return register()
        except Exception as error:
            raise FailedToPublishArtifact(
                f"{self.where} was published, but could not be registered: {error}\n"
                f"Its files are in the run, and the source is kept at {str(source)!r}: only the registration "
                "is missing. When nothing is in its way any more, log it again from there.",
                source=source,
            ) from error
        except BaseException as error:
            add_note(
                error, f"{self.where} was published, and perhaps not registered; {str(source)!r} is kept."
            )
            raise

    def _check(self, source: Path) -> None:
        if self.cache is not None and self.cache.holds(source):
            raise CacheError(
                f"Can't publish {str(source)!r}: it is in the cache {str(self.cache.root)!r}, which may "
                "remove it at any time. Place or export it elsewhere, and publish that."
            )
        target = self.where.local()
        if target is not None and not self.choices.keep and source.resolve() == target.resolve():
            raise InvalidArgument(
                f"Can't publish {str(source)!r} and remove it: it lies in its place in the run already. "
                "Leave out keep_the_source=False."
            )

    def _settle(self, snapshot: Snapshot, publication: Publication | None, registered: str | None) -> None:
        """Do what was chosen with what is published; what goes wrong with that says that it is."""
        source = snapshot.source
        done = f"{self.where} was published" + (f" as {registered}" if registered else "")
        try:
            copy = self._cache(snapshot, publication, done)
            if self.choices.link:
                self._link(snapshot, copy, done)
            elif not self.choices.keep:
                self._remove(snapshot, done)
        except Exception:
            raise
        except BaseException as error:
            add_note(error, f"{done} before this. {_kept(source)}")
            raise

    def _cache(self, snapshot: Snapshot, publication: Publication | None, done: str) -> Path | None:
        """Keep a copy of what was published, if that was chosen; gives it if it was made of the source."""
        if self.cache is None or publication is None:
            return None
        try:
            publication.check()
            return (
                self._cache_published(snapshot, self.cache, publication) if self.choices.use_cache else None
            )
        except Exception as error:
            if self.choices.needs_cache:
                raise CacheError(
                    f"{done}, but could not be cached. {error}\n"
                    f"Publishing it again is not needed. {_kept(snapshot.source)}"
                ) from error
            # What was published is: its caller is to go on, and a copy can be pulled any time.
            _log.warning(
                "%s, but could not be cached; it is pulled when it is first asked for. %s", done, error
            )
            return None

    def _remove(self, snapshot: Snapshot, done: str) -> None:
        try:
            remove(snapshot)
        except Exception as error:
            raise CacheError(
                f"{done}, but its source could not be removed. {error}\n"
                f"Publishing it again is not needed. {_kept(snapshot.source)}"
            ) from error

    def _link(self, snapshot: Snapshot, copy: Path | None, done: str) -> None:
        """Make the source a link to its copy in the cache."""
        # It stays itself if it changed meanwhile, is a link already, to what the user wants it to lead to, or
        # is one of the run's own files, whose links must not lead out of the run.
        source = snapshot.source.absolute()
        if copy is None or self.cache is None or source.is_symlink() or self._is_in_run(source):
            return
        try:
            # What was copied is compared, not assumed: a user's own file is at stake.
            files = {file.relative: file.path for file in snapshot.tree.files}
            if self.cache.equals(copy, files) and snapshot.holds():
                self.cache.lend(copy, source)
        except Exception as error:  # noqa: BLE001 - it may become a link, and need not
            _log.warning("%s, but its source could not be replaced by a link. %s", done, error)

    def _is_in_run(self, source: Path) -> bool:
        root = local_path(self.where.root)
        return root is not None and source.resolve().is_relative_to(root.resolve())

    def _cache_published(
        self, snapshot: Snapshot, cache: ArtifactCache, publication: Publication
    ) -> Path | None:
        """Cache what was published: the copy of the source, or a pull (gives None) if the repo may differ."""
        since = time.time_ns()
        copy = publication.adopt(snapshot.holds) if self._repo_equals(snapshot) else None
        if copy is None:
            pull(self.transfer, cache, self.http, self.where, since=since)
        return copy

    def _repo_equals(self, snapshot: Snapshot) -> bool:
        """Whether the repo holds there what the source does, and nothing else."""
        if snapshot.tree.is_file:
            return True
        found = self.transfer.ls(self.where.url, recursive=True, http=self.http)
        if not isinstance(found, list):
            return False
        held = {meta.Path for meta in found if not meta.IsDir}
        return held == {file.relative for file in snapshot.tree.files}


def _kept(source: Path) -> str:
    # A removal may have failed half-way.
    return f"What is left of the source is kept at {str(source)!r}." if os.path.lexists(source) else ""
