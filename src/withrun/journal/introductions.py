"""Introductions: which run a number in a journal's records means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

__all__ = ["UNKNOWN", "Introductions", "RunRef"]


class RunRef(msgspec.Struct, frozen=True):
    """A run as a segment introduces it: the ID its process knew, and the uid if that process created it."""

    run_id: str
    uid: str = ""


UNKNOWN = RunRef("")
"""Stands for a run whose introduction can't be read any more."""


class Introductions(dict[int, RunRef]):
    """The runs of a journal by their numbers, which mean the same in all of its segments.

    Each segment introduces a run before its first record of it. Where damage hit that, the ledger has it, or
    another segment; where none has, the run is `UNKNOWN`.

    Args:
        noted: those that the ledger tells; they take no memory here.
        search: finds those in all segments that are left.
    """

    def __init__(
        self, noted: Mapping[int, RunRef], search: Callable[[], Iterable[tuple[int, RunRef]]] = tuple
    ) -> None:
        super().__init__()
        self._noted = noted
        self._search = search
        self._found: dict[int, RunRef] | None = None

    def __setitem__(self, no: int, ref: RunRef) -> None:
        if self._noted.get(no) != ref:
            super().__setitem__(no, ref)

    def __missing__(self, no: int) -> RunRef:
        ref = self._noted.get(no)
        if ref is not None:
            return ref
        if self._found is None:
            self._found = dict(self._search())
        return self._found.get(no, UNKNOWN)
