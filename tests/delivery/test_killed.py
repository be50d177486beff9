"""kill -9 at random moments of a program that uses the public API; the next API on the store delivers all.

The program reports each call that has returned. After recovery a plain MLflow client finds each of these on
the server exactly once and in order; of the one call that was under way, all or nothing.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.delivery import program
from tests.servers import MlflowServer
from withrun.journal import waiting

from .conftest import MakeApi, journals, runs_tagged

STAGES = ("start", "loop", "child", "tags", "artifact", "version", "segment", "end")

LOGGING = """
import itertools
who = os.environ["WHO"]
told = os.open(os.environ["TOLD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def tell(*words):
    os.write(told, (" ".join(map(str, words)) + "\\n").encode())

def about(stage):
    say(stage)

weights = Path(os.environ["TOLD"] + ".bin")
weights.write_bytes(b"weights")
model = api.get_or_create_model(os.environ["MODEL"])
if api.offline_mode:
    exp = api.get_or_create_exp(os.environ["EXPERIMENT_NAME"])

for number in itertools.count():
    name = f"{who}-{number}"
    tell("starting", name)
    about("start")
    with api.start_run(exp, name, tags={"who": name}) as run:
        tell("started", name)
        run.log_params({"a": number, "b": {"c": [number]}})
        tell("param", name, "a")
        about("loop")
        for step in range(300):
            run.log_metric("m", step / 7, step)
            tell("m", name, step)
            if step % 10 == 0:
                run.log_param(f"p{step}", step)
                tell("param", name, f"p{step}")
        about("child")
        tell("starting", name + "-child")
        with run.start_child("child", tags={"who": name + "-child"}) as child:
            tell("started", name + "-child")
            child.log_metric("m", 1.0)
            tell("m", name + "-child", 0)
        tell("ended", name + "-child")
        about("tags")
        for value in range(100):
            run.set_tag("count", value)
            tell("tag", name, value)
            if value == 50:
                run.set_tag("gone", 1)
                run.delete_tag("gone")
                tell("gone", name)
        about("artifact")
        run.log_artifact(weights, "files/weights.bin")
        tell("artifact", name)
        about("version")
        run.log_model_version(model, weights, "model")
        tell("version", name)
        about("segment")
        for step in range(300, 9_000):
            run.log_metric("m", step / 7, step)
            if step % 50 == 49:
                tell("m", name, step)
        about("end")
    tell("ended", name)
"""


class Told:
    """What one killed program had been told."""

    def __init__(self, file: Path) -> None:
        self.lines = [line.split() for line in file.read_text().splitlines()]

    def names(self, word: str) -> list[str]:
        return [line[1] for line in self.lines if line[0] == word]

    def values(self, word: str, name: str) -> list[str]:
        return [line[2] for line in self.lines if line[:2] == [word, name]]


def kill_at(
    stage: str,
    delay: float,
    turn: int,
    number: int,
    folder: Path,
    server: MlflowServer,
    exp_id: str,
    **conf: Any,
) -> Told:
    """Run the program until it is about to do something for the `turn`th time, wait, and kill it."""
    told = folder / f"told-{number}"
    env = {
        "TOLD": str(told),
        "WHO": f"w{number}",
        "MODEL": f"m-{exp_id}",
        "EXPERIMENT_NAME": conf.pop("experiment_name", ""),
    }
    running = program.start(
        LOGGING, server.url, "" if conf.get("offline_mode") else exp_id, folder / "journal", env=env, **conf
    )
    stages = Counter[str]()
    while stages[stage] <= turn:
        line = running.line()
        assert line, running.finish()
        stages[line] += 1
    time.sleep(delay)
    running.kill()
    return Told(told)


def moments(count: int) -> Iterator[tuple[str, float, int]]:
    """Stages in turn, and random moments behind them."""
    for number in range(count):
        stage = STAGES[number % len(STAGES)]
        yield stage, random.uniform(0, 0.004 if stage in ("loop", "tags") else 0.03), random.choice((0, 0, 1))


def check(client: Any, server: MlflowServer, exp_id: str, everything: list[Told]) -> None:
    """Each call that had returned is on the server, exactly once and in order."""
    found = runs_tagged(client, exp_id, "who")
    for told in everything:
        for name in told.names("starting"):
            assert len(found.get(name, [])) <= 1, name
        for name in told.names("started"):
            [run] = found[name]
            check_run(client, Path(server.artifacts), run, name, told)
        for name in set(told.names("starting")) & found.keys():
            assert found[name][0].info.status in ("FINISHED", "FAILED"), name


def check_run(client: Any, artifacts: Path, run: Any, name: str, told: Told) -> None:
    run_id, data = run.info.run_id, run.data
    repo = artifacts / run.info.artifact_uri.removeprefix("mlflow-artifacts:/")
    points = sorted(client.get_metric_history(run_id, "m"), key=lambda point: (point.timestamp, point.step))
    assert [point.step for point in points] == list(range(len(points)))
    last = max((int(step) for step in told.values("m", name)), default=-1)
    assert last < len(points) <= last + (52 if last >= 299 else 2)
    assert all(point.value == point.step / 7 for point in points) or name.endswith("child")
    params = set(told.values("param", name))
    assert params <= set(data.params) <= params | {"a", "b.c", f"p{last + 1}", f"p{last}"}
    counts = [int(value) for value in told.values("tag", name)]
    shown = int(data.tags.get("count", -1))
    assert max(counts, default=-1) <= shown <= max(counts, default=-1) + 1
    if name in told.names("gone"):
        assert "gone" not in data.tags
    if name in told.names("artifact"):
        assert (repo / "files" / "weights.bin").read_bytes() == b"weights"
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    assert len(versions) <= 1
    if name in told.names("version"):
        assert len(versions) == 1
        assert (repo / "model").read_bytes() == b"weights"
    if name in told.names("ended"):
        assert run.info.status == "FINISHED"
    elif run.info.status == "FAILED":
        assert run.info.end_time >= max((point.timestamp for point in points), default=0)
        assert run.info.end_time <= time.time() * 1000


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(4, id="few"),
        # With those of tests/offline and tests/journal more than 200 in all.
        pytest.param(75, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_killed_at_random_moments(
    count: int,
    mode: str,
    server: MlflowServer,
    open_api: MakeApi,
    client: Any,
    exp_id: str,
    tmp_path: Path,
) -> None:
    """Around starts, logging, children, tags, artifacts, versions, segment changes, ends nothing is lost."""
    conf = {}
    if mode == "offline":
        conf = {"offline_mode": True, "experiment_name": client.get_experiment(exp_id).name}
        count = max(count // 3, 2) if count < 100 else count
    everything: list[Told] = []
    for number, (stage, delay, turn) in enumerate(moments(count)):
        everything.append(kill_at(stage, delay, turn, number, tmp_path, server, exp_id, **conf))
        if number % 10 == 9 or number == count - 1:
            recover(open_api, server, tmp_path)
            check(client, server, exp_id, everything)
            everything.clear()


def recover(open_api: MakeApi, server: MlflowServer, folder: Path) -> None:
    """The next API on the store, and what it waits for."""
    deadline = time.monotonic() + 5  # a helper process that was being forked at the kill holds the lock
    while any(left.alive for left in waiting(folder / "journal", server.url)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with open_api(server.url, journal_dir=folder / "journal") as api:
        api.flush(120)
    assert journals(folder / "journal") == []


LOCALLY = """
def dying(name):
    original = getattr({owner}, name)
    def call(self, *args):
        if {before}:
            os.kill(os.getpid(), 9)
        original(self, *args)
        os.kill(os.getpid(), 9)
    setattr({owner}, name, call)
dying({name!r})
api.start_run(api.get_or_create_exp(os.environ["EXPERIMENT_NAME"]), tags={{"who": "it"}})
"""

PLACES = {
    "before the ledger knows it": ("Ledger", "own", True),
    "before its record": ("RunLog", "create", True),
    "behind its record": ("RunLog", "create", False),
}


@pytest.mark.parametrize("place", list(PLACES))
def test_killed_while_a_run_starts_locally(
    place: str, server: MlflowServer, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """Killed just before or behind the record that starts it, a local run is nowhere left RUNNING."""
    owner, name, before = PLACES[place]
    code = "from withrun.journal.ledger import Ledger\nfrom withrun.journal import RunLog\n"
    code += LOCALLY.format(owner=owner, name=name, before=before)
    env = {"EXPERIMENT_NAME": client.get_experiment(exp_id).name}
    killed = program.start(code, server.url, "", tmp_path / "journal", env=env, offline_mode=True)
    assert killed.finish()[0] == -9
    recover(open_api, server, tmp_path)
    found = [run.info.status for run in client.search_runs([exp_id])]
    assert found == (["FAILED"] if place == "behind its record" else [])
