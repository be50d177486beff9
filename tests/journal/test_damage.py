"""Damage to a journal costs the bytes that it hits: all else is delivered, or kept aside, and said."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port
from withrun.journal import ExperimentIntent, Journal, Recovered, recover, waiting
from withrun.journal.record import HEADER, Kind, decode, frame
from withrun.journal.segment import MAGIC, numbers, segment_path

from .conftest import intent, rest

POINTS = 3_000

KILLED = """
import os, sys
from pathlib import Path
from withrun.journal import Journal, RunIntent
from withrun.providers.mlflow.store import StoreBackend
journal = Journal(Path(sys.argv[1]), sys.argv[2], threads=1, connect=lambda: StoreBackend(sys.argv[2]))
log = journal.owned.create(RunIntent("a" * 32, "0", "killed", 1_700_000_000_000))
log.metric("loss", 1.0, 1_700_000_005_000)
assert journal.flush()
print(log.run_id, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def offline(tmp_path: Path, store_uri: str) -> Journal:
    """A journal that nobody delivers."""
    return Journal(tmp_path / "journal", store_uri)


def only_journal(folder: Path) -> Path:
    [lock] = folder.rglob("lock")
    return lock.parent


def damage(path: Path, *kinds: int) -> int:
    """Flip a bit in the first record of each kind in a segment; how many records were hit."""
    text, at, left = bytearray(path.read_bytes()), len(MAGIC), list(kinds)
    while left and text[at : at + 8].strip(b"\0"):
        length = HEADER.unpack_from(text, at)[0] & 0xFFFFFF
        kind = decode(bytes(text[at + 8 : at + 8 + length]))[0]
        if kind in left:
            left.remove(kind)
            text[at + 8 + length // 2] ^= 0x40
        at += 8 + length
    path.write_bytes(text)
    return len(kinds) - len(left)


def log_points(journal: Journal, run_id: str, points: int = POINTS) -> None:
    log = journal.run(run_id)
    for step in range(points):
        log.metric("loss", step / 7, 1_700_000_000_000 + step, step)


def steps(client: Any, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "loss")]


def test_a_damaged_introduction(
    offline: Journal, deliver: Callable[[], Recovered], client: Any, tmp_path: Path
) -> None:
    """One flipped bit in the record that says which run a number means loses none of the run's points."""
    run_id = client.create_run("0").info.run_id
    log_points(offline, run_id)
    offline.close()
    journal = only_journal(tmp_path / "journal")
    assert damage(segment_path(journal, 1), Kind.RUN) == 1
    report = deliver()
    assert (report.damaged > 0, report.refused, report.left) == (True, 0, {})
    assert steps(client, run_id) == list(range(POINTS))


def test_a_damaged_introduction_without_a_ledger(
    offline: Journal, deliver: Callable[[], Recovered], client: Any, tmp_path: Path
) -> None:
    """Then another segment's introduction of the same number tells which run it is."""
    run_id = client.create_run("0").info.run_id
    log_points(offline, run_id, 8_000)
    offline.close()
    journal = only_journal(tmp_path / "journal")
    assert len(numbers(journal)) > 1
    assert damage(segment_path(journal, 1), Kind.RUN) == 1
    (journal / "runs.log").unlink()
    report = deliver()
    assert (report.damaged > 0, report.refused, report.left) == (True, 0, {})
    assert steps(client, run_id) == list(range(8_000))


def test_records_of_a_run_that_nothing_tells(
    offline: Journal,
    deliver: Callable[[], Recovered],
    client: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are kept aside and counted, under one line that says so; another run's are delivered."""
    lost, known = (client.create_run("0").info.run_id for _ in range(2))
    log_points(offline, lost)
    log_points(offline, known, 10)
    offline.close()
    journal = only_journal(tmp_path / "journal")
    assert damage(segment_path(journal, 1), Kind.RUN) == 1
    (journal / "runs.log").unlink()
    with caplog.at_level(logging.ERROR, logger="withrun.journal"):
        report = deliver()
    assert (report.refused, report.left) == (POINTS, {})
    assert (steps(client, lost), steps(client, known)) == ([], list(range(10)))
    [kept] = report.kept
    lines = [json.loads(line) for line in Path(kept).read_text().splitlines()]
    assert [line["record"][5] for line in lines] == list(range(POINTS))
    assert all("damaged" in line["reason"] and journal.name in line["run_id"] for line in lines)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 2  # the damage, and what it means
    assert not any("delivered" in message for message in told)
    assert kept in told[-1]


def test_damaged_starts(
    offline: Journal, deliver: Callable[[], Recovered], client: Any, tmp_path: Path
) -> None:
    """Without the records that start them, offline runs and their experiment arrive all the same."""
    offline.ensure_experiment(ExperimentIntent("e" * 32, "damaged", {"team": "x"}))
    parent = offline.owned.create_locally(intent("parent", experiment_id="e" * 32, tags={"k": "v"}))
    tags = {"mlflow.parentRunId": parent.uid}
    child = offline.owned.create_locally(intent("child", experiment_id="e" * 32, tags=tags))
    quiet = offline.owned.create_locally(intent("quiet", experiment_id="e" * 32))
    for log in (child, parent):
        log.metric("loss", 1.0, 1_700_000_000_000, 5)
        log.status("FINISHED", 1_800_000_000_000)
    offline.close()
    segment = segment_path(only_journal(tmp_path / "journal"), 1)
    starts = (Kind.EXPERIMENT, Kind.RUN, Kind.CREATE, Kind.CREATE, Kind.CREATE)
    assert damage(segment, *starts) == len(starts)
    report = deliver()
    assert (report.refused, report.left) == (0, {})
    experiment = client.get_experiment_by_name("damaged")
    assert experiment.tags["team"] == "x"
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"parent", "child", "quiet"}
    assert {report.runs[log.uid] for log in (parent, child, quiet)} == {r.info.run_id for r in runs.values()}
    assert runs["parent"].data.tags["k"] == "v"
    assert runs["child"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    for name in ("parent", "child"):
        assert (runs[name].info.status, steps(client, runs[name].info.run_id)) == ("FINISHED", [5])


def test_records_that_make_no_sense(
    offline: Journal, deliver: Callable[[], Recovered], client: Any, tmp_path: Path
) -> None:
    """What verifies and can't be understood, another version's say, is kept aside; all else is delivered."""
    run_id = client.create_run("0").info.run_id
    log = offline.run(run_id)
    log.metric("loss", 1.0, 1, 0)
    strange = [[99, log.no, 1, "what"], [Kind.ARTIFACT, log.no, 1, ["no path"]], [Kind.TAGS, log.no], "text"]
    for record in strange:
        log._write(frame(record))
    log.metric("loss", 1.0, 2, 1)
    offline.close()
    report = deliver()
    assert (report.refused, report.delivered, report.left) == (len(strange), 2, {})
    assert steps(client, run_id) == [0, 1]
    [kept] = report.kept
    assert [json.loads(line)["record"] for line in Path(kept).read_text().splitlines()] == strange


@pytest.mark.parametrize(
    "how", ["lost", *(pytest.param(how, marks=pytest.mark.slow) for how in ("zeroed", "emptied"))]
)
def test_a_ledger_that_is_lost(
    how: str, deliver: Callable[[], Recovered], client: Any, tmp_path: Path, store_uri: str
) -> None:
    """The server is asked which runs the dead process owned, and they are ended."""
    command = [sys.executable, "-c", KILLED, tmp_path / "journal", store_uri]
    run_id = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    ledger = only_journal(tmp_path / "journal") / "runs.log"
    if how == "lost":
        ledger.unlink()
    else:
        ledger.write_bytes(bytes(ledger.stat().st_size) if how == "zeroed" else b"")
    report = deliver()
    assert (report.ended, report.left) == ([run_id], {})
    assert client.get_run(run_id).info.status == "FAILED"


def test_a_lock_that_is_lost(
    deliver: Callable[[], Recovered], client: Any, tmp_path: Path, store_uri: str, offline: Journal
) -> None:
    """A journal without its lock file is delivered once its process is gone, and not before."""
    command = [sys.executable, "-c", KILLED, tmp_path / "journal", store_uri]
    run_id = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    journal = only_journal(tmp_path / "journal")
    (journal / "lock").unlink()
    offline.run("abc").metric("x", 1.0, 1)  # of a living process: this one
    living = only_journal(tmp_path / "journal")
    (living / "lock").unlink()
    report = deliver()
    assert (report.journals, report.ended, report.left) == (1, [run_id], {})
    assert [one.alive for one in waiting(tmp_path / "journal", store_uri)] == [True]
    assert not journal.exists()
    offline.close()


def test_a_damaged_start_outlasts_a_recovery_that_gives_up(
    tmp_path: Path, offline: Journal, store_uri: str, deliver: Callable[[], Recovered], client: Any
) -> None:
    """A run of which nothing but the ledger is left is made also if the server was away at the first try."""
    log = offline.owned.create_locally(intent("quiet"))
    log.status("FINISHED", 1_700_000_100_000)
    offline.close()
    path = segment_path(only_journal(tmp_path / "journal"), 1)
    text = bytearray(path.read_bytes())
    for place in range(20, len(text.rstrip(b"\0"))):
        text[place] ^= 0x40
    path.write_bytes(text)
    away = rest(f"http://127.0.0.1:{free_port()}")
    first = recover(tmp_path / "journal", store_uri, away, threads=1, patience=0.0)
    assert len(first.left) == 1
    second = deliver()
    assert second.left == {}
    [run_id] = second.runs.values()
    assert client.get_run(run_id).info.run_name == "quiet"


def test_a_journal_that_can_t_be_read_costs_no_other(
    tmp_path: Path, offline: Journal, store_uri: str, deliver: Callable[[], Recovered], client: Any
) -> None:
    """Beside it a dead process's run is delivered and ended; it alone is left."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "journal"), store_uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    offline.owned.create_locally(intent("other"))
    offline.close()
    unreadable = max(lock.parent for lock in (tmp_path / "journal").rglob("lock"))
    (unreadable / "runs.log").unlink()
    (unreadable / "runs.log").mkdir()
    report = deliver()
    assert list(report.left) == [str(unreadable)]
    assert report.ended == [done.stdout.strip()]
    assert client.get_run(done.stdout.strip()).info.status == "FAILED"


@pytest.mark.parametrize("call", ["unlink", "rename", "rmdir"])
def test_killed_while_deleting(
    call: str, tmp_path: Path, store_uri: str, deliver: Callable[[], Recovered]
) -> None:
    """A delivered journal whose process dies at its deletion never looks as if somebody had it in use."""
    dying = f"""
import pathlib
kept = pathlib.Path.{call}
def die(path, *args, **kwargs):
    if path.name == "lock" or {call!r} != "unlink":
        os.kill(os.getpid(), 9)
    return kept(path, *args, **kwargs)
log.status("FINISHED", 1_700_000_010_000)
pathlib.Path.{call} = die
journal.close()
"""
    program = KILLED.replace("os.kill(os.getpid(), 9)", dying)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "journal"), store_uri], check=False)
    assert done.returncode == -9
    assert not [left for left in waiting(tmp_path / "journal", store_uri) if left.alive]
    assert deliver().left == {}
    assert waiting(tmp_path / "journal", store_uri) == []
