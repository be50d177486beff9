"""VersionPaths: where model versions lie in their runs, for nothing to be published over them."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager

from withrun.backend import VersionRecord
from withrun.cache.layout import overlap
from withrun.errors import AlreadyExists, ServerError, ServerUnreachable
from withrun.schema import Run

__all__ = ["VersionPaths"]

_log = logging.getLogger("withrun")

_KEPT_RUNS = 1024
"""Runs of which it is remembered where versions lie."""


class VersionPaths:
    """Refuses what would change a version.

    Args:
        ask: gives the versions that lie in a run, each with its path there, from the registry. One at the
            root has the empty path, and takes all of the run.
        briefly: within it, the registry is not waited for for long.
    """

    def __init__(
        self,
        ask: Callable[[Run], Iterable[tuple[str, VersionRecord]]],
        briefly: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._ask = ask
        self._briefly = briefly
        self._known: dict[str, frozenset[str]] = {}
        """By run, where versions lay when the registry was asked."""
        self._forgotten = 0
        """How often something was forgotten; an answer that was asked for before is not remembered."""
        self._lock = threading.Lock()
        """Held to look at or change what is known, never while the registry is asked."""
        _instances.add(self)

    def check_free(self, run: Run, path: str) -> None:
        """Refuse a path for a version at, above or below which another version lies."""
        for taken, record in self._ask(run):
            if overlap(taken, path):
                raise _refusal(run, taken, record, path)

    def check_kept(self, run: Run, paths: Collection[str]) -> None:
        """Refuse paths for files of which one lies where a version does.

        The registry is asked once a run, and again after `forget`, or when something seems to lie there: so
        that logging many artifacts costs one request. A version that others register between that and the
        publishing is not seen. Where the registry can't be asked, a warning says so, and the next call
        asks again.
        """
        with self._lock:
            known, forgotten = self._known.get(run.id), self._forgotten
        if known is None and (known := self._ask_briefly(run)) is not None:
            self._remember(run, known, forgotten)
        if not known or _clash(known, paths) is None:
            return
        found = dict(self._ask(run))
        clash = _clash(found, paths)
        if clash is not None:
            taken, path = clash
            raise _refusal(run, taken, found[taken], path)

    def forget(self, run: Run) -> None:
        """Ask anew where versions lie in a run: one was registered."""
        with self._lock:
            self._forgotten += 1
            self._known.pop(run.id, None)

    def _remember(self, run: Run, known: frozenset[str], forgotten: int) -> None:
        """Keep an answer, unless a version was registered since it was asked for."""
        with self._lock:
            if forgotten != self._forgotten:
                return
            self._known[run.id] = known
            while len(self._known) > _KEPT_RUNS:
                self._known.pop(next(iter(self._known)))

    def _ask_briefly(self, run: Run) -> frozenset[str] | None:
        """Where versions lie by the registry's answer; None, with a warning, if there is none."""
        try:
            with self._briefly():
                return frozenset(taken for taken, _ in self._ask(run))
        except (ServerError, ServerUnreachable) as error:
            _log.warning(
                "Could not ask which model versions lie in run %s: one of them may be changed by what is "
                "published there. %s",
                run.id,
                error,
            )
            return None


_instances: weakref.WeakSet[VersionPaths] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A lock that another thread of the parent held would stay held for ever.
    for paths in list(_instances):
        paths._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _clash(taken: Collection[str], paths: Collection[str]) -> tuple[str, str] | None:
    """One path of each, of which either is, or holds, the other; None if there are none."""
    versions, files = set(taken), set(paths)
    for path in files:
        for above in _up(path):
            if above in versions:
                return above, path
    for version in versions:
        for above in _up(version):
            if above in files:
                return version, above
    return None


def _up(path: str) -> Iterator[str]:
    """A path, the folders that hold it, and the root."""
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""


def _refusal(run: Run, taken: str, record: VersionRecord, path: str) -> AlreadyExists:
    return AlreadyExists(
        f"version {record.version} of model {record.name!r} lies at {taken or 'the artifact folder'!r} of "
        f"run {run.id}, and a version is never changed; publish to another path_in_run than {path!r}"
    )
