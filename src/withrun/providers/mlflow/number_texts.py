"""The texts under which a store may hold a number, as patterns that let through all of them.

A param that equals 3 may be stored as `3`, `3.0`, `3e0`, `0.3E+1`, or `2.99999999999999999` (whose nearest
double is 3). So each way to write a number is asked for by itself: as all conditions of a search must hold,
each takes a search of its own. Together they find nothing too little, and much less than all with the key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

__all__ = ["number_texts", "with_any_exponent"]

_SHORT: Final = 8
"""Significant digits of a number whose other texts go on with zeros, or with nines from one less."""

_NINES: Final = "LIKE '%9999%'"
"""Finds every text of a short number that goes on with nines, wherever its point is."""

_EXPONENT: Final = "ILIKE '%e%'"

_PRECISION: Final = 14
"""Significant digits in which all plain texts of one double agree, but for those zeros and nines."""

_LEAST, _MOST = 1e-30, 1e30
"""Beyond, nobody writes a number without an exponent, and the pattern for it would be long."""


def number_texts(number: float) -> list[str] | None:
    """Comparisons, to be put behind a column, that find every text that stands for the number.

    None for those that are not asked for by text: NaN, infinities, and numbers of extreme size.
    """
    double = _nearest_double(number)
    if double is None or (number and not _LEAST < abs(number) < _MOST):
        return None
    if not number:
        # `0`, `0.00`, `-0.0`; `0e5`; and what is too small for a double, such as `1e-400`.
        return ["= '0'", "LIKE '0.0%'", "LIKE '-0%'", "ILIKE '0%e%'", "ILIKE '%e-___%'"]
    if double != number:
        # An integer between two doubles: what has a point or an exponent is rounded, and so not equal.
        return [f"= '{number}'"]
    sign = "-" if number < 0 else ""
    size = abs(Decimal(repr(double)))
    text = f"{size:f}".removesuffix(".0")
    digits = text.replace(".", "").strip("0")
    if len(digits) > _SHORT:
        # As `repr` gives the shortest text of this double, every other one begins with all its digits but
        # the last.
        plain = [f"LIKE '{sign}{_beginning(text, len(digits) - 1)}%'"]
    elif len(text) > _PRECISION and "." not in text:
        plain = [f"LIKE '{sign}{text[:_PRECISION]}%'", _NINES]  # the last digits before the point may differ
    else:
        plain = [f"= '{sign}{text}'", f"LIKE '{sign}{text}{'0' if '.' in text else '.0'}%'", _NINES]
    return [*plain, *_scientific(sign, digits, size.adjusted())]


def with_any_exponent(clauses: Iterable[str]) -> list[str]:
    """The clauses of several numbers, with one pattern in place of all that ask for an exponent."""
    shared = [_EXPONENT if text.startswith("ILIKE ") and "%e" in text else text for text in clauses]
    return list(dict.fromkeys(shared))


def _scientific(sign: str, digits: str, exponent: int) -> list[str]:
    """Patterns for the texts with an exponent: `1.25e-1`, as programs write it, `0.125e0`, and `12.5e-2`."""
    written = f"-%{-exponent}" if exponent < 0 else f"%{exponent}"
    return [
        f"ILIKE '{sign}{digits[0]}%e{written}'",
        f"ILIKE '{sign}0.%{'%'.join(digits[:3])}%e%'",
        f"ILIKE '{sign}{(digits + '0')[:2]}%e%'",
    ]


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
