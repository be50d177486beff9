"""Parsing: what is refused, and how the error helps."""

from __future__ import annotations

import re
from typing import Any

import pytest

from withrun.errors import InvalidArgument
from withrun.query.fields import Kind
from withrun.query.language import And, Condition, Not, parse
from withrun.schema import Experiment, Model, Run, RunStatus

EXPERIMENT = Experiment(id="7", name="e")


@pytest.mark.parametrize(
    ("kind", "query", "words"),
    [
        ("runs", {"metric.loss": 1}, ["'metric'", "'metrics'", "Valid:"]),
        ("runs", {"metrics.loss": {"$lt3": 1}}, ["'$lt3'", "'$lt'", "metrics.loss"]),
        ("runs", {"metrics.loss": {"$greater": 1}}, ["no operator '$greater'"]),
        ("runs", {"$xor": [{}]}, ["'$xor'", "'$or'"]),
        ("runs", {"$gt": 1}, ["applies to a field"]),
        ("runs", {"exp.nam": "x"}, ["'exp.nam'", "'exp.name'"]),
        ("runs", {"id.x": "x"}, ["'id.x'", "plain value"]),
        ("runs", {"": 1}, ["no field ''"]),
        ("runs", {5: 1}, ["5", "no string"]),
        ("runs", [("a", 1)], ["list", "give a dict"]),
        ("models", {"version": "1"}, ["'version'", "name"]),
        ("versions", {"model.id": "1"}, ["'model.id'", "model.name"]),
        ("versions", {"run.exp.nme": "1"}, ["'run.exp.nme'", "'run.exp.name'"]),
        ("experiments", {"params.x": "1"}, ["'params'"]),
        ("runs", {"$or": []}, ["$or", "at least one"]),
        ("runs", {"$and": {"name": 1}}, ["$and", "list"]),
        ("runs", {"$or": [{"name": {"$bad": 1}}]}, ["'$bad'"]),
        ("runs", {"params.a": {"$in": 3}}, ["$in", "list"]),
        ("runs", {"params.a": {"$in": [{"$gt": 3}]}}, ["$in", "values"]),
        ("runs", {"params.a": {"$not": 3}}, ["$not", "$ne"]),
        ("runs", {"params.a": {"$not": {}}}, ["$not"]),
        ("runs", {"params.a": {"$gt": 1, "b": 2}}, ["mixes"]),
        ("runs", {"params.a": {"b": 2, "$gt": 1}}, ["mixes"]),
        ("runs", {"params.a": {"$regex": "["}}, ["regular expression"]),
        ("runs", {"params.a": {"$regex": re.compile(b"x")}}, ["$regex", "text"]),
        ("runs", {"params.a": {"$regex": 5}}, ["$regex", "text"]),
        ("runs", {"params.a": {"$regex": "a", "$options": "q"}}, ["$options", "letters"]),
        ("runs", {"params.a": {"$options": "i"}}, ["$options", "$regex"]),
        ("runs", {"params.a": {"$ne": re.compile("a")}}, ["pattern", "$not"]),
        ("runs", {"params.a": {"$gt": re.compile("a")}}, ["pattern"]),
        ("runs", {"params.a": {"$size": -1}}, ["$size", "whole number"]),
        ("runs", {"params.a": {"$size": True}}, ["$size"]),
        ("runs", {"params.a": {"$size": float("nan")}}, ["$size"]),
        ("runs", {"params.a": {"$exists": "yes"}}, ["$exists", "True or False"]),
        ("runs", {"params.a": {"$elemMatch": 1}}, ["$elemMatch", "query"]),
        ("runs", {"params.a": {"$elemMatch": {"$bad": 1}}}, ["'$bad'"]),
        ("runs", {"params.a": object()}, ["no field can hold"]),
        ("runs", {"params.a": {1: 2}}, ["no strings"]),
        ("runs", {"params.a": {"$in": "abc"}}, ["$in", "list"]),
        ("runs", {"params.a": {"$in": iter([1])}}, ["$in", "list"]),
        ("runs", {"params.a": {"$type": "string"}}, ["$type is not supported", "Supported: $all"]),
        ("runs", {"params.a": {"$mod": [2, 0]}}, ["$mod is not supported", "$elemMatch"]),
        ("runs", {"$expr": {}}, ["$expr is not supported", "$and, $nor, $or"]),
        ("runs", {"metrics.loss": {"lt": 1}}, ["'$lt'", "dollar sign", "'metrics.loss.lt'"]),
        ("versions", {"run.start_time": {"gt": 1, "lt": 2}}, ["'$gt'", "'$lt'", "dollar sign"]),
        ("runs", {"name": {"regex": "a"}}, ["'$regex'", "dollar sign"]),
        ("runs", {"params.": 1}, ["'params.'", "names no key", "'params'"]),
        ("runs", {"exp.tags.": 1}, ["names no key"]),
        ("runs", {"status": "Finished"}, ["'Finished'", "did you mean 'FINISHED'"]),
        ("runs", {"status": {"$nin": ["FAILED", "done"]}}, ["'done'", "Valid: FAILED"]),
        ("versions", {"run.status": {"$ne": "killed"}}, ["did you mean 'KILLED'"]),
    ],
)
def test_a_mistake_is_an_error_that_names_it(kind: Kind, query: Any, words: list[str]) -> None:
    """Unknown fields and operators, and operands of the wrong kind, are refused with the way out."""
    with pytest.raises(InvalidArgument) as caught:
        parse(query, kind)
    for word in words:
        assert word in str(caught.value)


def test_a_query_nested_within_itself_is_refused() -> None:
    """A cycle is an error, not an endless recursion."""
    cycle: dict[str, Any] = {}
    cycle["$and"] = [cycle]
    value: list[Any] = []
    value.append(value)
    for query in (cycle, {"params.a": value}):
        with pytest.raises(InvalidArgument, match="nested"):
            parse(query, "runs")


@pytest.mark.parametrize(
    ("query", "kind", "expected"),
    [
        ({"exp": EXPERIMENT}, "runs", Condition("exp.id", "$eq", "7")),
        ({"exp": {"$ne": EXPERIMENT}}, "runs", Condition("exp.id", "$ne", "7")),
        ({"exp": {"$in": [EXPERIMENT]}}, "runs", Condition("exp.id", "$in", ["7"])),
        ({"run": Run(id="r", name="n", exp=EXPERIMENT)}, "versions", Condition("run.id", "$eq", "r")),
        ({"model": Model(name="m")}, "versions", Condition("model.name", "$eq", "m")),
        ({"status": RunStatus.FAILED}, "runs", Condition("status", "$eq", "FAILED")),
        ({"exp": {"id": "7"}}, "runs", Condition("exp", "$eq", {"id": "7"})),
        ({}, "runs", And(())),
        (None, "runs", And(())),
    ],
)
def test_entities_and_enums_stand_for_what_identifies_them(query: Any, kind: Kind, expected: object) -> None:
    """An entity is compared by its identifier, a status by its name."""
    assert parse(query, kind) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"metrics.batch": {"size": 3}},
        {"params.range": {"lt": 1, "gt": 0}},
        {"tags.status": "Finished"},
        {"status": {"$gt": "F"}},
        {"params.a": {"$elemMatch": {"status": "done"}}},
        {"params..a.": 1},
    ],
)
def test_what_only_looks_like_a_mistake_is_taken(query: Any) -> None:
    """Documents with keys like operators, and tags named like fields, are what they are where they can be."""
    parse(query, "runs")


def test_numpy_scalars_are_taken_for_their_values() -> None:
    """A number that numpy made is compared as the plain number."""
    numpy = pytest.importorskip("numpy")
    query = {"metrics.a": {"$in": [numpy.float64(0.5), numpy.int64(3)]}, "params.b": numpy.bool_(True)}
    found = parse(query, "runs")
    assert isinstance(found, And)
    in_list, flag = found.children
    assert isinstance(in_list, Condition)
    assert isinstance(flag, Condition)
    assert [type(item) for item in in_list.operand] == [float, int]
    assert flag.operand is True


def test_operators_on_one_field_are_a_conjunction() -> None:
    """Several operators on a field all have to hold, and $not covers its own alone."""
    found = parse({"params.a": {"$gt": 1, "$not": {"$gt": 5, "$ne": 7}}}, "runs")
    assert found == And(
        (
            Condition("params.a", "$gt", 1),
            Not(And((Condition("params.a", "$gt", 5), Condition("params.a", "$ne", 7)))),
        )
    )
