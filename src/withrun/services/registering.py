"""Registering a model version once, also when an answer was lost."""

from __future__ import annotations

from withrun.backend import Backend, KeyValue, VersionRecord
from withrun.errors import ServerError, ServerUnreachable

__all__ = ["Registration", "settled_version", "versions_of"]


class Registration:
    """One version's registration: `attempt` may be called until it succeeds.

    The version carries a unique tag. Once an attempt may have been applied without an answer, the tag is
    searched for before the next attempt and checked again after it; of duplicates the first stays.

    Args:
        backend: where.
        model: name of the registered model.
        source: URL of the artifact.
        run_id: the run that made it, by its ID on the server.
        tags: the version's tags, the unique one not among them.
        mark: the unique tag.
        uncertain: it may have been registered before.
    """

    def __init__(
        self,
        backend: Backend,
        model: str,
        source: str,
        run_id: str,
        tags: dict[str, str],
        mark: KeyValue,
        *,
        uncertain: bool = False,
    ) -> None:
        self._backend = backend
        self._model = model
        self._source = source
        self._run_id = run_id
        self._tags = tags | {mark.key: mark.value}
        self._mark = mark
        self._uncertain = uncertain

    def attempt(self) -> VersionRecord:
        """Register the version, or find it if it was registered before."""
        uncertain = self._uncertain
        found = self._find() if uncertain else None
        if found is not None:
            return found
        created = self._create()
        # The lost attempt may have been applied after the search above.
        return (self._find() or created) if uncertain else created

    def _create(self) -> VersionRecord:
        try:
            return self._backend.create_version(
                self._model,
                self._source,
                run_id=self._run_id,
                tags=tuple(KeyValue(*item) for item in self._tags.items()),
            )
        except (ServerUnreachable, ServerError):
            self._uncertain = True
            raise

    def _find(self) -> VersionRecord | None:
        found = versions_of(self._backend, self._run_id)
        return settled_version(self._backend, self._model, found, self._mark)


def versions_of(backend: Backend, run_id: str) -> list[VersionRecord]:
    """The versions that a run made."""
    found: list[VersionRecord] = []
    token = ""
    while True:
        page = backend.search_versions(f"run_id = '{run_id}'", page_token=token)
        found += page.items
        token = page.next_token
        if not token:
            return found


def settled_version(
    backend: Backend, model: str, versions: list[VersionRecord], mark: KeyValue
) -> VersionRecord | None:
    """The version of a model that carries the unique tag; of several the first stays, the others go."""
    marked = [version for version in versions if version.name == model and mark in version.tags]
    if not marked:
        return None
    first, *duplicates = sorted(marked, key=lambda version: (len(version.version), version.version))
    for duplicate in duplicates:
        backend.delete_version(model, duplicate.version)
    return first
