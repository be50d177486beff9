"""Typed values and nested keys survive the way through a store that keeps flat keys and text."""

from __future__ import annotations

import datetime as dt
import enum
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from withrun import keys, previews, values
from withrun.errors import InvalidArgument

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
).filter(lambda v: "$date" not in repr(v))


def same(a: object, b: object) -> bool:
    """Equal, of the same types, with NaN equal to itself."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and a != b))


@given(JSON)
def test_every_json_value_round_trips(value: object) -> None:
    """What encode writes, decode reads back with its type, and it can be sent as UTF-8."""
    text = values.encode(value)
    text.encode()
    assert "\x00" not in text
    assert same(values.decode(text), value)


@given(st.text(st.characters(), max_size=60) | st.text('0123456789-+.eE"[]{}tfnNIayul ', max_size=12))
def test_every_string_round_trips(text: str) -> None:
    """No string reads back as something else, whatever it looks like."""
    assert values.decode(values.encode(text)) == text


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("adam", "adam"),
        ("1", '"1"'),
        ("true", '"true"'),
        ("NaN", '"NaN"'),
        ('"quoted"', '"\\"quoted\\""'),
        (" 1", " 1"),  # with spaces or line breaks around it, what looks like a number is a text
        ("true\n", "true\n"),
        (' ["a"]\n', '" [\\"a\\"]\\n"'),
        ("", ""),
        (1, "1"),
        (True, "true"),
        (None, "null"),
        (0.1, "0.1"),
        (float("inf"), "Infinity"),
        ([1, "a"], '[1, "a"]'),
        ({}, "{}"),
        (np.float32(0.5), "0.5"),
        (np.int64(3), "3"),
        (np.array([1, 2]), "[1, 2]"),
        ((1, 2), "[1, 2]"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (enum.Enum("E", {"A": "x"}).A, "x"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc), '{"$date": "2026-01-02T03:04:05Z"}'),
    ],
)
def test_stored_form(value: object, stored: str) -> None:
    """Stored texts are what a reader of MLflow's own UI expects."""
    assert values.encode(value) == stored


def test_times_of_numpy_and_pandas_are_datetimes() -> None:
    """Times in numpy's nanoseconds, and naive ones of pandas, come back as datetimes, NaT as None."""
    pandas = pytest.importorskip("pandas")
    moment = dt.datetime(2026, 1, 31, 12, 30, 0, 5)
    for value in (np.datetime64(moment, "ns"), np.datetime64(moment, "us"), pandas.Timestamp(moment)):
        assert values.decode(values.encode(value)) == moment.astimezone()
    assert values.decode(values.encode(np.array([moment], "M8[ns]"))) == [moment.astimezone()]
    for nothing in (pandas.NaT, np.datetime64("NaT", "ns")):
        assert values.decode(values.encode(nothing)) is None


def test_datetimes_come_back_aware() -> None:
    """A naive datetime means local time, and both kinds come back as the same moment with a timezone."""
    naive = dt.datetime(2026, 7, 1, 12, 0, 0, 123456)
    aware = dt.datetime(2026, 7, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)))
    assert values.decode(values.encode(naive)) == naive.astimezone()
    assert values.decode(values.encode(aware)) == aware
    assert values.decode(values.encode([aware])) == [aware]
    assert values.decode('{"$date": {"$numberLong": "1000"}}') == dt.datetime(
        1970, 1, 1, 0, 0, 1, tzinfo=dt.timezone.utc
    )
    assert values.decode('{"$date": "nonsense"}') == {"$date": "nonsense"}


def test_texts_of_other_tools_read_well() -> None:
    """What a plain MLflow client wrote reads as the value it shows."""
    stored = {
        "lr": "0.1",
        "opt": "adam",
        "layers": "[1, 2]",
        "flag": "True",
        "none": "None",
        "mlflow.user": "1",
    }
    assert values.from_texts(stored.items()) == {
        "lr": 0.1, "opt": "adam", "layers": [1, 2], "flag": "True", "none": "None", "mlflow": {"user": "1"},
    }  # fmt: skip


def test_hostile_texts_are_strings() -> None:
    """Texts that a JSON parser chokes on are strings, not errors."""
    for text in ("[" * 100_000, "1" * 10_000, '{"a":', "nul", "-", "Infinit"):
        assert values.decode(text) == text
        assert values.decode(values.encode(text)) == text


def test_objects_without_a_json_form_are_refused() -> None:
    """A value that could not be read back is an error that names it."""
    loop: list[object] = []
    loop.append(loop)
    for value in (object(), loop, {1: 2}, [{1: 2}], lambda: 0, int):
        with pytest.raises(InvalidArgument, match="thing"):
            values.encode(value, "thing")


NESTED = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda v: isinstance(v, dict))


@given(NESTED)
def test_nesting_round_trips(nested: dict) -> None:  # type: ignore[type-arg]
    """Flattening and nesting again gives the same dict."""
    assert keys.unflatten(keys.flatten(nested).items()) == nested


@given(
    st.dictionaries(
        st.text("ab.", min_size=1, max_size=6).filter(
            lambda k: k not in (".", "..") and not k.startswith("..")
        ),
        st.integers(),
        max_size=6,
    )
)
def test_clashes_lose_nothing(flat: dict[str, int]) -> None:
    """Whatever keys clash, every one is there after nesting, and in any order of arrival."""
    nested = keys.unflatten(flat.items())
    assert keys.flatten(nested) == flat
    assert keys.unflatten(reversed(flat.items())) == nested


@given(
    st.lists(
        st.tuples(st.text("ab.", min_size=1, max_size=6).filter(lambda k: set(k) != {"."}), st.integers())
    ),
    st.text("ab.", min_size=1, max_size=6),
)
def test_putting_one_by_one_is_nesting_at_once(items: list[tuple[str, int]], gone: str) -> None:
    """A key set or removed later gives what nesting all keys at once gives."""
    nested: dict[str, object] = {}
    for key, value in items:
        nested = keys.put(nested, key, value)
    assert nested == keys.unflatten(dict(items).items())
    assert keys.drop(nested, gone) == keys.unflatten((k, v) for k, v in dict(items).items() if k != gone)


def test_a_clash_stays_flat() -> None:
    """Of `a` and `a.b` the nested one stays flat, at the level of the clash."""
    assert keys.unflatten([("a.b", 2), ("a", 1)]) == {"a": 1, "a.b": 2}
    assert keys.unflatten([("x.a", 1), ("x.a.b", 2)]) == {"x": {"a": 1, "a.b": 2}}


@pytest.mark.parametrize(
    "key", ["a", "val/loss", "val.loss", "a b", "a-b_c", "a:b", "ключ", "x" * 250, "a..b", "...x"[3:]]
)
def test_legal_keys(key: str) -> None:
    """Every key that MLflow allows is allowed."""
    assert keys.check_key(key) == key


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("loss[d=1]", r"'\['"),
        ("a\n", r"'\\n'"),
        ("", "empty"),
        ("x" * 251, "251"),
        ("/a", "path"),
        ("a//b", "path"),
        ("a/", "path"),
        ("../a", "path"),
        (".", "path"),
        ("a/../b", "path"),
        (5, "int"),
        (None, "NoneType"),
    ],
)
def test_illegal_keys_are_named(key: object, says: str) -> None:
    """An illegal key is an error that names what is wrong with it."""
    with pytest.raises(InvalidArgument, match=says):
        keys.check_key(key)
    with pytest.raises(InvalidArgument, match=says):
        keys.flatten({key: 1})  # type: ignore[dict-item]


def test_keys_given_twice_are_refused() -> None:
    """A key that is given nested and dotted at once is an error, not a lost value."""
    with pytest.raises(InvalidArgument, match=r"a\.b.*twice"):
        keys.flatten({"a": {"b": 1}, "a.b": 2})


@pytest.mark.parametrize("value", [1, 1.5, np.float64(2), np.int32(2), np.array([2.0]), math.nan, math.inf])
def test_numbers_are_metrics(value: object) -> None:
    """Every real number is a metric, also numpy's."""
    assert isinstance(values.metric_value("m", value), float)


@pytest.mark.parametrize("value", [True, "1", None, [1], np.bool_(True), np.array([1, 2]), 1j, 10**400, {}])
def test_other_values_are_no_metrics(value: object) -> None:
    """What is no number is refused, with the metric's name."""
    with pytest.raises(InvalidArgument, match="'m'"):
        values.metric_value("m", value)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).map(lambda s: s * 300))
def test_previews_say_what_they_stand_for(text: str) -> None:
    """A preview is short, tells how the text starts, length and digest, and can't be forged by a value."""
    stored, preview = previews.make_preview(text)
    assert len(stored) < 500
    assert previews.parse_preview(stored) == preview
    assert text.startswith(preview.start)
    assert preview.length == len(text)
    assert not previews.is_preview(values.encode(stored))
    assert values.decode(values.encode(stored)) == stored
