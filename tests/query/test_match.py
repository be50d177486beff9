"""Matching, against MongoDB's documented answers and against a matcher checked on real MongoDB servers."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.strategies import PATHS, documents, queries, values
from withrun.query.language import _Parser, parse
from withrun.query.match import compile_query
from withrun.schema import RunStatus

NAN = float("nan")
NEW_YEAR = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)


def matches(query: dict[str, Any], document: dict[str, Any]) -> bool:
    """Match a document of no particular kind: every field is allowed."""
    return compile_query(_Parser(None).document(query, "query", 0))(document)


@pytest.mark.parametrize(
    ("document", "query", "expected"),
    [
        # a bool is no number
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": {"$gt": 0}}, False),
        ({"a": True}, {"a": {"$gt": False}}, True),
        # numbers compare by value, exactly
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 2**53 + 1}, {"a": float(2**53)}, False),
        ({"a": 2**53 + 1}, {"a": {"$gt": float(2**53)}}, True),
        ({"a": 10**400}, {"a": {"$lt": float("inf")}}, True),
        # NaN equals NaN and is in no order with numbers
        ({"a": NAN}, {"a": NAN}, True),
        ({"a": NAN}, {"a": {"$lte": NAN}}, True),
        ({"a": NAN}, {"a": {"$lt": 1}}, False),
        ({"a": 1}, {"a": {"$gt": NAN}}, False),
        ({"a": NAN}, {"a": {"$ne": 1}}, True),
        ({"a": [NAN]}, {"a": {"$in": [NAN]}}, True),
        # what is missing equals None
        ({}, {"a": None}, True),
        ({}, {"a": {"$gte": None}}, True),
        ({}, {"a": {"$gt": None}}, False),
        ({}, {"a": {"$ne": None}}, False),
        ({}, {"a": {"$in": [None, 1]}}, True),
        ({}, {"a": {"$nin": [1]}}, True),
        ({"a": None}, {"a": {"$exists": True}}, True),
        ({"a": 5}, {"a.b": None}, True),
        ({"a": [5]}, {"a.b": None}, False),
        ({"a": [{"b": 1}, {"c": 2}]}, {"a.b": None}, True),
        # kinds do not mix in comparisons
        ({"a": "2024-01-01"}, {"a": NEW_YEAR}, False),
        ({"a": "2024-06-01"}, {"a": {"$gt": NEW_YEAR}}, False),
        ({"a": "5"}, {"a": {"$gt": 1}}, False),
        ({"a": NEW_YEAR}, {"a": {"$gte": NEW_YEAR}}, True),
        # arrays: any element, or the whole
        ({"a": [1, 20]}, {"a": {"$gt": 5, "$lt": 15}}, True),
        ({"a": [1, 20]}, {"a": {"$elemMatch": {"$gt": 5, "$lt": 15}}}, False),
        ({"a": [1, 2]}, {"a": [1, 2]}, True),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": [[1, 2]]}, {"a": [1, 2]}, True),
        ({"a": [1, 2]}, {"a": {"$in": [[1, 2]]}}, True),
        ({"a": [1, 2]}, {"a": {"$ne": 1}}, False),
        ({"a": [1, 2]}, {"a": {"$all": [1, 2]}}, True),
        ({"a": 1}, {"a": {"$all": [1]}}, True),
        ({"a": 1}, {"a": {"$all": []}}, False),
        ({"a": ["xa", "yb"]}, {"a": {"$all": [re.compile("^x"), "yb"]}}, True),
        ({"a": []}, {"a": {"$size": 0}}, True),
        ({"a": [[1]]}, {"a": {"$size": 1}}, True),
        ({"a": {"length": 1}}, {"a": {"$size": 1}}, False),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a.b": 2}, True),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a.1.b": 2}, True),
        ({"a": [{"b": 1, "c": 2}, {"b": 2, "c": 1}]}, {"a": {"$elemMatch": {"b": 1, "c": 1}}}, False),
        # documents compare whole, whatever the order of their keys
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, False),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, True),
        ({"a": {"x": True}}, {"a": {"x": 1}}, False),
        # patterns
        ({"a": "abc"}, {"a": re.compile("^a")}, True),
        ({"a": "abc"}, {"a": {"$not": re.compile("^x")}}, True),
        ({}, {"a": {"$not": re.compile("^x")}}, True),
        ({"a": "ABC"}, {"a": {"$regex": "^a", "$options": "i"}}, True),
        ({"a": 5}, {"a": {"$regex": "5"}}, False),
        ({"a": ["x", "y"]}, {"a": {"$in": [re.compile("^y")]}}, True),
        # logic
        ({"a": 1}, {"$nor": [{"a": 1}, {"b": 1}]}, False),
        ({"a": 1}, {"$and": [{"a": 1}, {"$or": [{"b": 1}, {"a": {"$lt": 2}}]}]}, True),
        ({"a": [1, 5]}, {"a": {"$not": {"$gt": 3}}}, False),
        ({"a": [1]}, {"a.0.b": None}, False),
        ({"a": [None, {}]}, {"a.0.b": None}, True),
        # keys that hold a dot where nesting was impossible
        ({"a": 1, "a.b": 2}, {"a.b": 2}, True),
        ({"a": 1, "a.b": 2}, {"a": 1}, True),
        ({"a": 1, "a.b": 2}, {"a.b": None}, False),
        ({"a": 1, "a.b": 2}, {"a.b": {"$exists": False}}, False),
        ({"a": {"b": 1, "b.c": [3]}}, {"a.b.c": 3}, True),
        ({"a": {"b": 1, "b.c": {"d": 4}}}, {"a.b.c.d": 4}, True),
        ({"a": 1, "a.b": 2}, {"a.c": None}, True),
        ({"val/acc x-1": 3}, {"val/acc x-1": {"$gte": 3}}, True),
    ],
)  # fmt: skip
def test_answers_as_mongodb_documents(
    document: dict[str, Any], query: dict[str, Any], expected: bool
) -> None:
    """Each rule of MongoDB's manual that users rely on, and the rule for keys with dots, holds."""
    assert matches(query, document) is expected


def test_a_naive_datetime_is_local_time() -> None:
    """A naive datetime in a query means the same moment as the local one with its zone."""
    local = dt.datetime(2024, 5, 1, 12)
    document = {"start_time": local.astimezone(dt.timezone.utc), "id": "1"}
    assert compile_query(parse({"start_time": local}, "runs"))(document)
    assert not compile_query(parse({"start_time": {"$gt": local}}, "runs"))(document)


def test_status_may_be_an_enum_or_its_name() -> None:
    """A document whose status is a RunStatus matches by member and by name, and the other way round."""
    for held in (RunStatus.FAILED, "FAILED"):
        for asked in (RunStatus.FAILED, "FAILED", {"$in": [RunStatus.FAILED]}, {"$ne": RunStatus.KILLED}):
            assert compile_query(parse({"status": asked}, "runs"))({"status": held})


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(queries(st.sampled_from(PATHS), values), st.lists(documents, min_size=1, max_size=4))
def test_agrees_with_a_matcher_checked_on_mongodb(query: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Generated queries get the answer of mgqpy, which its authors check against MongoDB 7 and 8."""
    mgqpy = pytest.importorskip("mgqpy", reason="the independent matcher is not installed")
    oracle = mgqpy.Query(query)
    for document in found:
        assert matches(query, document) is oracle.test(document), document


def test_five_thousand_documents_in_well_under_a_second() -> None:
    """An offline search over 5,000 runs with a query of five conditions takes some milliseconds."""
    found = [
        {
            "id": f"{i:032x}",
            "tags": {"team": "xyz"[i % 3]},
            "params": {"lr": i / 5000, "model": {"depth": i % 10, "kind": "cnn"}},
            "metrics": {"loss": i / 5000},
            "start_time": NEW_YEAR + dt.timedelta(minutes=i),
        }
        for i in range(5000)
    ]
    query = {
        "metrics.loss": {"$lt": 0.5},
        "tags.team": {"$in": ["x", "y"]},
        "$or": [{"params.model.depth": {"$gte": 5}}, {"params.model.kind": {"$regex": "^c"}}],
        "start_time": {"$gt": NEW_YEAR},
    }
    start = time.perf_counter()
    count = sum(map(compile_query(parse(query, "runs")), found))
    elapsed = time.perf_counter() - start
    assert count == 1666
    assert elapsed < 0.25
