"""LocalNames: what the server calls that which started without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from withrun.journal import LocalIds, looks_local

__all__ = ["LocalNames"]


class LocalNames:
    """Resolves local IDs; whatever is none, or is not delivered yet, keeps its name.

    A local ID can be told by its look, so that nothing is looked up for others.

    Args:
        ids: the IDs that were given; None: this API knows of no journals.
        uid_key: the tag that keeps a run's local ID, which stands for itself in queries.
    """

    def __init__(self, ids: LocalIds | None, uid_key: str) -> None:
        self._ids = ids
        self._uid_key = uid_key

    def run(self, run_id: str) -> str:
        """The ID of a run."""
        return self._resolved("run", run_id)

    def experiment(self, experiment_id: str) -> str:
        """The ID of an experiment."""
        return self._resolved("experiment", experiment_id)

    def version(self, model: str, version: str) -> str:
        """The number of a model version."""
        if self._ids is None or not version.startswith("local-"):
            return version
        return self._ids.resolve("version", f"{model}/{version}") or version

    def lasting(self, run_id: str) -> str:
        """What names a run for as long as this process lives: the local ID, if it ever had one."""
        if self._ids is None or looks_local(run_id):
            return run_id
        return self._ids.local_of("run", run_id) or run_id

    def in_query(self, query: Any) -> Any:
        """A query with the server's IDs in place of local ones."""
        return self._replaced(query, "") if self._ids is not None and isinstance(query, Mapping) else query

    def _replaced(self, part: Any, path: str) -> Any:
        if isinstance(part, Mapping):
            return {key: self._replaced(inner, _below(path, key)) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [self._replaced(inner, path) for inner in part]
        if not isinstance(part, str) or not looks_local(part) or path.endswith(f"tags.{self._uid_key}"):
            return part
        run = self.run(part)
        return self.experiment(part) if run == part else run

    def _resolved(self, kind: str, given: str) -> str:
        if self._ids is None or not looks_local(given):
            return given
        return self._ids.resolve(kind, given) or given


def _below(path: str, key: Any) -> str:
    """The field that a condition under `key` is about; an operator is about the field around it."""
    if not isinstance(key, str) or key.startswith("$"):
        return path
    return f"{path}.{key}" if path else key
