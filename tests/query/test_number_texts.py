"""The patterns for a number: they let through every text that stands for it, and few others."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from withrun.providers.mlflow.filter_words import Words
from withrun.providers.mlflow.number_texts import number_texts
from withrun.providers.mlflow.value_texts import texts_for
from withrun.query.language import Condition

EXACT = Context(prec=800)

short = st.builds(
    lambda digits, exponent: float(f"{digits}e{exponent}"),
    st.integers(-(10**9), 10**9),
    st.integers(-15, 25),
)
numbers = st.one_of(
    short,
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**25), 10**25),
    st.integers(-1000, 1000),
    st.sampled_from([2**53, 2**53 + 1, float(2**53), 1e15, 1e16, 1e22, 1e23, 1e29, 1.0000000000000002, -0.0]),
)


@pytest.fixture(scope="module")
def like() -> Iterator[sqlite3.Connection]:
    """A database to ask for LIKE; case is heeded, as by most databases for MLflow's LIKE."""
    with sqlite3.connect(":memory:") as connection:
        connection.execute("PRAGMA case_sensitive_like = ON")
        yield connection
    connection.close()


def finds(like: sqlite3.Connection, comparison: str, text: str) -> bool:
    """Whether a comparison of MLflow's grammar lets a text through, in the SQL that MLflow makes of it."""
    operator, _, quoted = comparison.partition(" ")
    sql = {"=": "? = ?", "LIKE": "? LIKE ?", "ILIKE": "lower(?) LIKE lower(?)"}[operator]
    return bool(like.execute(f"SELECT {sql}", (text, quoted[1:-1])).fetchone()[0])


def written(value: Decimal, shift: int) -> Iterator[str]:
    """A decimal in several ways: with and without a point or an exponent, and with further zeros."""
    plain = f"{value:f}"
    yield plain
    yield plain + ("000" if "." in plain else ".00")
    mantissa = f"{EXACT.scaleb(value, shift):f}"
    yield f"{mantissa}e{-shift}"
    yield f"{mantissa}E{-shift:+03d}"
    yield f"{mantissa}{'0' if '.' in mantissa else '.0'}e{-shift:+d}"
    yield f"{EXACT.normalize(value):e}"


def texts_about(number: float, shift: int) -> Iterator[str]:
    """Texts of decimals at and around a number, some of which stand for it."""
    yield repr(number)
    exact = Decimal(number)
    step = Decimal(math.ulp(number)) if math.isfinite(float(number)) else Decimal(1)
    for value in (Decimal(repr(number)), exact):
        for part in ("0", "0.49", "-0.49", "1e-9", "-1e-9", "0.24", "-0.24", "1"):
            near = EXACT.add(value, EXACT.multiply(step, Decimal(part)))
            yield from written(near, shift)


@settings(deadline=None, max_examples=120)
@given(number=numbers, shift=st.integers(-25, 25))
def test_no_text_of_a_number_is_missed(like: sqlite3.Connection, number: float, shift: int) -> None:
    """Whatever JSON reads as the number is let through by one of the patterns at least."""
    patterns = number_texts(number)
    if patterns is None:
        assert not 1e-30 < abs(number) < 1e30
        return
    for text in texts_about(number, shift):
        if json.loads(text) == number:
            assert any(finds(like, pattern, text) for pattern in patterns), (text, patterns)


@settings(deadline=None, max_examples=120)
@given(number=numbers, others=st.lists(numbers, max_size=2), shift=st.integers(-25, 25))
def test_nets_miss_no_text_of_a_number(
    like: sqlite3.Connection, number: float, others: list[float], shift: int
) -> None:
    """Each text, in a list too, is usual or in a net, and there in one of the narrower ones."""
    texts = texts_for(Condition("params.n", "$in", [number, *others]), Words(like_spans_lines=True))
    if texts is None:
        assert any(number_texts(one) is None for one in (number, *others))
        return
    for text in texts_about(number, shift):
        if json.loads(text) != number:
            continue
        for stored in (text, f"[{text}]", f'["a",{text}]'):
            assert any(finds(like, usual, stored) for usual in texts.usual) or any(
                finds(like, net.comparison, stored)
                and (not net.narrower or any(finds(like, narrower, stored) for narrower in net.narrower))
                for net in texts.rare
            ), (stored, texts)


@pytest.mark.parametrize(
    "text", ["0", "-0", "0.0", "-0.00", "0e5", "0.0E-3", "-0e1", "1e-400", "-3e-999", "0.0e7"]
)
def test_all_zeros_are_found(like: sqlite3.Connection, text: str) -> None:
    """Zero is found with either sign, with an exponent, and as what is too small for a double."""
    assert json.loads(text) == 0
    assert any(finds(like, pattern, text) for pattern in number_texts(0) or ())


@given(number=st.integers(1, 10**6), others=st.lists(st.integers(1, 10**6), max_size=20))
def test_other_short_numbers_are_not_fetched(
    like: sqlite3.Connection, number: int, others: list[int]
) -> None:
    """Of whole numbers and fractions as programs write them, only those of the same value are let through."""
    patterns = number_texts(number) or []
    for other in (value for whole in others for value in (whole, whole / 100, whole * 1e-9)):
        found = any(finds(like, pattern, json.dumps(other)) for pattern in patterns)
        nines = "9999" in json.dumps(other)
        assert not found or nines or Fraction(other) == number or "e" in json.dumps(other), other


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e300, 10**400, 5e-324])
def test_extreme_numbers_are_not_asked_for(number: float) -> None:
    """Numbers without a plain text have no patterns, so that a search looks at all that has the key."""
    assert number_texts(number) is None
