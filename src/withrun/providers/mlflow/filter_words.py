"""Texts and patterns in the words of MLflow's filter grammar, which has no way to escape anything."""

from __future__ import annotations

import re
from typing import Final

from withrun.query.regex import LINE_START, NOT_TURKISH

__all__ = ["Words", "literal_beginning"]

_MAX_LITERAL: Final = 250
"""Characters; a longer text may be stored as a preview, so it is asked for by its beginning."""

_RISKY: Final = "'\\[]\"^"
"""Quotes end a literal, a backslash escapes on some databases, brackets are a class on others."""

_FOLDED_BEYOND_ASCII: Final = "iIkKsS"
"""Letters that a case-insensitive pattern also finds as `ı` (one of Python's), `K` (Kelvin) and `ſ`."""

_ENDS: Final = re.compile("[\n\0]")
"""Where a pattern has to stop.

File stores, also those behind a server, find a line break at the end of a pattern alone; and SQLite's LIKE
sees no further in a text than U+0000. So a pattern that is not anchored does not find there what another
program stored behind one: not to ask for such patterns would make every search by them read everything.
"""

_PARTS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
"""The parts of a pattern: what is escaped, classes, and single characters."""

_LITERALS: Final = re.compile(r"(?:\\\W|[^\\.^$*+?{}\[\]|()])*")


class Words:
    """Says texts and patterns so that a store finds at least what is meant, on every database.

    Args:
        like_spans_lines: `%` in a pattern matches line breaks.
    """

    def __init__(self, *, like_spans_lines: bool) -> None:
        self._spans_lines = like_spans_lines

    def equal_to(self, text: str) -> str:
        """A comparison that lets through every column that is the text."""
        if len(text) <= _MAX_LITERAL and text.isprintable() and "'" not in text and "\\" not in text:
            return f"= '{text}'"
        pattern = self._pattern(text[:_MAX_LITERAL]) + ("%" if len(text) > _MAX_LITERAL else "")
        return f"LIKE '{pattern}'"

    def like(self, pattern: re.Pattern[str]) -> str | None:
        """LIKE or ILIKE for all that a regular expression may find; None if it has no literal beginning."""
        found = literal_beginning(pattern)
        if found is None:
            return None
        text, anchored = found
        folded = bool(pattern.flags & re.IGNORECASE)
        like = self._pattern(text[:_MAX_LITERAL], folded=folded) + "%"
        if not anchored:
            like = "%" + like if self._spans_lines else "%"
        return f"{'ILIKE' if folded else 'LIKE'} '{re.sub('%+', '%', like)}'"

    def _pattern(self, text: str, *, folded: bool = False) -> str:
        """A LIKE pattern for the text; what can't be said safely, or folds differently, becomes `%`."""
        text, *cut = _ENDS.split(text, maxsplit=1)
        risky = _RISKY + (_FOLDED_BEYOND_ASCII if folded else "")
        safe = "".join(
            "%" if c in risky or not c.isprintable() or (folded and not c.isascii()) else c for c in text
        )
        safe += "%" if cut else ""
        if not self._spans_lines:
            head, wild, _ = safe.partition("%")
            safe = head + wild
        return re.sub("%+", "%", safe)


def literal_beginning(pattern: re.Pattern[str]) -> tuple[str, bool] | None:
    """The text with which whatever the pattern finds begins, and whether it is anchored at the start.

    None if there is none, or if it can't be told by reading the pattern from the left.
    """
    source = pattern.pattern.replace(NOT_TURKISH, "")
    if pattern.flags & re.VERBOSE or "(?#" in source or _has_branches(source):
        return None
    anchored = source.startswith("^") and not pattern.flags & re.MULTILINE
    body = source.removeprefix(LINE_START).removeprefix("^")
    found = _LITERALS.match(body)
    end = found.end() if found else 0
    characters = [token[-1] for token in re.findall(r"\\.|.", body[:end], re.DOTALL)]
    if body[end : end + 1] in ("*", "+", "?", "{"):
        del characters[-1:]  # may be there several times, or not at all
    return ("".join(characters), anchored) if characters else None


def _has_branches(source: str) -> bool:
    """Whether there are branches outside of groups, so that what begins one is not what begins all."""
    depth = 0
    for part in _PARTS.findall(source):
        depth += {"(": 1, ")": -1}.get(part, 0)
        if part == "|" and depth <= 0:
            return True
    return False
