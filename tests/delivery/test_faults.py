"""A proxy that misbehaves stands between the API and a real server: nothing is lost, and nothing there twice.

What the server holds is read past both, from its database.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.harness import p99
from tests.faultproxy import Fault, FaultProxy
from withrun import MlflowApi
from withrun.journal import retry

from .conftest import MakeApi, runs_tagged, steps

pytestmark = pytest.mark.slow

FAULTS = {
    "latency": Fault(delay=0.2),
    "500": Fault(status=500),
    "503": Fault(status=503),
    "429": Fault(status=429, headers={"Retry-After": "1"}),
    "reset": Fault(reset=True),
    "cut body": Fault(cut_body=True),
    "lost answer": Fault(lose_answer=True),
}

STEPS = 1_500
CHILDREN = 3


class Calls:
    """Times logging calls."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, verb: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        started = time.perf_counter()
        verb(*args, **kwargs)
        self.seconds.append(time.perf_counter() - started)

    def check(self) -> None:
        """They return at once; a single one may have met a busy machine."""
        assert statistics.median(self.seconds) < 0.001
        assert p99(self.seconds) < 0.05


def work(api: MlflowApi, exp_id: str, folder: Path, calls: Calls) -> None:
    """A parent with children, all verbs, an artifact and a model version each."""
    (folder / "weights.bin").write_bytes(b"weights")
    exp, model = api.get_exp(exp_id), api.get_model(f"m-{exp_id}")
    with api.start_run(exp, tags={"who": "parent"}) as parent:
        for number in range(CHILDREN):
            with parent.start_child(tags={"who": f"child-{number}"}) as child:
                calls(child.log_params, {f"p{i}": i for i in range(120)})
                calls(child.set_tags, {"gone": 1, "kept": 1})
                for step in range(STEPS):
                    calls(child.log_metric, "m", step / 7, step)
                    if step % 100 == 0:
                        calls(child.set_tag, "kept", step)
                calls(child.delete_tag, "gone")
                child.log_artifact(folder / "weights.bin", "files/weights.bin")
                child.log_model_version(model, folder / "weights.bin", "model/weights.bin")
                calls(child.log_metrics, {"last": 1.0, "other": 2.0}, step=5)
        calls(parent.log_param, "done", True)


def check(client: Any, exp_id: str) -> None:
    """All of `work` is there, once."""
    found = runs_tagged(client, exp_id, "who")
    assert {who: len(runs) for who, runs in found.items()} == {
        "parent": 1,
        **{f"child-{number}": 1 for number in range(CHILDREN)},
    }
    [parent] = found["parent"]
    assert (parent.info.status, parent.data.params) == ("FINISHED", {"done": "true"})
    for number in range(CHILDREN):
        [run] = found[f"child-{number}"]
        run_id = run.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.params == {f"p{i}": str(i) for i in range(120)}
        assert steps(client, run_id, "m") == list(range(STEPS))
        assert (run.data.metrics["last"], run.data.metrics["other"]) == (1.0, 2.0)
        assert run.data.tags["kept"] == str(STEPS - 100)
        assert "gone" not in run.data.tags
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert len(client.search_model_versions(f"run_id = '{run_id}'")) == 1


QUICK = {"cut body", "lost answer"}


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAULTS]
)
def test_each_kind_of_write_meets_a_fault(
    fault: str, proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """Runs, values, ends, artifacts and versions arrive once, though the first attempt at each call fails."""
    seen: set[str] = set()
    lock = threading.Lock()
    turns = {"n": 0}

    def plan(method: str, path: str) -> Fault | None:
        if method == "GET":
            return None
        kind = path.partition("?")[0].rpartition("mlflow/")[2]
        with lock:
            turns["n"] += 1
            again = kind.endswith("log-batch") and turns["n"] % 3 == 0 and fault != "429"
            if kind in seen and not again:
                return None
            seen.add(kind)
            return FAULTS[fault]

    api = open_api(proxy.url, client_settings={"timeout": 10.0})
    api.create_model(f"m-{exp_id}")
    calls = Calls()
    proxy.plan = plan
    work(api, exp_id, tmp_path, calls)
    api.flush(30)
    proxy.always(None)
    calls.check()
    check(client, exp_id)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_faults_at_random(
    seed: int, proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """A third of all requests, reads included, meet one fault or another."""
    chance = random.Random(seed)
    faults = [fault for name, fault in FAULTS.items() if name != "429"]

    def plan(_method: str, _path: str) -> Fault | None:
        return chance.choice(faults) if chance.random() < 0.3 else None

    api = open_api(proxy.url, client_settings={"timeout": 10.0, "retries": 8})
    api.create_model(f"m-{exp_id}")
    calls = Calls()
    proxy.plan = plan
    try:
        work(api, exp_id, tmp_path, calls)
        api.flush(60)
    finally:
        proxy.always(None)
    calls.check()
    check(client, exp_id)


def test_an_answer_to_each_creating_call_is_lost(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """The server creates each thing twice, as far as it can, and nobody hears of it: one of each is there."""
    api = open_api(proxy.url)
    (tmp_path / "weights.bin").write_bytes(b"weights")
    proxy.times(2, Fault(lose_answer=True), path="registered-models/create")
    model = api.get_or_create_model(f"m-{exp_id}")
    proxy.times(2, Fault(lose_answer=True), path="experiments/create")
    exp = api.get_or_create_exp(f"of {exp_id}")
    assert client.get_experiment(exp.id).name == f"of {exp_id}"
    proxy.times(2, Fault(lose_answer=True), path="runs/create")
    run = api.start_run(exp_id)
    proxy.times(2, Fault(lose_answer=True), path="model-versions/create")
    version = run.log_model_version(model, tmp_path / "weights.bin")
    run.end_run()
    assert [found.info.run_id for found in client.search_runs([exp_id])] == [run.id]
    found = client.search_model_versions(f"name = '{model.name}'")
    assert [(str(each.version), each.run_id) for each in found] == [(version.version, run.id)]


def test_an_hour_s_outage_in_fast_time(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pauses 2,000 times shorter the server is away for 1.8 s, and a loop goes on that never blocks."""
    monkeypatch.setattr(retry, "_FIRST", retry._FIRST / 2000)
    monkeypatch.setattr(retry, "_LONGEST", retry._LONGEST / 2000)
    api = open_api(proxy.url, exit_timeout=0.05, connect_timeout=0.05)
    calls = Calls()
    with api.start_run(exp_id, tags={"who": "parent"}) as parent:
        parent.flush()
        proxy.always(Fault(reset=True))
        back = time.monotonic() + 1.8
        count = 0
        while time.monotonic() < back:
            calls(parent.log_metric, "m", count, count)
            calls(parent.log_param, f"p{count}", count)
            calls(parent.set_tag, "count", count)
            if count % 200 == 0:
                with parent.start_child(tags={"who": f"child-{count}"}) as child:
                    calls(child.log_metric, "m", count)
            count += 1
            time.sleep(0.003)
        attempts = len(proxy.requests)
        proxy.always(None)
    calls.check()
    assert attempts > 20
    api.flush(60)
    found = runs_tagged(client, exp_id, "who")
    assert {who: len(runs) for who, runs in found.items()} == {
        "parent": 1,
        **{f"child-{number}": 1 for number in range(0, count, 200)},
    }
    assert steps(client, parent.id, "m") == list(range(count))
    data = client.get_run(parent.id).data
    assert data.params == {f"p{number}": str(number) for number in range(count)}
    assert data.tags["count"] == str(count - 1)
    assert all(run.info.status == "FINISHED" for runs in found.values() for run in runs)


def test_a_server_that_answers_nothing_holds_nobody_up(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """A server that takes requests and hangs blocks no logging call; what it took late is there once."""
    api = open_api(proxy.url, exit_timeout=0.5, client_settings={"timeout": 1.0})
    run = api.start_run(exp_id)
    proxy.always(Fault(delay=2.0))
    calls = Calls()
    for step in range(3_000):
        calls(run.log_metric, "m", 1.0, step)
    time.sleep(1.2)
    for step in range(3_000, 4_000):
        calls(run.log_metric, "m", 1.0, step)
    calls.check()
    started = time.monotonic()
    run.end_run()
    assert time.monotonic() - started < 5
    proxy.always(None)
    api.flush(30)
    assert steps(client, run.id, "m") == list(range(4_000))
