"""How many records to ask for at once.

A search starts small, so that its first results come soon, and then grows: each page makes an SQL store find,
sort and skip all matches again, which for many small pages takes longer than the records themselves. It grows
to what the store gives in a few seconds, since an answer that is long in the making runs into timeouts, and
at most to what a client can hold.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PageSizes"]

_FIRST: Final = 200
_LARGEST_FIRST: Final = 1_000
_SMALLEST: Final = 50
_LARGEST: Final = 10_000
"""Some 40 MB of runs of 10 params and 10 metrics."""
_GROWTH: Final = 5
_SECONDS: Final = 10.0
"""In which a page should come: a third of the time that a client waits for an answer by default."""


class PageSizes:
    """Sizes of the pages of one search, as they are asked for one after another.

    Args:
        limit: of results; None for all.
        exact: every record will be a result, so that no more than the limit are needed.
    """

    def __init__(self, limit: int | None, *, exact: bool) -> None:
        self._limit, self._exact = limit, exact
        if limit is None:
            self._size = _FIRST
        else:
            self._size = min(limit if exact else max(4 * limit, _SMALLEST), _LARGEST_FIRST)
        self._left = limit if exact else None

    def another(self) -> PageSizes:
        """The sizes for a search in place of this one, from the start."""
        return PageSizes(self._limit, exact=self._exact)

    def begin_with(self, most: int) -> None:
        """Let the first page have no more than so many."""
        self._size = min(self._size, most)

    @property
    def enough(self) -> bool:
        """Whether all that is wanted was asked for: a further page is needed only if some came twice."""
        return self._left == 0

    def take(self) -> int:
        """The size of the page that is asked for now."""
        if not self._left:
            return self._size
        size = min(self._size, self._left)
        self._left -= size
        return size

    def came(self, records: int, seconds: float) -> None:
        """A page came: so many records in so much time."""
        affordable = int(records * _SECONDS / max(seconds, 1e-6))
        self._size = max(_SMALLEST, min(records * _GROWTH, affordable, _LARGEST))
