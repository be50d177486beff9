"""Sorting documents in MongoDB's order, stable, whatever kinds of value a field holds.

What is missing equals None and comes first in ascending order. An array stands for its smallest element in
ascending order and for its largest in descending order; an empty one comes before None.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

from withrun.errors import InvalidArgument
from withrun.query.fields import Kind, check_path
from withrun.query.order import order_key
from withrun.query.paths import resolver
from withrun.query.previews import PreviewText, Undecided, preview_in

__all__ = ["SortKey", "Sorting", "parse_sorting", "sort", "sort_key"]

Sorting: TypeAlias = "tuple[tuple[str, int], ...]"
"""Paths with 1 (ascending) or -1 (descending), the first weighing most."""

SortKey: TypeAlias = "Callable[[Any], tuple[Any, ...]]"

T = TypeVar("T")

_DIRECTIONS: Final[dict[object, int]] = {1: 1, -1: -1, "asc": 1, "desc": -1}
_EMPTY_ARRAY: Final = (0,)
"""Before (NULL,), the key of None."""


def parse_sorting(sorting: Iterable[Any] | Mapping[str, Any] | None, kind: Kind) -> Sorting:
    """Check a sorting, given as pairs (or as a dict, in its order).

    Raises:
        InvalidArgument: no pairs, an unknown field, a direction other than 1 and -1, or a field named twice.
    """
    if sorting is None:
        return ()
    if isinstance(sorting, str):
        raise InvalidArgument(f"sorting {sorting!r} is a text; give pairs, such as [({sorting!r}, -1)].")
    if not isinstance(sorting, Iterable):
        raise InvalidArgument(f"sorting is {sorting!r:.100}; give pairs, such as [('start_time', -1)].")
    pairs = list(sorting.items()) if isinstance(sorting, Mapping) else list(sorting)
    checked: list[tuple[str, int]] = []
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InvalidArgument(
                f"sorting holds {pair!r}; each entry is a pair, such as ('start_time', -1)."
            )
        path, direction = pair
        if isinstance(direction, (bool, list, dict)) or direction not in _DIRECTIONS:
            raise InvalidArgument(
                f"sorting by {path!r}: {direction!r} is no direction; use 1 (ascending) or -1."
            )
        check_path(path, kind)
        if any(path == other for other, _ in checked):
            raise InvalidArgument(f"sorting names {path!r} twice; the second could not have an effect.")
        checked.append((path, _DIRECTIONS[direction]))
    return tuple(checked)


class _Descending:
    """A key whose order is turned round."""

    __slots__ = ("key",)

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key

    def __lt__(self, other: _Descending) -> bool:
        return other.key < self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and other.key == self.key

    __hash__ = None  # type: ignore[assignment]


def sort_key(sorting: Sorting) -> SortKey:
    """A function from a document to a key by which Python sorts as MongoDB does.

    It raises `Undecided` for a document with a long value in one of the fields.
    """
    fields = [(resolver(path), direction) for path, direction in sorting]

    def key(document: Any) -> tuple[Any, ...]:
        parts: list[Any] = []
        for reach, direction in fields:
            keys: list[tuple[Any, ...]] = []
            for value, expand in reach(document):
                if type(value) in (PreviewText, dict) and (preview := preview_in(value)) is not None:
                    raise Undecided(preview)
                if expand and type(value) in (list, tuple):
                    keys.extend(map(order_key, value))
                    if not value:
                        keys.append(_EMPTY_ARRAY)
                else:
                    keys.append(order_key(value))
            # An array of scalars on the way reaches nothing, not even a missing field.
            keys = keys or [order_key(None)]
            parts.append(min(keys) if direction > 0 else _Descending(max(keys)))
        return tuple(parts)

    return key


def sort(items: Iterable[T], key: Callable[[T], tuple[Any, ...]], limit: int | None = None) -> list[T]:
    """Sort items by a `sort_key`, stable; with a limit only that many are held in memory."""
    # nsmallest is stable: equal to sorted(items, key=key)[:limit], as its documentation says.
    return sorted(items, key=key) if limit is None else heapq.nsmallest(limit, items, key=key)
