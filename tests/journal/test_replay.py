"""Reading local runs back out of journals: what is read is what the store will show once it is delivered."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from withrun.backend import RunRecord
from withrun.journal import (
    ExperimentIntent,
    Journal,
    ModelIntent,
    RunLog,
    VersionIntent,
    recover,
)
from withrun.journal.record import frame
from withrun.journal.replay import LocalStore
from withrun.journal.segment import segment_path
from withrun.providers.mlflow.store import StoreBackend

from .conftest import intent, now

NOWHERE = "https://nowhere.test"

LOGGING = """
import os, sys, uuid
from pathlib import Path
from withrun.journal import Journal, RunIntent
journal = Journal(Path(sys.argv[1]), sys.argv[2])
log = journal.owned.create_locally(RunIntent(sys.argv[3], "0", "other", 1_700_000_000_000))
for step in range(int(sys.argv[4])):
    log.metric("loss", step / 7, 1_700_000_000_000 + step, step)
    if step % 1000 == 0:
        print(step, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def journals(tmp_path: Path) -> Callable[..., Journal]:
    return lambda uri=NOWHERE, **options: Journal(tmp_path / "journal", uri, **options)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "journal", NOWHERE)


def log_at_random(log: RunLog, chance: random.Random) -> None:
    """Log anything to a run, in any order."""
    for _ in range(chance.randint(5, 40)):
        key = chance.choice("abc")
        value = chance.choice([0.5, 1.5, -2.0, math.nan, 7.0])  # 0.0 and NaN rank alike
        kind = chance.randrange(6)
        if kind == 0:
            log.params({key: str(chance.randrange(2))})
        elif kind == 1:
            log.tags({key: str(chance.randrange(5)), "z": "1"})
        elif kind == 2:
            log.delete_tag(key)
        elif kind == 3:
            log.metric(key, value, 1_700_000_000_000 + chance.randrange(3), chance.randrange(3))
        elif kind == 4:
            log.metrics({"a": value, "c": 3.0}, 1_700_000_000_000 + chance.randrange(3), chance.randrange(3))
        elif chance.random() < 0.3:
            status = chance.choice(["FINISHED", "FAILED", "RUNNING"])
            log.status(status, None if status == "RUNNING" else 1_700_000_200_000 + chance.randrange(9))
    log.status("KILLED", 1_700_000_100_000)


def comparable(run: RunRecord) -> dict[str, Any]:
    fields = msgspec.structs.asdict(run)
    for name in ("run_id", "artifact_uri", "user_id"):
        del fields[name]
    for name in ("params", "tags"):
        fields[name] = {item.key: item.value for item in fields[name]}
    fields["tags"].pop("mlflow.runName", None)  # the store's own copy of the name
    fields["metrics"] = {m.key: (repr(m.value), m.timestamp, m.step) for m in fields["metrics"]}
    return fields


@pytest.mark.slow
def test_what_is_read_is_what_is_delivered(tmp_path: Path, store_uri: str, journals: Any) -> None:
    """Forty runs logged to at random by two journals read the same before delivery as after, on the store."""
    chance = random.Random(7)
    first, second = journals(store_uri), journals(store_uri)
    uids = []
    for number in range(40):
        log = first.owned.create_locally(intent(f"run-{number}", start_time=number + 1, tags={"a": "s"}))
        log_at_random(log, chance)
        if number % 3 == 0:
            log_at_random(second.run(log.uid, uid=log.uid), chance)
        uids.append(log.uid)
    local = LocalStore(tmp_path / "journal", store_uri)
    before = {uid: comparable(local.run(uid)) for uid in uids}  # type: ignore[arg-type]
    points = {uid: {key: local.metric_history(uid, key) for key in "abc"} for uid in uids}
    assert [run.run_id for run in local.runs()] == uids
    for journal in (first, second):
        journal.close()
    backend = StoreBackend(store_uri)
    report = recover(tmp_path / "journal", store_uri, backend, threads=1)
    assert report.left == {}
    for uid in uids:
        after = backend.get_run(report.runs[uid])
        assert comparable(after) == before[uid]
        for key, read in points[uid].items():
            stored = backend.metric_history(after.run_id, key).items
            assert {repr(point) for point in read} == {repr(point) for point in stored}
            assert len(read) == len(stored)
    assert (local.runs(), local.run(uids[0])) == ([], None)
    backend.close()


def test_a_journal_that_is_being_written(tmp_path: Path, local: LocalStore) -> None:
    """Read again and again while another process logs, steps only grow; after its kill the last is there."""
    uid = "1" * 32
    command = [sys.executable, "-c", LOGGING, tmp_path / "journal", NOWHERE, uid, "150000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    steps = []
    while process.poll() is None:
        run = local.run(uid)
        assert run is not None
        steps.append(run.metrics[0].step if run.metrics else -1)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()
    assert steps == sorted(steps)
    assert len(set(steps)) > 2
    last = local.run(uid)
    assert last is not None
    assert last.metrics[0].step == 149_999
    assert len(local.metric_history(uid, "loss")) == 150_000


@pytest.mark.parametrize("mapped", [True, False])
def test_a_torn_tail(journals: Any, local: LocalStore, mapped: bool) -> None:
    """Half a frame at the end is no record, and none is missed once the frame is whole."""
    journal = journals(mapped=mapped)
    log = journal.owned.create_locally(intent())
    log.metric("x", 1.0, 1, 1)
    assert local.run(log.uid).metrics[0].step == 1  # type: ignore[union-attr]
    live = journal._live
    text = frame((1, log.no, "x", 2.0, 2, 2))
    place = live.writer.current.tell()
    with segment_path(live.folder.path, 1).open("r+b") as file:
        for part in (text[:5], text[:12], text[:-1]):
            file.seek(place)
            file.write(part)
            file.flush()
            assert local.run(log.uid).metrics[0].step == 1  # type: ignore[union-attr]
        file.seek(place)
        file.write(text)
    assert local.run(log.uid).metrics[0].step == 2  # type: ignore[union-attr]
    journal.close()


@pytest.mark.slow
def test_a_second_read_costs_what_came_since(journals: Any, local: LocalStore) -> None:
    """Behind 100,000 points a read with one more is far quicker than the first, and takes no memory."""
    journal = journals()
    log = journal.owned.create_locally(intent())
    log.metric("loss", 0.0, 1, 0)
    local.run(log.uid)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for step in range(100_000):
        log.metric("loss", 1.0, 1_700_000_000_000, step)
    started = time.perf_counter()
    local.run(log.uid)
    first = time.perf_counter() - started
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    times = []
    for step in range(5):
        log.metric("loss", 1.0, 1_700_000_000_000, 100_000 + step)
        started = time.perf_counter()
        run = local.run(log.uid)
        times.append(time.perf_counter() - started)
        assert run is not None
        assert run.metrics[0].step == 100_000 + step
    assert min(times) < first / 20
    assert grown < 1_000_000
    journal.close()


def test_a_journal_that_vanishes(tmp_path: Path, store_uri: str, journals: Any) -> None:
    """While threads read, journals are delivered and deleted: nobody fails, and nothing is left to read."""
    local = LocalStore(tmp_path / "journal", store_uri)
    for _ in range(4):
        journal = journals(store_uri)
        for number in range(5):
            log = journal.owned.create_locally(intent(f"run-{number}"))
            for step in range(300):
                log.metric("loss", 1.0, 1_700_000_000_000, step)
            log.status("FINISHED", now())
        journal.close()
    failures: list[BaseException] = []
    over = threading.Event()

    def read() -> None:
        other = LocalStore(tmp_path / "journal", store_uri)
        try:
            while not over.is_set():
                for store in (local, other):
                    for run in store.runs():
                        store.metric_history(run.run_id, "loss")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    backend = StoreBackend(store_uri)
    report = recover(tmp_path / "journal", store_uri, backend, threads=1)
    over.set()
    for thread in threads:
        thread.join()
    backend.close()
    assert (failures, report.journals, local.runs()) == ([], 4, [])


def test_experiments_models_and_versions(journals: Any, local: LocalStore) -> None:
    """Of two experiments of one name the first stands for both; models and versions are found by name."""
    first, second = journals(), journals()
    for journal, local_id in ((first, "a" * 32), (second, "b" * 32)):
        journal.ensure_experiment(ExperimentIntent(local_id, "shared", {"by": local_id}))
        journal.ensure_model(ModelIntent("digits", {"by": local_id}))
    log = second.owned.create_locally(intent(experiment_id="b" * 32))
    log.version(VersionIntent("c" * 32, "digits", "model", {"k": "v"}, "local-1", "spooled"))
    for found in (local.experiment("a" * 32), local.experiment("b" * 32), local.experiment_by_name("shared")):
        assert found is not None
        assert found.experiment_id == "a" * 32
    assert [one.experiment_id for one in local.experiments()] == ["a" * 32]
    run, model, version = local.run(log.uid), local.model("digits"), local.version("digits", "local-1")
    assert run is not None
    assert model is not None
    assert version is not None
    assert run.experiment_id == "a" * 32
    assert [tag.value for tag in model.tags] == ["a" * 32]
    assert (version.run_id, version.source) == (log.uid, f"{run.artifact_uri}/model")
    assert (local.models(), local.versions()) == ([model], [version])
    for nothing in (local.run("0" * 32), local.experiment("x"), local.model("x"), local.version("x", "1")):
        assert nothing is None
    for journal in (first, second):
        journal.close()


def test_nothing_is_locked_or_changed(tmp_path: Path, journals: Any, local: LocalStore) -> None:
    """Reading leaves every file as it was, and a folder that is not there is not made."""
    assert (local.runs(), local.experiments(), local.run("0" * 32)) == ([], [], None)
    assert not (tmp_path / "journal").exists()
    journal = journals()
    journal.owned.create_locally(intent()).metric("x", 1.0, 1, 1)
    journal.close()

    def state() -> dict[str, tuple[int, int]]:
        files = (path for path in (tmp_path / "journal").rglob("*"))
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    assert len(local.runs()) == 1
    assert state() == before


def test_damage_is_read_over(journals: Any, local: LocalStore, tmp_path: Path) -> None:
    """A damaged record in the middle costs itself alone."""
    journal = journals()
    log = journal.owned.create_locally(intent())
    for step in range(100):
        log.metric("x", 1.0, 1, step)
    place = journal._live.writer.current.tell()
    for step in range(100, 200):
        log.metric("x", 1.0, 1, step)
    path = journal._live.folder.path
    journal.close()
    with segment_path(path, 1).open("r+b") as file:
        file.seek(place + 10)
        file.write(b"\xff")
    assert [point.step for point in local.metric_history(log.uid, "x")] == [
        *range(100),
        *range(101, 200),
    ]


def test_a_forked_child_reads_on(journals: Any, local: LocalStore) -> None:
    """Forked while another thread reads, a child reads the same, and what the parent logs afterwards."""
    journal = journals()
    log = journal.owned.create_locally(intent())
    for step in range(20_000):
        log.metric("x", 1.0, 1, step)
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            local.metric_history(log.uid, "x")
            local.run(log.uid)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(5):
            told, tell = os.pipe()
            if not (child := os.fork()):
                try:
                    run = local.run(log.uid)
                    os.write(tell, b"read" if run and run.metrics[0].step == 19_999 else b"none")
                finally:
                    os._exit(0)
            assert os.read(told, 4) == b"read"
            os.waitpid(child, 0)
            os.close(told)
            os.close(tell)
    finally:
        over.set()
        thread.join()
        journal.close()


def test_another_machine_s_leftovers_beside_the_journals(
    tmp_path: Path, journals: Any, local: LocalStore
) -> None:
    """Folders and files of other names, and a journal without segments, are passed over."""
    journal = journals()
    log = journal.owned.create_locally(intent())
    journal.close()
    for name in (".unfinished", "refused", "1795328314684-0123456789abcdef"):
        (local.folder / name).mkdir(exist_ok=True)
    (local.folder / "local-ids.jsonl").write_text("")
    assert [run.run_id for run in local.runs()] == [log.uid]
    shutil.rmtree(local.folder)
    assert local.runs() == []
