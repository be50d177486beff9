"""Recovery: what dead processes left arrives once, whatever happens; seen by a plain MLflow client."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from withrun.journal import ArtifactIntent, ExperimentIntent, Journal, VersionIntent, recover, waiting
from withrun.journal.segment import numbers, segment_path
from withrun.providers.mlflow.store import StoreBackend

from .conftest import intent, now

MakeJournal = Callable[..., Journal]

LOGGING = """
import itertools, os, sys, time, uuid
from pathlib import Path
from withrun.journal import Journal, RunIntent
from withrun.providers.mlflow.store import StoreBackend

folder, uri, told, deliver = Path(sys.argv[1]), sys.argv[2], open(sys.argv[3], "ab", buffering=0), sys.argv[4]
journal = Journal(
    folder / "journal", uri, threads=1, connect=(lambda: StoreBackend(uri)) if deliver == "online" else None
)
for number in itertools.count():
    intent = RunIntent(uuid.uuid4().hex, "0", f"run-{number}", int(time.time() * 1000))
    told.write(b"start %s\\n" % intent.uid.encode())
    log = journal.owned.create(intent) if deliver == "online" else journal.owned.create_locally(intent)
    told.write(b"started %s\\n" % intent.uid.encode())
    log.params({"number": str(number)})
    for step in range(600):
        log.metric("loss", step / 7, 1_700_000_000_000 + step, step)
        if step % 50 == 0:
            told.write(b"metric %s %d\\n" % (intent.uid.encode(), step))
            time.sleep(0.003)
    log.status("FINISHED", int(time.time() * 1000))
    told.write(b"ended %s\\n" % intent.uid.encode())
"""


def run_and_kill(folder: Path, uri: str, deliver: str, delay: float) -> list[list[str]]:
    """Run the logging program, kill it after a while; what it was told had happened."""
    told = folder / "told"
    process = subprocess.Popen([sys.executable, "-c", LOGGING, folder, uri, told, deliver])
    started = time.monotonic()
    while not told.exists() or not told.stat().st_size:
        assert time.monotonic() - started < 60
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return [line.split() for line in told.read_text().splitlines()]


def check(client: Any, told: list[list[str]]) -> None:
    """Each call that had returned is on the store, exactly once and in order."""
    for uid in {line[1] for line in told if line[0] == "started"}:
        found = client.search_runs(["0"], f"tags.`withrun.uid` = '{uid}'")
        assert len(found) == 1, uid
        run_id = found[0].info.run_id
        steps = [point.step for point in client.get_metric_history(run_id, "loss")]
        last = max((int(line[2]) for line in told if line[:2] == ["metric", uid]), default=-1)
        assert steps == list(range(len(steps)))
        assert len(steps) > last
        ended = ["ended", uid] in told
        assert found[0].info.status == "FINISHED" if ended else found[0].info.status in ("FINISHED", "FAILED")
    for uid in {line[1] for line in told if line[0] == "start"}:
        found = client.search_runs(["0"], f"tags.`withrun.uid` = '{uid}'")
        assert len(found) <= 1
        assert all(run.info.status != "RUNNING" for run in found)


def recover_all(folder: Path, uri: str, **options: Any) -> Any:
    backend = StoreBackend(uri)
    try:
        return recover(folder / "journal", uri, backend, threads=1, **options)
    finally:
        backend.close()


def wait_until_free(folder: Path, uri: str) -> None:
    """A helper process that was just being forked at the kill holds the journal's lock until it executes."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(left.alive for left in waiting(folder / "journal", uri)):
        time.sleep(0.01)


@pytest.mark.parametrize("deliver", ["online", "offline"])
@pytest.mark.parametrize(
    "moments", [2, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_killed_at_random_moments(
    moments: int, deliver: str, tmp_path: Path, store_uri: str, client: Any
) -> None:
    """After kill -9 at any moment, recovery delivers every call that had returned, exactly once, in order."""
    for moment in range(moments):
        folder = tmp_path / str(moment)
        folder.mkdir()
        told = run_and_kill(folder, store_uri, deliver, random.uniform(0, 0.6))
        wait_until_free(folder, store_uri)
        report = recover_all(folder, store_uri)
        assert report.left == {}
        check(client, told)
        assert recover_all(folder, store_uri).journals == 0
        assert list((folder / "journal").rglob("*.seg")) == []


@pytest.mark.slow
def test_recoveries_that_are_killed_or_run_at_once(tmp_path: Path, store_uri: str, client: Any) -> None:
    """Recoveries killed midway, and four at once, leave what one undisturbed recovery would."""
    told = run_and_kill(tmp_path, store_uri, "offline", 0.3)
    code = (
        "import sys; from pathlib import Path; from withrun.journal import recover;"
        "from withrun.providers.mlflow.store import StoreBackend as S;"
        "recover(Path(sys.argv[1]), sys.argv[2], S(sys.argv[2]), threads=1)"
    )
    command = [sys.executable, "-c", code, tmp_path / "journal", store_uri]
    for delay in (1.5, 2.0, 2.5):
        process = subprocess.Popen(command)
        time.sleep(delay)
        process.kill()
        process.wait()
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: recover_all(tmp_path, store_uri), range(4)))
    assert sum(report.journals for report in reports) <= 1
    check(client, told)


def test_the_end_of_a_dead_process_run(tmp_path: Path, store_uri: str, client: Any) -> None:
    """Its RUNNING run ends FAILED at its last record's time, unless somebody else has taken it over."""
    code = """
import os, sys
from pathlib import Path
from withrun.journal import Journal, RunIntent
from withrun.providers.mlflow.store import StoreBackend
journal = Journal(Path(sys.argv[1]), sys.argv[2], threads=1, connect=lambda: StoreBackend(sys.argv[2]))
for uid in ("a" * 32, "b" * 32, "c" * 32):
    log = journal.owned.create(RunIntent(uid, "0", uid, 1_700_000_000_000))
    log.metric("x", 1.0, 1_700_000_005_000)
    print(log.run_id, flush=True)
other = journal.run(sys.argv[3])
other.metric("x", 1.0, 1)
assert journal.flush()
os.kill(os.getpid(), 9)
"""
    foreign = client.create_run("0").info.run_id
    command = [sys.executable, "-c", code, tmp_path / "journal", store_uri, foreign]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    dead, resumed, finished = done.stdout.split()
    client.set_tag(resumed, "withrun.owner", "somebody-else")
    client.set_terminated(finished, "KILLED", end_time=7)
    report = recover_all(tmp_path, store_uri)
    assert report.ended == [dead]
    ended = client.get_run(dead).info
    assert ended.status == "FAILED"
    assert ended.end_time >= 1_700_000_005_000
    assert client.get_run(resumed).info.status == "RUNNING"
    assert (client.get_run(finished).info.status, client.get_run(finished).info.end_time) == ("KILLED", 7)
    assert client.get_run(foreign).info.status == "RUNNING"


class Recorder:
    """A publisher that notes what it is given."""

    def __init__(self) -> None:
        self.artifacts: list[tuple[str, str, bytes]] = []
        self.versions: list[tuple[str, str, str]] = []

    def publish_artifact(self, wanted: ArtifactIntent, source: Path, run_id: str) -> None:
        self.artifacts.append((run_id, wanted.path_in_run, source.read_bytes()))

    def publish_version(
        self, wanted: VersionIntent, source: Path | None, run_id: str, resolve: Callable[[str], str]
    ) -> str:
        self.versions.append((wanted.model, run_id, resolve(wanted.options["source_run"])))
        return "7"


def test_offline_runs_with_children_artifacts_and_versions(
    tmp_path: Path, store_uri: str, client: Any, open_journal: MakeJournal
) -> None:
    """An offline journal becomes runs, artifacts and versions; its local IDs resolve afterwards."""
    journal = Journal(tmp_path / "journal", store_uri)
    journal.ensure_experiment(ExperimentIntent("local-exp", "demo", {"team": "x"}))
    parent = journal.owned.create_locally(intent("parent", experiment_id="local-exp"))
    tags = {"mlflow.parentRunId": parent.run_id}
    child = journal.owned.create_locally(intent("child", experiment_id="local-exp", tags=tags))
    child.metric("x", 1.0, 1)
    (journal.spool / "weights").write_bytes(b"123")
    child.artifact(ArtifactIntent("weights", "model/weights"))
    options = {"source_run": child.run_id}
    child.version(VersionIntent("u" * 32, "digits", "model", local_version="l1", options=options))
    for log in (child, parent):
        log.status("FINISHED", now())
    assert not journal.close()
    [listed] = waiting(tmp_path / "journal", store_uri)
    assert not listed.alive
    assert listed.records > 5
    assert listed.origin is not None
    assert listed.origin.pid == os.getpid()
    publisher = Recorder()
    report = recover_all(tmp_path, store_uri, publisher=publisher)
    assert (report.journals, report.refused, report.left) == (1, 0, {})
    ids = journal.local_ids
    parent_id, child_id = ids.resolve("run", parent.run_id), ids.resolve("run", child.run_id)
    assert parent_id is not None
    assert child_id is not None
    assert client.get_run(child_id).data.tags["mlflow.parentRunId"] == parent_id
    assert client.get_experiment_by_name("demo").experiment_id == client.get_run(child_id).info.experiment_id
    assert publisher.artifacts == [(child_id, "model/weights", b"123")]
    assert publisher.versions == [("digits", child_id, child_id)]
    assert ids.resolve("version", "digits/l1") == "7"
    assert waiting(tmp_path / "journal", store_uri) == []


def test_damaged_segments(tmp_path: Path, store_uri: str, client: Any) -> None:
    """Bytes overwritten in the middle cost the records that they hit; a cut-off end costs what was cut."""
    run_id = client.create_run("0").info.run_id
    journal = Journal(tmp_path / "journal", store_uri)
    log = journal.run(run_id)
    for step in range(20_000):
        log.metric("loss", 1.0, 1_700_000_000_000 + step, step)
    folder = next(tmp_path.rglob("lock")).parent
    journal.close()
    first, last = numbers(folder)[0], numbers(folder)[-1]
    with segment_path(folder, first).open("r+b") as file:
        for place in (5_000, 60_000, 61_000):
            file.seek(place)
            file.write(os.urandom(100))
        file.seek(100_000)
        file.write(bytes(5_000))
    size = segment_path(folder, last).stat().st_size
    os.truncate(segment_path(folder, last), min(size, 50_000))
    report = recover_all(tmp_path, store_uri)
    steps = [point.step for point in client.get_metric_history(run_id, "loss")]
    assert report.damaged > 0
    assert report.left == {}
    assert len(set(steps)) == len(steps)
    assert report.delivered == len(steps)
    missing = set(range(max(steps))) - set(steps)
    assert 0 < len(missing) < 200


def test_a_server_that_is_away_leaves_everything(tmp_path: Path, closed_port: str) -> None:
    """Recovery gives up in time, changes nothing, and says why."""
    from .conftest import rest

    journal = Journal(tmp_path / "journal", closed_port)
    journal.run("abc").metric("x", 1.0, 1)
    journal.close()
    backend = rest(closed_port)
    report = recover(tmp_path / "journal", closed_port, backend, patience=0.5)
    backend.close()
    assert report.journals == 0
    assert len(report.left) == 1
    assert len(waiting(tmp_path / "journal", closed_port)) == 1


@pytest.fixture
def closed_port() -> str:
    from tests.servers import free_port

    return f"http://127.0.0.1:{free_port()}"


def test_a_live_journal_is_left_alone(tmp_path: Path, store_uri: str) -> None:
    """The journal of a process that lives is listed as such, and not taken."""
    journal = Journal(tmp_path / "journal", store_uri)
    journal.run("abc").metric("x", 1.0, 1)
    assert [listed.alive for listed in waiting(tmp_path / "journal", store_uri)] == [True]
    assert recover_all(tmp_path, store_uri).journals == 0
    journal.close()
