"""The texts under which a store may hold a number, as patterns that let through all of them.

A param that equals 3 may be stored as `3`, `3.0`, `3e0`, `0.3E+1`, or `2.99999999999999999` (whose nearest
double is 3). As all conditions of a search must hold, each way to write a number takes a search of its own.
Together they find nothing too little, and much less than all with the key.

Nearly always a number is written in one way alone. All other texts of a whole number are longer, or have an
exponent, as few texts are where a param has whole numbers of about one size. So all these are asked for at
once, and each by itself only where that finds much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

__all__ = ["EXPONENT", "NumberTexts", "longer_than", "number_texts", "with_any_exponent"]

_SHORT: Final = 8
"""Significant digits of a number whose other texts go on with zeros, or with nines from one less."""

_NINES: Final = "LIKE '%9999%'"
"""Finds every text of a short number that goes on with nines, wherever its point is."""

EXPONENT: Final = "ILIKE '%e%'"
"""Finds every text with an exponent."""

_PRECISION: Final = 14
"""Significant digits in which all plain texts of one double agree, but for those zeros and nines."""

_SMALL: Final = Decimal("0.01")
"""Where numbers are below, others beside them are written with an exponent, so that it tells little."""

_LEAST, _MOST = 1e-30, 1e30
"""Beyond, nobody writes a number without an exponent, and the pattern for it would be long."""


@dataclass(frozen=True)
class NumberTexts:
    """Comparisons, to be put behind a column, that together find every text that stands for a number.

    Attributes:
        usual: finds the text that programs write.
        plain: find other texts without an exponent, or with one where that is nothing rare.
        scientific: find those with one, where it is rare.
        length: characters that every other text has at least, but for those with an exponent; 0 if that tells
            little, as of fractions, which have many lengths.
        scientific_length: characters that those have at least.
    """

    usual: str
    plain: tuple[str, ...] = ()
    scientific: tuple[str, ...] = ()
    length: int = 0
    scientific_length: int = 0

    def __iter__(self) -> Iterator[str]:
        yield from (self.usual, *self.plain, *self.scientific)


def number_texts(number: float) -> NumberTexts | None:
    """The texts of a number; None if it is not asked for by text: NaN, infinities, and extreme sizes."""
    double = _nearest_double(number)
    if double is None or (number and not _LEAST < abs(number) < _MOST):
        return None
    if not number:
        # `0`, `0.00`, `-0.0`; `0e5`; and what is too small for a double, such as `1e-400`.
        return NumberTexts(
            "= '0'", ("LIKE '0.0%'", "LIKE '-0%'"), ("ILIKE '0%e%'", "ILIKE '%e-___%'"), len("-0"), len("0e0")
        )
    if double != number:
        # An integer between two doubles: what has a point or an exponent is rounded, and so not equal.
        return NumberTexts(f"= '{number}'")
    sign = "-" if number < 0 else ""
    size = abs(Decimal(repr(double)))
    text = f"{size:f}".removesuffix(".0")
    digits = text.replace(".", "").strip("0")
    scientific = _scientific(sign, digits, size.adjusted())
    if len(digits) > _SHORT:
        # As `repr` gives the shortest text of this double, every other one begins with all its digits but
        # the last.
        return NumberTexts(f"LIKE '{sign}{_beginning(text, len(digits) - 1)}%'", (), scientific)
    if len(text) > _PRECISION and "." not in text:
        # The last digits before the point may differ.
        return NumberTexts(f"LIKE '{sign}{text[:_PRECISION]}%'", (_NINES,), scientific)
    usual = f"= '{sign}{text}'"
    if size < _SMALL:
        return NumberTexts(usual, (f"LIKE '{sign}{text}0%'", _NINES, *scientific))
    if "." in text:
        return NumberTexts(usual, (f"LIKE '{sign}{text}0%'", _NINES), scientific)
    other = f"{sign}{text}.0"
    shortest = f"{sign}{digits}e{size.adjusted() - len(digits) + 1}"
    return NumberTexts(usual, (f"LIKE '{other}%'", _NINES), scientific, len(other), len(shortest))


def longer_than(length: int) -> str:
    """Finds every text of so many characters at least."""
    return f"LIKE '{'_' * length}%'"


def with_any_exponent(clauses: Iterable[str]) -> list[str]:
    """The clauses of several numbers, with one pattern in place of all that ask for an exponent."""
    shared = [EXPONENT if text.startswith("ILIKE ") and "%e" in text else text for text in clauses]
    return list(dict.fromkeys(shared))


def _scientific(sign: str, digits: str, exponent: int) -> tuple[str, ...]:
    """Patterns for the texts with an exponent: `1.25e-1`, as programs write it, `0.125e0`, and `12.5e-2`."""
    written = f"-%{-exponent}" if exponent < 0 else f"%{exponent}"
    return (
        f"ILIKE '{sign}{digits[0]}%e{written}'",
        f"ILIKE '{sign}0.%{'%'.join(digits[:3])}%e%'",
        f"ILIKE '{sign}{(digits + '0')[:2]}%e%'",
    )


def _nearest_double(number: float) -> float | None:
    try:
        double = float(number)
    except OverflowError:
        return None
    return double if math.isfinite(double) else None


def _beginning(text: str, count: int) -> str:
    """The text of a number up to so many significant digits."""
    for at, character in enumerate(text):
        if count == 0:
            return text[:at]
        count -= character.isdigit() and bool(text[: at + 1].strip("0."))
    return text
