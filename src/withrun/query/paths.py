"""What a dotted path reaches in a document, by MongoDB's rules for arrays.

On the way, an array stands for each of its sub-documents, and a number picks an element of it. At the end,
an array offers its elements and itself, unless it was picked by number. A field that is not there offers
`MISSING`, so that it can equal None.

One rule is withrun's own: a key may hold a dot itself, where nesting was impossible (`{"a": 1, "a.b": 2}`:
params are rows named `a` and `a.b`), so that the path `a.b` also reaches the key `"a.b"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from withrun.query.order import MISSING
from withrun.query.previews import PreviewText, Undecided, may_hold_documents

__all__ = ["Reached", "Resolver", "resolver"]


class Reached(NamedTuple):
    """One value at the end of a path, and whether its elements are offered too if it is an array."""

    value: Any
    expand: bool = True


Resolver: TypeAlias = Callable[[Any], "list[Reached]"]

_NOT_THERE = [Reached(MISSING)]
_Step: TypeAlias = "tuple[str, tuple[tuple[str, int], ...], int | None]"


def resolver(path: str) -> Resolver:
    """Compile a path to a function from a document to what the path reaches in it."""
    parts = path.split(".")
    steps: list[_Step] = [
        (
            part,
            tuple((".".join(parts[i:j]), j) for j in range(i + 2, len(parts) + 1)),
            int(part) if part.isascii() and part.isdigit() and str(int(part)) == part else None,
        )
        for i, part in enumerate(parts)
    ]
    end = len(steps)

    def straight(document: Any) -> list[Reached]:
        # The common case: documents all the way, one value at the end. Anything else takes the long way.
        value = document
        for part, joined, _ in steps:
            if type(value) is not dict:
                break
            for name, _after in joined:
                if name in value:
                    return around(document)
            value = value.get(part, MISSING)
        else:
            return _NOT_THERE if value is MISSING else [Reached(value)]
        return around(document)

    def around(document: Any) -> list[Reached]:
        found: list[Reached] = []
        walk(document, 0, found, picked=False)
        return found

    def walk(value: Any, at: int, found: list[Reached], *, picked: bool) -> None:
        if at == end:
            found.append(Reached(value, expand=not picked))
            return
        part, joined, index = steps[at]
        if isinstance(value, Mapping):
            literal = [(value[name], after) for name, after in joined if name in value]
            for inner, after in literal:
                walk(inner, after, found, picked=False)
            nested: list[Reached] = []
            if part in value:
                walk(value[part], at + 1, nested, picked=False)
            elif not literal:
                nested = _NOT_THERE
            # Where a literal key is there, it does not count that nothing is nested under the first part.
            found.extend(one for one in nested if not (literal and one.value is MISSING))
        elif isinstance(value, (list, tuple)):
            if index is not None and index < len(value):
                walk(value[index], at + 1, found, picked=True)
            for item in value:
                if isinstance(item, Mapping):
                    walk(item, at, found, picked=False)
        elif type(value) is PreviewText and may_hold_documents(value):
            raise Undecided(value)
        elif not picked:  # below a scalar in an array there is nothing, not even a missing field
            found.append(_NOT_THERE[0])

    return straight
