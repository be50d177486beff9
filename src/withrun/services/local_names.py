"""LocalNames: what the server calls that which started without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from withrun.journal import LocalIds, looks_local
from withrun.query.fields import Kind
from withrun.query.language import Condition, Node, Not
from withrun.services.tag_keys import TagKeys

__all__ = ["LocalNames"]

_LOCAL_VERSION: Final = "local-"

_Names: TypeAlias = "Callable[[str], tuple[str, ...]]"
"""From an identifier to what may stand for it in the store."""


class LocalNames:
    """Resolves local IDs; whatever is none, or is not delivered yet, keeps its name.

    A local ID can be told by its look, so that nothing is looked up for others.

    Args:
        ids: the IDs that were given; None: this API knows of no journals.
        keys: the tags that a run's relations are kept in.
    """

    def __init__(self, ids: LocalIds | None, keys: TagKeys) -> None:
        self._ids = ids
        self._keys = keys

    def run(self, run_id: str) -> str:
        """The ID of a run."""
        return self._resolved("run", run_id)

    def experiment(self, experiment_id: str) -> str:
        """The ID of an experiment."""
        return self._resolved("experiment", experiment_id)

    def version(self, model: str, version: str) -> str:
        """The number of a model version."""
        if self._ids is None or not version.startswith(_LOCAL_VERSION):
            return version
        return self._ids.resolve("version", f"{model}/{version}") or version

    def lasting(self, run_id: str) -> str:
        """What names a run for as long as this process lives: the local ID, if it ever had one."""
        if self._ids is None or looks_local(run_id):
            return run_id
        return self._ids.local_of("run", run_id) or run_id

    def in_query(self, query: Node, kind: Kind) -> Node:
        """A parsed query with the server's IDs in place of local ones, in the fields that hold IDs.

        What was logged as a param or tag stays what it was, so that it is found by that. The tag of a run's
        parent alone is rewritten on delivery: it is asked for by both names, for a child may still wait.
        """
        if self._ids is None:
            return query
        parent = f"tags.{self._keys.parent}"
        fields: dict[Kind, dict[str, _Names]] = {
            "runs": {"id": _only(self.run), "exp.id": _only(self.experiment), parent: self._both},
            "experiments": {"id": _only(self.experiment)},
            "models": {},
            "versions": {
                "run.id": _only(self.run),
                "run.exp.id": _only(self.experiment),
                f"run.{parent}": self._both,
                "version": lambda version: (self._version_of_any(version, query),),
            },
        }
        return _renamed(query, fields[kind])

    def _both(self, run_id: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((run_id, self.run(run_id))))

    def _version_of_any(self, version: str, query: Node) -> str:
        """The number of a version of one of the models that a query names."""
        if not version.startswith(_LOCAL_VERSION):
            return version
        resolved = (self.version(model, version) for model in _texts_at("model.name", query))
        return next((number for number in resolved if number != version), version)

    def _resolved(self, kind: str, given: str) -> str:
        if self._ids is None or not looks_local(given):
            return given
        return self._ids.resolve(kind, given) or given


def _only(name: Callable[[str], str]) -> _Names:
    return lambda given: (name(given),)


def _renamed(node: Node, fields: Mapping[str, _Names]) -> Node:
    """A query that asks for other texts in some fields."""
    if isinstance(node, Not):
        return Not(_renamed(node.child, fields))
    if not isinstance(node, Condition):
        return replace(node, children=tuple(_renamed(child, fields) for child in node.children))
    names = fields.get(node.path)
    several = {"$eq": "$in", "$ne": "$nin"}.get(node.operator, node.operator)
    if names is None or several not in ("$in", "$nin"):
        return node
    given = node.operand if several == node.operator else [node.operand]
    asked = [name for one in given for name in (names(one) if isinstance(one, str) else (one,))]
    return node if asked == given else Condition(node.path, several, asked)


def _texts_at(path: str, node: Node) -> Iterator[str]:
    """The texts with which a query compares a field."""
    if isinstance(node, Not):
        yield from _texts_at(path, node.child)
    elif not isinstance(node, Condition):
        for child in node.children:
            yield from _texts_at(path, child)
    elif node.path == path:
        operands = node.operand if isinstance(node.operand, list) else [node.operand]
        yield from (one for one in operands if isinstance(one, str))
