"""JournalPublisher: publishes for the journal what was spooled, to where an API itself would have put it.

The journal calls again whenever it can't know whether a call went through, so that each call looks first what
is there already: files are added and replaced one by one, a version is known by its tag `withrun.uid`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from withrun.backend import Backend, KeyValue, VersionRecord
from withrun.cache.layout import overlap
from withrun.errors import AlreadyExists, NotFound
from withrun.journal.record import ArtifactIntent, VersionIntent
from withrun.services.entities import artifact_folder
from withrun.services.location import Location, of_run_id
from withrun.services.registering import Registration, settled_version, versions_of
from withrun.services.tag_keys import TagKeys
from withrun.services.version_source import path_below, resolved_source

if TYPE_CHECKING:
    import httpx

    from withrun.transfer.file_transfer import FileTransfer

__all__ = ["JournalPublisher", "publisher_factory"]

_KEPT_FOLDERS = 4096
"""Runs whose artifact folders are remembered."""


class JournalPublisher:
    """A `withrun.journal.Publisher` on a backend. Safe from several threads.

    Args:
        backend: the store; the deliverer's own.
        transfer: moves files.
        http: gives the tracking server's HTTP client, or None for a store without one. Asked for each use,
            because a forked child has another one.
        keys: the tags in which a run says where its artifacts are.
    """

    def __init__(
        self,
        backend: Backend,
        transfer: FileTransfer,
        http: Callable[[], httpx.Client | None],
        keys: TagKeys | None = None,
    ) -> None:
        self._backend = backend
        self._transfer = transfer
        self._http = http
        self._keys = keys or TagKeys()
        self._folders: dict[str, str] = {}

    def publish_artifact(self, intent: ArtifactIntent, source: Path, run_id: str) -> None:
        """Add the file, or the files of the folder, to the run; nothing that it holds is deleted.

        Raises:
            ArtifactNotFound: what was spooled is gone.
            NotFound: the run is not on the server.
        """
        self._push(source, of_run_id(run_id, self._folder(run_id), intent.path_in_run))

    def publish_version(
        self, intent: VersionIntent, source: Path | None, run_id: str, resolve: Callable[[str], str]
    ) -> str:
        """Publish and register a version, unless one with its uid is registered; returns its number.

        Raises:
            AlreadyExists: the artifact of another version lies there, and a version is never changed.
        """
        mark = KeyValue(self._keys.uid, intent.uid)
        versions = versions_of(self._backend, run_id)
        done = settled_version(self._backend, intent.model, versions, mark)
        if done is not None:
            return done.version
        folder = self._folder(run_id)
        where = of_run_id(run_id, folder, intent.path_in_run)
        if source is not None:
            self._check_free(where, versions)
            self._push(source, where)
        url = f"{folder.rstrip('/')}/{intent.path_in_run}".rstrip("/")
        # What an attempt before this one did, in a process that is gone perhaps, may show only now.
        registration = Registration(
            self._backend, intent.model, url, run_id, intent.tags, mark, uncertain=True
        )
        return registration.attempt().version

    def _folder(self, run_id: str) -> str:
        """URL of a run's artifact folder, asked for once."""
        known = self._folders.get(run_id)
        if known is None:
            known = artifact_folder(self._backend.get_run(run_id), self._keys)
            self._folders[run_id] = known
            while len(self._folders) > _KEPT_FOLDERS:
                self._folders.pop(next(iter(self._folders)), None)
        return known

    def _push(self, source: Path, where: Location) -> None:
        http = None if where.is_local else self._http()
        self._transfer.push(source, where.url, http=http)

    def _check_free(self, where: Location, versions: list[VersionRecord]) -> None:
        for version in versions:
            taken = path_below(where.root, self._source(version))
            if taken is not None and overlap(taken, where.path):
                raise AlreadyExists(
                    f"version {version.version} of model {version.name!r} lies at "
                    f"{taken or 'the artifact folder'!r} of {where.owner}, and a version is never changed; "
                    f"publish to another path_in_run than {where.path!r}"
                )

    def _source(self, version: VersionRecord) -> str:
        try:
            return resolved_source(self._backend, version, self._folder)
        except NotFound:
            return version.source  # what it names is gone, so that it does not lie here


def publisher_factory(
    transfer: FileTransfer, keys: TagKeys | None = None
) -> Callable[[Backend], JournalPublisher]:
    """Makes publishers for the backends that journals deliver by, with the HTTP client of each."""

    def make(backend: Backend) -> JournalPublisher:
        return JournalPublisher(backend, transfer, lambda: getattr(backend, "http", None), keys)

    return make
