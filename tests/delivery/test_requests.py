"""How many requests logging takes from the first to the last, counted by a proxy before the server."""

from __future__ import annotations

from typing import Any

from tests.faultproxy import Fault, FaultProxy

from .conftest import MakeApi, runs_tagged


def test_many_values_of_one_run(proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str) -> None:
    """200 params, 50 tags and 20 metrics, one a call: at most 6 requests, healthcheck and end included."""
    api = open_api(proxy.url)
    exp = api.get_exp(exp_id)
    asked = len(proxy.requests)
    with api.start_run(exp, "one") as run:
        for number in range(200):
            run.log_param(f"p{number}", number)
        for number in range(50):
            run.set_tag(f"t{number}", number)
        for number in range(20):
            run.log_metric(f"m{number}", number)
    assert len(proxy.requests) - asked <= 6, proxy.requests
    data = client.get_run(run.id).data
    assert data.params == {f"p{number}": str(number) for number in range(200)}
    assert data.metrics == {f"m{number}": float(number) for number in range(20)}
    assert {f"t{number}" for number in range(50)} <= set(data.tags)


def test_tags_ask_nothing(proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str) -> None:
    """Neither a tag whose length only newer servers take, nor deleting one that nests, waits for a read."""
    api = open_api(proxy.url, healthcheck=False)
    with api.start_run(exp_id) as run:
        run.set_tags({"nest": {"a": 1, "b": 2}, "whole": {}}).flush()
        asked = len(proxy.requests)
        proxy.plan = lambda method, _: Fault(reset=True) if method == "POST" else None  # no delivery as yet
        run.set_tag("long", "x" * 7_000)
        assert run.delete_tag("nest").tags["nest"] == {"a": 1, "b": 2}
        assert run.delete_tag("nest.a").delete_tag("whole").tags["nest"] == {"b": 2}
        assert not [path for method, path in proxy.requests[asked:] if method == "GET"]
        proxy.always(None)
    tags = client.get_run(run.id).data.tags
    assert (tags["long"], tags["nest.b"]) == ("x" * 7_000, "2")
    assert not {"nest.a", "whole"} & set(tags)


def test_many_values_from_the_first_line(proxy: FaultProxy, open_api: MakeApi, exp_id: str) -> None:
    """A whole program for that takes at most 6 requests besides making the API and naming the experiment."""
    api = open_api(proxy.url)
    made = len(proxy.requests)
    assert made <= 2, proxy.requests
    with api.start_run(exp_id) as run:
        run.log_params({f"p{number}": number for number in range(200)})
        run.set_tags({f"t{number}": number for number in range(50)})
        run.log_metrics({f"m{number}": number for number in range(20)})
    looked_up = [path for _, path in proxy.requests[made:] if "experiments/get" in path]
    assert len(proxy.requests) - made - len(looked_up) <= 6, proxy.requests


def test_fifty_children(proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str) -> None:
    """50 children of 5 params, 5 metrics and 2 tags: at most 160 requests, their parent's included."""
    api = open_api(proxy.url)
    exp = api.get_exp(exp_id)
    asked = len(proxy.requests)
    with api.start_run(exp) as parent:
        for number in range(50):
            with parent.start_child(f"fold-{number}", tags={"number": number}) as child:
                for key in range(5):
                    child.log_param(f"p{key}", number)
                    child.log_metric(f"m{key}", number / 2)
                child.set_tag("a", 1)
                child.set_tag("b", 2)
    assert len(proxy.requests) - asked <= 160, len(proxy.requests)
    found = runs_tagged(client, exp_id, "number")
    for number in range(50):
        [run] = found[str(number)]
        assert run.info.status == "FINISHED"
        assert run.data.params == {f"p{key}": str(number) for key in range(5)}
        assert run.data.metrics == {f"m{key}": number / 2 for key in range(5)}
        assert (run.data.tags["a"], run.data.tags["mlflow.parentRunId"]) == ("1", parent.id)


def test_a_loop_with_hours_of_steps_stays_quiet(proxy: FaultProxy, open_api: MakeApi, exp_id: str) -> None:
    """8,000 steps of two metrics take no more requests than there are full batches, and some at its ends."""
    api = open_api(proxy.url)
    with api.start_run(exp_id) as run:
        asked = len(proxy.requests)
        for step in range(8_000):
            run.log_metric("loss", 1 / (step + 1), step)
            run.log_metric("accuracy", step / 8_000, step)
        run.flush()
        assert len(proxy.requests) - asked <= 24, len(proxy.requests)
