"""Sorting: MongoDB's order over values of any kind, stable."""

from __future__ import annotations

import datetime as dt
import functools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.strategies import documents, scalars
from withrun.errors import InvalidArgument
from withrun.query.language import parse
from withrun.query.match import compile_query
from withrun.query.order import MISSING, order_key
from withrun.query.sorting import parse_sorting, sort, sort_key

NEW_YEAR = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)

# Ascending, as MongoDB's manual has it; each inner list holds values that are equal.
IN_ORDER: list[list[Any]] = [
    [None, MISSING],
    [math.nan],
    [-math.inf],
    [-1, -1.0],
    [0, 0.0, -0.0],
    [0.5],
    [float(2**53)],
    [2**53 + 1],
    [1e300],
    [10**400],
    [math.inf],
    [""],
    ["A"],
    ["a"],
    ["ab"],
    ["\ue000"],
    ["\U0001f600"],
    [{}],
    [{"a": None}],
    [{"a": 1}],
    [{"a": 1, "b": 0}, {"b": 0, "a": 1}],
    [{"a": "x"}],
    [[]],
    [[None]],
    [[1]],
    [[1, 2]],
    [[2]],
    [["a"]],
    [b"a"],
    [False],
    [True],
    [NEW_YEAR, NEW_YEAR.astimezone(dt.timezone(dt.timedelta(hours=5)))],
    [NEW_YEAR + dt.timedelta(microseconds=1)],
]


def test_values_of_all_kinds_have_one_order() -> None:
    """Every value comes after all that the manual puts before it, and equals those of its own place."""
    keys = [[order_key(value) for value in equal] for equal in IN_ORDER]
    for at, equal in enumerate(keys):
        for key in equal:
            assert all(key == other for other in equal)
            assert all(key > other for before in keys[:at] for other in before)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_a_value_nested_deeper_than_documents_can_be_has_a_place(wrap: Callable[[Any], Any]) -> None:
    """JSON of 600 levels, as another tool may have logged, is sorted, and equals nothing less deep."""
    deep: Any = 1
    for _ in range(600):
        deep = wrap(deep)
    said = wrap(wrap(1))
    assert sort([{"a": deep}, {"a": said}, {"a": 1}], sort_key((("a", 1),)))[0] == {"a": 1}
    for query in ({"params.a": said}, {"params.a": {"$in": [said, 2]}}, {"params.a": {"$all": [said]}}):
        matches = compile_query(parse(query, "runs"))
        assert matches({"params": {"a": said}})
        assert not matches({"params": {"a": deep}})


@pytest.mark.parametrize("limit", [None, 0, 1, 3, 100])
def test_sorting_is_stable_in_both_directions(limit: int | None) -> None:
    """Items equal in every field keep the order in which they came, with a limit as without."""
    items = [{"a": n % 3, "n": n} for n in range(20)] + [{"n": 20}, {"a": None, "n": 21}]
    up = sort(items, sort_key((("a", 1),)), limit)
    down = sort(items, sort_key((("a", -1),)), limit)
    by = {k: [i["n"] for i in items if i.get("a") == k] for k in (None, 0, 1, 2)}
    assert [i["n"] for i in up] == (by[None] + by[0] + by[1] + by[2])[:limit]
    assert [i["n"] for i in down] == (by[2] + by[1] + by[0] + by[None])[:limit]


def test_arrays_sort_by_their_smallest_or_largest_element() -> None:
    """Ascending, an array stands for its smallest element; descending, for its largest; empty is first."""
    items = [{"a": [1, 9]}, {"a": 5}, {"a": []}, {}, {"a": {"b": 1}}]
    assert sort(items, sort_key((("a", 1),))) == [items[2], items[3], items[0], items[1], items[4]]
    assert sort(items, sort_key((("a", -1),))) == [items[4], items[0], items[1], items[3], items[2]]


@settings(max_examples=300, deadline=None)
@given(st.lists(documents, max_size=8), st.lists(st.sampled_from([1, -1]), min_size=2, max_size=2))
def test_sorting_by_two_fields_is_comparing_field_by_field(
    found: list[dict[str, Any]], directions: list[int]
) -> None:
    """The second field decides only where the first is equal, whatever the documents hold."""
    first, second = (((path, d),) for path, d in zip(("a", "b.0"), directions, strict=True))

    def compare(x: Any, y: Any) -> int:
        for one in (first, second):
            left, right = sort_key(one)(x), sort_key(one)(y)
            if left != right:
                return -1 if left < right else 1
        return 0

    by_both = sort(found, sort_key((*first, *second)))
    assert list(map(id, by_both)) == list(map(id, sorted(found, key=functools.cmp_to_key(compare))))


@settings(max_examples=300, deadline=None)
@given(st.lists(scalars, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(values: list[Any], rng: random.Random) -> None:
    """Shuffled values sort to equal keys: the order is total, also with NaN and mixed kinds."""
    shuffled = values[:]
    rng.shuffle(shuffled)
    assert sorted(map(order_key, values)) == sorted(map(order_key, shuffled))


def test_sorting_may_be_given_as_pairs_or_as_a_dict() -> None:
    """Pairs, lists and a dict in its order mean the same; nothing means no sorting."""
    expected = (("start_time", -1), ("metrics.a.b", 1))
    assert parse_sorting([("start_time", -1), ["metrics.a.b", 1]], "runs") == expected
    assert parse_sorting({"start_time": -1, "metrics.a.b": 1}, "runs") == expected
    assert parse_sorting(None, "runs") == parse_sorting([], "runs") == ()


@pytest.mark.parametrize(
    "sorting",
    [
        "start_time",
        ["start_time"],
        [("start_time", 2)],
        [("start_time", True)],
        [("startime", 1)],
        [(1, 1)],
        [("name", 1), ("name", -1)],
        [("name", [1])],
        [("name", None)],
        5,
    ],
)
def test_a_wrong_sorting_is_refused(sorting: Any) -> None:
    """A text, a wrong direction, an unknown field or one named twice is an error."""
    with pytest.raises(InvalidArgument, match=r"sort|name|startime"):
        parse_sorting(sorting, "runs")
