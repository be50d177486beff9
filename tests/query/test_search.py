"""Carrying out plans: pages, limits, repeats, long values, and what an explanation says."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.query.world import LONG_TEXTS, World
from withrun.backend import FilterGrammar, Page
from withrun.errors import InvalidArgument, OfflineError, ServerError
from withrun.providers.mlflow.pushdown import MlflowPushDown
from withrun.query.paging import PageSizes
from withrun.query.plan import Plan, Search, make_plan
from withrun.query.pushing import NoPushDown
from withrun.query.search import Results
from withrun.query.sources import ListSource

GRAMMAR = FilterGrammar("mlflow 3.17.2")


def plan(query: Any, sorting: Any = None, kind: Any = "runs", grammar: FilterGrammar = GRAMMAR) -> Plan:
    return make_plan(query, sorting, kind, MlflowPushDown(grammar), grammar=grammar.name)


def filters(query: Any, **options: Any) -> list[str]:
    return sorted(search.filter for search in plan(query, **options).searches)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [""]),
        ({"metrics.loss": {"$lt": 0.1}}, ["metrics.`loss` < 0.1"]),
        ({"metrics.loss": {"$gt": 2**53 + 1}}, ["metrics.`loss` >= 9007199254740992.0"]),
        ({"metrics.val/acc": {"$gte": 1e20}}, ["metrics.`val/acc` >= 1e20"]),
        ({"metrics.loss": {"$ne": 1}}, [""]),
        ({"metrics.loss": {"$gt": float("inf")}}, [""]),
        ({"status": {"$ne": "FAILED"}}, ["attributes.status != 'FAILED'"]),
        ({"id": {"$in": ["a1", "b2"]}}, ["attributes.run_id IN ('a1', 'b2')"]),
        ({"tags.mlflow.parentRunId": "x"}, ["tags.`mlflow.parentRunId` = 'x'", "tags.`mlflow` LIKE '%'"]),
        ({"params.lr": {"$lt": 0.1}}, ["params.`lr` LIKE '%'"]),
        ({"params.lr": {"$ne": 0.1}}, [""]),
        ({"params.lr": None}, [""]),
        ({"params.lr": {"$exists": False}}, ["params.`lr` IS NULL"]),
        ({"params.lr": {"$exists": True}}, [""]),
        ({"params.a`b": "x"}, [""]),
        ({"params.a": {"$in": []}}, []),
        ({"id": {"$in": []}, "params.a": 3}, []),
        ({"id": {"$in": []}, "params.a": "adam", "name": {"$ne": "x"}}, []),
        ({"$or": [{"metrics.a": 1}, {"metrics.b": 2}]}, ["metrics.`a` = 1.0", "metrics.`b` = 2.0"]),
        ({"$or": [{"metrics.a": 1}, {"metrics.b": {"$ne": 2}}]}, [""]),
        ({"$nor": [{"metrics.a": 1}]}, [""]),
        ({"metrics.a": {"$not": {"$gt": 1}}}, [""]),
    ],
)
def test_what_is_asked(query: Any, expected: list[str]) -> None:
    """Each kind of condition goes to the store in the words that let every match through, or not at all."""
    assert filters(query) == sorted(expected)


def test_a_text_param_is_asked_for_in_all_its_forms() -> None:
    """A text is asked for as it is, and beside it whatever may mean the same: quoted, in a list, too long."""
    asked = filters({"params.opt": "adam"})
    assert "params.`opt` = 'adam'" in asked
    assert "params.`opt` LIKE '%\"%'" in asked
    assert filters({"params.opt": "it's"})[-1] == "params.`opt` LIKE 'it%s'"
    assert "params.`opt` = '1'" not in filters({"params.opt": "1"})


def test_a_whole_number_takes_two_searches() -> None:
    """Its usual text is asked for, and once for all others by their length, or each by itself."""
    usual, others = sorted(plan({"params.n": 77}).searches, key=lambda search: len(search.narrower))
    assert usual.filter == "params.`n` = '77'"
    assert others.filter == "params.`n` LIKE '____%'"
    assert "params.`n` LIKE '77.0%'" in [search.filter for search in others.narrower]


def test_conditions_on_several_params_do_not_multiply() -> None:
    """All usual texts are asked for at once, and beside that what is rare of each."""
    asked = filters({"params.a": "x", "params.b": "y", "params.c": {"$in": ["u", "v"]}, "metrics.m": 1})
    assert asked == sorted(
        [
            *(
                f"metrics.`m` = 1.0 AND params.`a` = 'x' AND params.`b` = 'y' AND params.`c` = '{c}'"
                for c in "uv"
            ),
            *(f"metrics.`m` = 1.0 AND params.`{key}` LIKE '%\"%'" for key in "abc"),
        ]
    )


def test_experiments_are_chosen_by_id() -> None:
    """`exp.id` becomes the experiments to search in, in each branch of an $or."""
    (search,) = plan({"exp.id": {"$in": ["2", "1"]}, "metrics.a": 1}).searches
    assert search == Search("metrics.`a` = 1.0", ("1", "2"))
    both = plan({"$or": [{"exp.id": "1", "metrics.a": 1}, {"exp.id": "2"}]}).searches
    assert set(both) == {Search("metrics.`a` = 1.0", ("1",)), Search("", ("2",))}


def test_a_plan_never_grows_past_its_bound() -> None:
    """Conditions that would multiply searches are narrowed by fewer words instead."""
    query = {f"params.k{n}": {"$in": [f"v{m}" for m in range(10)]} for n in range(4)}
    assert 1 <= len(plan(query).searches) <= 20
    assert filters({"metrics.a": {"$in": list(range(30))}}) == [""]
    assert all(len(text.split(" AND ")) <= 20 for text in filters({f"metrics.k{n}": 1 for n in range(99)}))


@pytest.mark.parametrize(
    ("query", "sorting", "expected"),
    [
        (None, [("start_time", -1)], ("attributes.start_time DESC",)),
        ({"metrics.a": {"$gt": 0}}, [("metrics.a", 1)], ("metrics.`a` ASC",)),
        (None, [("metrics.a", -1)], None),
        (None, [("end_time", -1)], ("attributes.end_time DESC",)),
        (None, [("end_time", 1)], None),
        (None, [("name", 1)], None),
        (None, [("start_time", 1), ("params.a", 1)], None),
    ],
)
def test_which_sortings_the_store_does(query: Any, sorting: Any, expected: tuple[str, ...] | None) -> None:
    """Only an order that is exactly MongoDB's is left to the store."""
    made = plan(query, sorting)
    assert made.sorted_by_store is (expected is not None)
    assert made.searches[0].order_by == (expected or ())


def test_an_explanation_says_what_goes_where_and_why() -> None:
    """Printed, a plan names each search, and for each condition where it is evaluated and the reason."""
    text = str(
        plan({"metrics.a": {"$lt": 1}, "params.b": {"$lt": 1}, "tags.c": {"$ne": 1}}, [("params.b", 1)])
    )
    assert "metrics.`a` < 1.0" in text
    assert "params.b $lt 1" in text
    assert "values are stored as text" in text
    assert "tags.c $ne 1" in text
    assert "what lacks the key" in text
    assert "sorted by params.b up" in text


def test_old_servers_are_not_asked_for_what_they_do_not_know() -> None:
    """Without null checks no filter holds one."""
    old = FilterGrammar("mlflow 2.9", null_checks=False)
    for query in ({"params.a": {"$exists": False}}, {"name": "x"}):
        assert not any("NULL" in text for text in filters(query, grammar=old))


# --- running ---


class Pages:
    """A source of numbered documents in pages, which counts what it is asked."""

    def __init__(self, count: int, *, drift: int = 0, stuck: bool = False) -> None:
        self.items = [{"id": str(n), "name": f"n{n % 7}"} for n in range(count)]
        self.drift, self.stuck = drift, stuck
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def split(self, plan: Plan) -> Sequence[tuple[Search, tuple[str, ...]]]:
        return [(search, ()) for search in plan.searches]

    def page(self, search: Search, experiments: tuple[str, ...], size: int, token: str) -> Page[Any]:
        self.asked.append(size)
        self.threads.add(threading.get_ident())
        start = max(0, int(token or 0) - self.drift)  # as if runs had been created since the last page
        end = int(token or 0) + size
        more = "7" if self.stuck else str(end) if end < len(self.items) else ""
        return Page(tuple(self.items[start:end]), more)

    def identity(self, record: Any) -> Any:
        return record["id"]

    def natural(self, record: Any) -> Any:
        return int(record["id"])

    def entities(self, records: Sequence[Any]) -> Sequence[Any]:
        return records

    def complete(self, entity: Any, only: Any = None) -> Any:
        return entity


def test_results_stream() -> None:
    """The first match comes after two pages at most, whatever there is."""
    source = Pages(100_000)
    found = iter(Results(plan({"name": "n0"}), lambda: source))
    assert next(found)["id"] == "0"
    assert sum(source.asked[:2]) <= 1500
    assert threading.get_ident() not in source.threads


def test_a_limit_sizes_the_pages() -> None:
    """Ten results take a page of ten where the store answers exactly, and few pages where it does not."""
    source = Pages(100_000)
    assert len(list(Results(plan({"status": {"$ne": "KILLED"}}), lambda: source).limit(10))) == 10
    assert source.asked == [10]
    source = Pages(100_000)
    assert len(list(Results(plan({"name": {"$ne": "n1"}}), lambda: source, limit=10))) == 10
    assert sum(source.asked) < 1000


def test_pages_grow_with_what_the_store_gives() -> None:
    """Pages grow to the largest where the store is quick, and shrink where answers would take too long."""
    quick, slow = PageSizes(None, exact=True), PageSizes(None, exact=False)
    asked = []
    for _ in range(5):
        asked.append(quick.take())
        quick.came(asked[-1], 0.01)
    assert asked == [200, 1000, 5000, 10_000, 10_000]
    for records, seconds, expected in ((200, 0.5, 1000), (1000, 20.0, 500), (500, 600.0, 50), (0, 1.0, 50)):
        slow.came(records, seconds)
        assert slow.take() == expected


def test_a_large_limit_is_fetched_in_pages() -> None:
    """Where the store answers exactly, the pages add up to the limit, and none is fetched in vain."""
    source = Pages(100_000)
    assert len(list(Results(plan({"status": {"$ne": "KILLED"}}), lambda: source, limit=4500))) == 4500
    assert source.asked == [1000, 3500]
    source = Pages(100_000, drift=5)  # what comes twice is made up for
    found = list(Results(plan({"status": {"$ne": "KILLED"}}), lambda: source, limit=4500))
    assert [item["id"] for item in found] == [str(n) for n in range(4500)]


def test_first_is_one_or_none() -> None:
    """`first()` gives the first match or None, and can be asked again."""
    results = Results(plan({"name": {"$ne": "n0"}}), lambda: Pages(50))
    assert results.first() == results.first() == {"id": "1", "name": "n1"}
    assert Results(plan({"name": "none"}), lambda: Pages(50)).first() is None
    assert Results(plan(None), lambda: Pages(50)).limit(0).first() is None


def test_what_moves_to_a_later_page_comes_once() -> None:
    """Runs created while pages are read push others to later pages; none comes twice."""
    ids = [item["id"] for item in Results(plan(None), lambda: Pages(3000, drift=5))]
    assert ids == [str(n) for n in range(3000)]


def test_branches_are_merged_in_one_order_without_repeats() -> None:
    """A document found by two searches comes once, where the store's own order puts it."""
    query = {"$or": [{"metrics.a": 1}, {"metrics.b": 1}, {"name": {"$in": ["n1", "n2"]}}]}
    made = plan(query)
    assert len(made.searches) > 2
    ids = [int(item["id"]) for item in Results(made, lambda: Pages(500))]
    assert ids == [n for n in range(500) if n % 7 in (1, 2)]


def test_a_store_that_repeats_itself_is_an_error() -> None:
    """A page token that leads to itself ends the search with an error, not never."""
    with pytest.raises(ServerError, match="twice"):
        list(Results(plan(None), lambda: Pages(10, stuck=True)))


EARLY = """
import threading, time
from tests.query.test_search import Pages, plan
from withrun.query.search import Results

class Slow(Pages):
    def page(self, search, experiments, size, token):
        if token:
            time.sleep(60)
        return super().page(search, experiments, size, token)

for item in Results(plan(None), lambda: Slow(3000)):
    break
assert any(thread.name.startswith("withrun-search") for thread in threading.enumerate())
"""


def test_a_loop_that_is_left_early_does_not_hold_up_the_exit() -> None:
    """The page that is being fetched ahead is not waited for when the program ends."""
    subprocess.run([sys.executable, "-c", EARLY], check=True, timeout=30)


def test_an_error_of_a_page_is_raised_where_it_is_read() -> None:
    """What fails in a thread that fetches ahead is raised to the reader, after what came before it."""

    class Failing(Pages):
        def page(self, search: Search, experiments: tuple[str, ...], size: int, token: str) -> Page[Any]:
            if token:
                raise ServerError("no more")
            return super().page(search, experiments, size, token)

    found = iter(Results(plan(None), lambda: Failing(1000)))
    assert len([next(found) for _ in range(200)]) == 200
    with pytest.raises(ServerError, match="no more"):
        next(found)


def test_results_iterate_again_and_go_on() -> None:
    """Iterating twice searches twice; after `next`, a loop goes on from there."""
    results = Results(plan(None), lambda: Pages(5))
    assert len(list(results)) == len(list(results)) == 5
    assert next(results)["id"] == "0"
    assert [item["id"] for item in results] == ["1", "2", "3", "4"]
    with pytest.raises(TypeError):
        len(results)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [-1, 1.5, True, "3"])
def test_a_wrong_limit_is_refused(count: Any) -> None:
    """A limit is a whole number from 0."""
    with pytest.raises(InvalidArgument, match="limit"):
        Results(plan(None), lambda: Pages(5)).limit(count)


def test_a_frame_has_a_row_a_match_and_a_column_a_field() -> None:
    """`to_frame` names columns by dotted paths and leaves out nothing."""
    items = [{"id": "1", "params": {"a": {"b": 1}}}, {"id": "2", "params": {"c": [1]}}]
    source: ListSource[Any] = ListSource(lambda: items, lambda item: item["id"])
    frame = Results(make_plan(None, None, "runs", NoPushDown()), lambda: source).to_frame()
    assert list(frame["id"]) == ["1", "2"]
    assert list(frame.columns) == ["id", "params.a.b", "params.c"]


def test_entities_at_hand_are_searched_alike() -> None:
    """Offline, everything is evaluated here; a filter string needs the server and says so."""
    items = [{"id": str(n), "metrics": {"loss": n}} for n in range(10)]
    source: ListSource[Any] = ListSource(lambda: items, lambda item: item["id"])
    query = {"metrics.loss": {"$gte": 5}, "exp.id": None}
    made = make_plan(query, [("metrics.loss", -1)], "runs", NoPushDown())
    assert [item["id"] for item in Results(made, lambda: source, limit=3)] == ["9", "8", "7"]
    with pytest.raises(OfflineError, match="filter string"):
        list(Results(make_plan("metrics.loss < 1", None, "runs", NoPushDown()), lambda: source))


# --- on a real store ---


def test_filter_strings_of_mlflow_pass_as_they_are(embedded: World) -> None:
    """MLflow's own grammar is accepted, over all active experiments, and sorted and limited like a query."""
    query = {"metrics.loss": {"$lt": 0.5}}
    expected = embedded.expected("runs", query)
    assert embedded.found("runs", "metrics.loss < 0.5") == expected
    assert embedded.found("runs", "metrics.loss < 0.5", [("name", 1)], 3) == embedded.expected(
        "runs", query, [("name", 1)], 3
    )
    assert embedded.found("experiments", "name = 'first'") == embedded.expected(
        "experiments", {"name": "first"}
    )


def test_a_long_value_is_fetched_only_to_decide(embedded: World) -> None:
    """A preview settles most comparisons; the whole is fetched where it does not, and for what is found."""
    before = embedded.fetched
    embedded.found("runs", {"params.opt": "xx", "params.lr": {"$lt": 5}})
    embedded.found("runs", {"params.none": LONG_TEXTS[0]})
    embedded.found(
        "runs", {"params.opt": {"$eq": LONG_TEXTS[0][:-1]}, "status": "RUNNING", "name": "no such"}
    )
    assert embedded.fetched == before
    assert embedded.found("runs", {"params.opt": LONG_TEXTS[0]})
    assert embedded.fetched > before


def test_unknown_experiments_find_nothing(embedded: World) -> None:
    """IDs that no experiment has, also such that a store would refuse, and deleted ones, find nothing."""
    for wanted in ("999999", "no-such", "", "9" * 30, "-1", "1 OR 1=1", "٣"):
        assert embedded.found("runs", {"exp.id": wanted}) == []
    assert embedded.found("runs", {"exp.name": "deleted"}) == []
