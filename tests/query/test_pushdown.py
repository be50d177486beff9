"""Pushing down: whatever the store is asked, the answer is that of evaluating every document."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.query.strategies import operators
from tests.query.world import LONG_TEXTS, METRICS, NUMBERS, PARAMS, START, STATUSES, TAGS, TEXTS, World
from withrun.providers.mlflow.grammar import grammar_of
from withrun.providers.mlflow.pushdown import MlflowPushDown
from withrun.query.fields import Kind
from withrun.query.plan import make_plan
from withrun.values import decode

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
moments = st.sampled_from(
    [EPOCH + dt.timedelta(milliseconds=START + s * 1000 + ms, microseconds=us)
     for s in range(9) for ms in (0, 1) for us in (0, 500)]
)  # fmt: skip
plain = st.sampled_from(
    [
        "adam",
        "sgd",
        "1",
        "true",
        "it's",
        "a\\",
        "a%b",
        "a_b",
        "é",
        "",
        " ",
        "null",
        "ID",
        "adam\n",
        *TEXTS,
        *LONG_TEXTS,
    ]
)
odd = st.sampled_from(
    [None, True, False, 0, 1, 0.1, 2**53 + 1, math.nan, [], {}, [1, [2]], {"name": "adam"}, ["adam", "sgd"]]
)
patterns = st.sampled_from(
    [
        r"^adam",
        r"^a",
        r"ADAM",
        r"k",
        r"^s",
        r"^it's",
        r"^a\\",
        r"a.b",
        r"^a%",
        r"^[ab]",
        r"^ad?",
        r"x|^a",
        r"^é",
        r"^ı",
        r"^i",
        r"adam$",
        r"^",
        r"^ada{1}m",
        r"name",
        r"^日",
        r"\Aadam",
        r"^a\_b",
        r"^a\.?",
        r"^xxxx",
        r"y+",
        r"(?i)^ID",
        r"^a\sb",
    ]
)
numbers = st.sampled_from(
    [*NUMBERS, 0, 1, -1, 2**53, 2**53 + 1, 10**400, -(10**400), 1.7976931348623157e308, 0.1, True, None, "0"]
)


def condition(path: str, operand: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A query document with one path."""
    pattern = st.one_of(
        patterns.map(lambda p: {"$regex": p}),
        patterns.map(lambda p: {"$regex": p, "$options": "i"}),
        patterns.map(lambda p: {"$regex": p, "$options": "m"}),
        patterns.map(re.compile),
        st.lists(st.one_of(operand, patterns.map(re.compile)), max_size=3).map(lambda items: {"$in": items}),
    )
    simple = operand.filter(lambda value: not isinstance(value, dict))
    return st.one_of(simple, operators(operand), pattern).map(lambda value: {path: value})


def combined(leaf: st.SearchStrategy[dict[str, Any]], depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Conditions combined, with more of what can be pushed down than of negations."""
    if not depth:
        return leaf
    inner = st.lists(combined(leaf, depth - 1), min_size=1, max_size=3)
    named = st.sampled_from(["$and", "$or", "$or", "$nor"])
    return st.one_of(leaf, st.tuples(named, inner).map(lambda pair: {pair[0]: pair[1]}))


RUN_CONDITIONS = st.one_of(
    st.sampled_from(
        [f"params.{key}" for key in PARAMS] + ["params.opt.0", "params.none", "params.opt.a"]
    ).flatmap(lambda path: condition(path, st.one_of(plain, plain, odd))),
    st.sampled_from([f"tags.{key}" for key in TAGS] + ["tags.mlflow.runName", "tags.mlflow"]).flatmap(
        lambda path: condition(path, st.one_of(plain, plain, odd))
    ),
    st.sampled_from([f"metrics.{key}" for key in METRICS]).flatmap(lambda path: condition(path, numbers)),
    st.sampled_from(["start_time", "end_time"]).flatmap(
        lambda path: condition(path, st.one_of(moments, odd))
    ),
    condition("status", st.sampled_from([*STATUSES, None, 1])),
    condition("name", st.sampled_from(["base", "Base-1", "it's", "a\\b", "é", 'q"q', "base_2", None, 1])),
    st.sampled_from(["exp.id", "exp.name", "exp.tags.kind", "exp.tags.team"]).flatmap(
        lambda path: condition(
            path, st.sampled_from(["1", "2", "9", "first", 'it\'s "2"', "a", "x", "no", None])
        )
    ),
)
SORTINGS = st.one_of(
    st.none(),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["start_time", "end_time", "metrics.loss", "metrics.val", "params.opt", "name", "status"]
            ),
            st.sampled_from([1, -1]),
        ),
        max_size=3,
        unique_by=lambda pair: pair[0],
    ),
)
LIMITS = st.one_of(st.none(), st.integers(0, 5))
SHARED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def check(world: World, kind: Kind, query: Any, sorting: Any = None, limit: int | None = None) -> None:
    """Compare a planned search with the evaluation of every document, order included."""
    plan = world.search(kind, query, sorting, limit)
    assert world.found(kind, query, sorting, limit) == world.expected(kind, query, sorting, limit), (
        plan.explain()
    )


@settings(SHARED, max_examples=120)
@given(query=combined(RUN_CONDITIONS), sorting=SORTINGS, limit=LIMITS)
def test_runs_of_an_embedded_store(embedded: World, query: Any, sorting: Any, limit: int | None) -> None:
    """Generated queries, sortings and limits on runs are answered as if nothing had been pushed down."""
    check(embedded, "runs", query, sorting, limit)


@settings(SHARED, max_examples=40)
@given(query=combined(RUN_CONDITIONS), sorting=SORTINGS, limit=LIMITS)
def test_runs_through_a_server(served: World, query: Any, sorting: Any, limit: int | None) -> None:
    """The same through a server."""
    check(served, "runs", query, sorting, limit)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(SHARED, max_examples=3000)
@given(query=combined(RUN_CONDITIONS), sorting=SORTINGS, limit=LIMITS)
def test_thousands_of_queries_on_runs(embedded: World, query: Any, sorting: Any, limit: int | None) -> None:
    """The same for thousands of queries."""
    check(embedded, "runs", query, sorting, limit)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(SHARED, max_examples=1000)
@given(query=combined(RUN_CONDITIONS), sorting=SORTINGS, limit=LIMITS)
def test_a_thousand_queries_through_a_server(
    served: World, query: Any, sorting: Any, limit: int | None
) -> None:
    """The same for a thousand queries through a server."""
    check(served, "runs", query, sorting, limit)


OTHER_CONDITIONS: dict[Kind, Any] = {
    "experiments": st.one_of(
        condition("name", st.sampled_from(["first", "First/3", 'it\'s "2"', None])),
        st.sampled_from(["tags.kind", "tags.team", "tags.opt.name"]).flatmap(
            lambda path: condition(path, plain)
        ),
        condition("id", st.sampled_from(["0", "1", "9", None])),
    ),
    "models": st.one_of(
        condition("name", st.sampled_from(["model", "Model 2", "it's", "base_x", None])),
        st.sampled_from(["tags.team", "tags.opt.name", "tags.none"]).flatmap(
            lambda path: condition(path, plain)
        ),
    ),
    "versions": st.one_of(
        condition("model.name", st.sampled_from(["model", "Model 2", "it's", "base_x", None])),
        condition("version", st.sampled_from(["1", "2", "01", "x", "99999999999", 1, None])),
        condition("run.name", st.sampled_from(["base", "é"])),
        condition("tags.team", plain),
    ),
}


@pytest.mark.parametrize("letter", ["a", "日", "😀"])
def test_what_is_asked_of_the_registry_fits_into_a_url(letter: str) -> None:
    """Filters are cut by what they take on the wire, where a letter beyond ASCII is nine bytes and more."""
    query = {"name": letter * 200, **{f"tags.key-{n}": letter * 250 for n in range(30)}}
    for kind in ("models", "runs"):
        for search in make_plan(query, None, kind, MlflowPushDown(grammar_of("2.22.5"))).searches:
            assert search.filter
            assert kind == "runs" or len(quote(search.filter, safe="")) <= 3_500


@pytest.mark.parametrize("kind", list(OTHER_CONDITIONS))
@settings(SHARED, max_examples=40)
@given(data=st.data())
def test_other_entities(embedded: World, kind: Kind, data: st.DataObject) -> None:
    """Generated queries on experiments, models and versions are answered as if nothing was pushed down."""
    check(embedded, kind, data.draw(combined(OTHER_CONDITIONS[kind])), None, data.draw(LIMITS))


@pytest.mark.parametrize("kind", list(OTHER_CONDITIONS))
@settings(SHARED, max_examples=20)
@given(data=st.data())
def test_other_entities_through_a_server(served: World, kind: Kind, data: st.DataObject) -> None:
    """The same through a server."""
    check(served, kind, data.draw(combined(OTHER_CONDITIONS[kind])), None, data.draw(LIMITS))


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_can_be_asked_for(embedded: World, text: str) -> None:
    """A param is found by what each stored text means, by its own text, and by their first letters."""
    for value in (decode(text), text) if decode(text) != text else (text,):
        if isinstance(value, dict) and value:
            continue
        check(embedded, "runs", {"params.opt": value})
        check(embedded, "runs", {"params.opt.name": value})
        if isinstance(value, str):
            beginning = "^" + re.escape(value[:3])
            check(embedded, "runs", {"params.opt": {"$regex": beginning, "$options": "i"}})
