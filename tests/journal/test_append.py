"""Appending: what is on the disk once the call has returned, whatever interrupts it."""

from __future__ import annotations

import gc
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.servers import free_port
from withrun.errors import InvalidArgument, JournalError
from withrun.journal import Journal, JournalFull
from withrun.journal.record import Kind, decode
from withrun.journal.segment import SegmentReader, numbers, segment_path
from withrun.journal.writer import FIRST_SIZE
from withrun.providers.mlflow.store import StoreBackend

from .conftest import fill, intent, rest

MakeJournal = Callable[..., Journal]


def records(folder: Path, kind: int | None = None) -> Iterator[list[Any]]:
    """All records of all journals below a folder, in order."""
    for lock in sorted(folder.rglob("lock")):
        for number in numbers(lock.parent):
            reader = SegmentReader(segment_path(lock.parent, number))
            while payloads := reader.read(None):
                for record in map(decode, payloads):
                    if kind is None or record[0] == kind:
                        yield record
            reader.close()


@pytest.fixture(params=[True, False], ids=["mapped", "appended"])
def journal(request: pytest.FixtureRequest, open_journal: MakeJournal) -> Journal:
    """An offline journal, in each way of writing."""
    return open_journal(mapped=request.param)


def test_every_verb_is_on_disk_when_its_call_returns(journal: Journal, tmp_path: Path) -> None:
    """What was logged can be read from the files at once, with types kept, NaN and infinities among them."""
    log = journal.run("abc")
    log.metric("loss", math.nan, 1, 2)
    log.metrics({"a": math.inf, "b": -math.inf}, 3, 4)
    log.params({"lr": "0.1"})
    log.tags({"team": "ü\n\0"})
    log.delete_tag("team")
    log.status("FINISHED", 9)
    found = list(records(tmp_path))
    assert [record[0] for record in found] == [0, 1, 2, 3, 4, 5, 6]
    assert found[0] == [Kind.RUN, 1, "abc", ""]
    assert found[1][2] == "loss"
    assert math.isnan(found[1][3])
    assert found[2][2:] == [3, 4, {"a": math.inf, "b": -math.inf}]
    assert found[4][3] == {"team": "ü\n\0"}
    assert found[6][3:] == ["FINISHED", 9]
    assert log.delivery == (7, 0, 7, 0)


def test_segments_follow_one_another_and_each_decodes_alone(journal: Journal, tmp_path: Path) -> None:
    """Every segment introduces the runs it holds records of, so that earlier ones can be deleted."""
    logs = [journal.run(f"run-{i}") for i in range(3)]
    for step in range(20_000):
        logs[step % 3].metric("loss", step / 7, 1_700_000_000_000, step)
    folder = next(tmp_path.rglob("lock")).parent
    assert len(numbers(folder)) > 1
    seen: list[int] = []
    for number in numbers(folder):
        introduced: dict[int, str] = {}
        reader = SegmentReader(segment_path(folder, number))
        while payloads := reader.read(None):
            for record in map(decode, payloads):
                if record[0] == Kind.RUN:
                    introduced[record[1]] = record[2]
                else:
                    assert introduced[record[1]] == f"run-{record[5] % 3}"
                    seen.append(record[5])
        reader.close()
    assert seen == list(range(20_000))


def test_a_record_larger_than_a_segment_is_taken(journal: Journal, tmp_path: Path) -> None:
    """A record that fits no ordinary segment gets its own; beyond the format's limit it is refused."""
    log = journal.run("abc")
    log.tags({f"t{i}": "x" * 60_000 for i in range(100)})
    log.metric("after", 1.0, 1)
    assert [record[0] for record in records(tmp_path)] == [Kind.RUN, Kind.TAGS, Kind.METRIC] or [
        record[0] for record in records(tmp_path)
    ] == [Kind.RUN, Kind.TAGS, Kind.RUN, Kind.METRIC]
    with pytest.raises(InvalidArgument, match="at most"):
        log.tags({"huge": "x" * (1 << 24)})
    log.metric("after", 2.0, 1)


def test_threads_lose_nothing(journal: Journal, tmp_path: Path) -> None:
    """Of eight threads that log to shared and own runs each record is there once, in order by thread."""
    shared = journal.run("shared")

    def work(worker: int) -> None:
        own = journal.run(f"own-{worker}")
        for step in range(3_000):
            shared.metric(f"w{worker}", 1.0, 1, step)
            own.metric("x", 1.0, 1, step)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps: dict[tuple[int, str], list[int]] = {}
    for record in records(tmp_path, Kind.METRIC):
        steps.setdefault((record[1], record[2]), []).append(record[5])
    assert len(steps) == 16
    assert all(found == list(range(3_000)) for found in steps.values())
    assert shared.accepted == 24_000


@pytest.mark.timeout(60, method="thread")  # the signal method has the same timer
def test_signal_handlers_and_finalizers_may_log_in_the_middle_of_an_append(
    journal: Journal, tmp_path: Path
) -> None:
    """A handler that logs, fired thousands of times into a loop that logs, loses no record of either."""
    log = journal.run("abc")
    calls = itertools.count()
    ringing = threading.Event()
    ringing.set()

    def handler(*_: object) -> None:
        log.metric("handler", 1.0, 1, next(calls))
        # One shot at a time: on a busy machine handlers take longer than an interval, and would pile up.
        if ringing.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0.001)

    class Noisy:
        def __init__(self, step: int) -> None:
            self.step = step
            self.cycle = self

        def __del__(self) -> None:
            log.metric("finalizer", 1.0, 1, self.step)

    log.metric("first", 1.0, 1)
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        for step in range(100_000):
            log.metric("loop", 1.0, 1, step)
            if step % 100 == 0:
                Noisy(step)
    finally:
        ringing.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    gc.collect()
    steps: dict[str, list[int]] = {"first": [], "loop": [], "handler": [], "finalizer": []}
    for record in records(tmp_path, Kind.METRIC):
        steps[record[2]].append(record[5])
    assert steps["loop"] == list(range(100_000))
    fired = next(calls)
    assert steps["handler"] == list(range(fired))
    assert fired > 20
    assert sorted(steps["finalizer"]) == list(range(0, 100_000, 100))
    assert log.accepted == 1 + 100_000 + fired + 1_000


def test_a_handler_that_logs_and_kills_leaves_its_record(tmp_path: Path) -> None:
    """What a signal handler logs in the middle of an append is on disk, though the process dies there."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from withrun.journal import Journal
        log = Journal(Path(sys.argv[1]), "https://nowhere.test").run("abc")
        def handler(*_):
            log.metric("last", 1.0, 1)
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
        while True:
            log.metric("loop", 1.0, 1)
    """
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        delay = 0.05 + attempt * 0.00137
        subprocess.run([sys.executable, "-c", textwrap.dedent(code), folder, str(delay)], check=False)
        assert [record[2] for record in records(folder, Kind.METRIC)][-1] == "last"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # beside pytest-xdist's threads
def test_a_forked_child_writes_to_its_own_journal(journal: Journal, tmp_path: Path) -> None:
    """After a fork in the middle of logging, child and parent write to folders of their own."""
    log = journal.run("abc")
    children = []
    for step in range(600):
        log.metric("parent", 1.0, 1, step)
        if step % 200 == 100:
            child = os.fork()
            if child == 0:
                try:
                    for inner in range(500):
                        log.metric("child", 1.0, 1, inner)
                    os._exit(0 if log.delivery.pending == 500 else 1)
                finally:  # a child that an exception let go on would run the rest of the suite, and fork on
                    os._exit(2)
            children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    folders = sorted(lock.parent for lock in tmp_path.rglob("lock"))
    assert len(folders) == 4
    by_folder = [list(records(folder, Kind.METRIC)) for folder in folders]
    assert [record[5] for record in by_folder[0]] == list(range(600))
    assert {record[2] for record in by_folder[0]} == {"parent"}
    for found in by_folder[1:]:
        assert [(record[2], record[5]) for record in found] == [("child", step) for step in range(500)]


FORKING = """
import os, signal, sys, traceback
from pathlib import Path
from withrun.journal import Journal

log = Journal(Path(sys.argv[1]), "https://nowhere.test", mapped=sys.argv[2] == "True").run("abc")
parent, children, step = os.getpid(), [], 0

def handler(*_):
    child = os.fork()
    if child:
        children.append(child)
        # One shot at a time: a handler that interrupts this one inside os.fork() would fork there, and that
        # child, returning from it, would go on with the fork of this one.
        signal.setitimer(signal.ITIMER_REAL, 0.002 if len(children) < 10 else 0)

log.metric("first", 1.0, 1)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.002)
try:
    while os.getpid() == parent and len(children) < 10:
        log.metric("loop", 1.0, 1, step)
        step += 1
    if os.getpid() != parent:
        log.metric("child", 1.0, 1)
        os._exit(0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    print(step, len(failed), len(children))
except BaseException:
    traceback.print_exc()
    os._exit(1)
"""


@pytest.mark.parametrize("mapped", [True, False])
def test_a_fork_in_a_signal_handler_in_the_middle_of_an_append(tmp_path: Path, mapped: bool) -> None:
    """Where the fork happens inside an append, the child finishes that append in its own journal."""
    command = [sys.executable, "-c", FORKING, tmp_path, str(mapped)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    step, failed, children = map(int, done.stdout.split())
    assert failed == 0, done.stderr
    # A fork in the midst of opening leaves an empty journal behind, for recovery to sweep up.
    found = [list(records(lock.parent, Kind.METRIC)) for lock in tmp_path.rglob("lock")]
    found = sorted((journal for journal in found if journal), key=len)
    assert len(found) == children + 1
    assert [record[5] for record in found[-1][1:]] == list(range(step))
    for journal in found[:-1]:
        assert [record[2] for record in journal][-1] == "child"
        assert len(journal) <= 2


def test_a_fork_in_a_signal_handler_of_a_journal_that_is_let_go_of(tmp_path: Path) -> None:
    """Nor does a child wait for the thread by which its parent was about to let go of the journal."""
    program = FORKING.replace('== "True")', '== "True", brief=True)')
    for number in range(4):
        command = [sys.executable, "-c", program, tmp_path / str(number), "True"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[1] == "0", done.stderr


def test_a_thousand_runs_cost_no_descriptors_and_little_memory(journal: Journal) -> None:
    """Descriptors stay the same from the first to the thousandth open run, over many segments."""
    process = psutil.Process()
    logs = [journal.run(f"run-{i}") for i in range(1_000)]
    logs[0].metric("x", 1.0, 1)
    gc.collect()
    descriptors, memory = process.num_fds(), process.memory_info().rss
    for step in range(100):
        for log in logs:
            log.metric("x", 1.0, 1_700_000_000_000, step)
    assert process.num_fds() <= descriptors
    assert process.memory_info().rss - memory < 16 << 20


class TestFullDisk:
    """On a tmpfs of 1 MiB."""

    @pytest.mark.parametrize("mapped", [True, False])
    def test_it_shows_as_an_error_and_never_as_a_crash(self, small: Path, mapped: bool) -> None:
        """The append that finds no room raises JournalFull; all before it can be read back; room heals it."""
        journal = Journal(small, "https://nowhere.test", mapped=mapped)
        log = journal.run("abc")
        taken = 0
        with pytest.raises(JournalFull, match="full"):  # noqa: PT012 - the loop is the point
            for step in range(1_000_000):
                log.metric("loss", 1.0, 1_700_000_000_000, step)
                taken += 1
        assert taken > 5_000
        assert log.accepted == taken
        assert [record[5] for record in records(small, Kind.METRIC)] == list(range(taken))
        subprocess.run(["mount", "-o", "remount,size=2m", small], check=True)
        log.metric("loss", 1.0, 1_700_000_000_000, taken)
        assert [record[5] for record in records(small, Kind.METRIC)] == list(range(taken + 1))
        journal.close()

    @pytest.mark.parametrize("mapped", [True, False])
    def test_what_finds_no_room_goes_straight_to_the_store(
        self, small: Path, store_uri: str, client: Any, mapped: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """On a full disk calls of every kind arrive, once and in order; nothing counts as damaged."""
        journal = Journal(small, store_uri, connect=lambda: StoreBackend(store_uri), threads=1, mapped=mapped)
        log = journal.owned.create(intent())
        log.metric("loss", 1.0, 1, 0)
        room = shutil.disk_usage(small).free
        (small / "filler").write_bytes(bytes(room if mapped else max(room - 8_192, 0)))
        segment = segment_path(next(small.rglob("lock")).parent, 1)
        step = 0
        while log.delivery.delivered < log.accepted or step < (6_500 if mapped else 300):
            step += 1
            log.metric("loss", 1.0, 1, step)
        end = segment.stat().st_size
        for _ in range(20):
            step += 1
            log.metric("loss", 1.0, 1, step)
        log.params({"lr": "1"})
        log.tags({"team": "x"})
        assert segment.stat().st_size == end
        assert log.delivery == (step + 3, step + 3, 0, 0)
        (small / "filler").unlink()
        log.status("FINISHED", 2)
        assert journal.flush(exit_timeout=30)
        run = client.get_run(log.run_id)
        assert (run.data.params["lr"], run.data.tags["team"], run.info.status) == ("1", "x", "FINISHED")
        assert [p.step for p in client.get_metric_history(log.run_id, "loss")] == list(range(step + 1))
        assert journal.close()
        assert [entry for entry in caplog.records if entry.levelname == "ERROR"] == []

    def test_neither_room_nor_a_server(self, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the disk full and the server away the call raises, and says both."""
        monkeypatch.setattr("withrun.journal.journal._DIRECT_PATIENCE", 0.5)
        uri = f"http://127.0.0.1:{free_port()}"
        journal = Journal(small, uri, connect=lambda: rest(uri))
        log = journal.run("abc")
        with pytest.raises(JournalError, match=r"full.*written to"):  # noqa: PT012 - the loop is the point
            for step in range(100_000):
                log.metric("loss", 1.0, 1, step)
        assert log.delivery.pending == log.accepted > 5_000
        journal.close(exit_timeout=0.1)

    def test_opening_on_a_full_disk(self, small: Path) -> None:
        """A journal that can't even be opened says that the disk is full, and leaves nothing behind."""
        (small / "filler").write_bytes(bytes((1 << 20) - 8192))
        for _ in range(3):
            with pytest.raises(JournalFull, match="full"):
                Journal(small, "https://nowhere.test").run("abc").metric("x", 1.0, 1)
        fill(small)  # at another place that finds no room
        with pytest.raises(JournalFull, match="full"):
            Journal(small, "https://nowhere.test").run("abc").metric("x", 1.0, 1)
        held = [entry for entry in Path("/proc/self/fd").iterdir() if _leads_below(entry, small)]
        assert held == []
        assert [path.name for path in small.rglob("*") if path.is_dir() and path.parent != small] == []


def _leads_below(entry: Path, folder: Path) -> bool:
    try:
        return entry.readlink().is_relative_to(folder)
    except FileNotFoundError:  # closed since it was listed
        return False


def test_a_folder_that_is_deleted_meanwhile(
    tmp_path: Path, store_uri: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Logging goes on, straight to the store once the segment is full; offline it says what happened."""
    journal = Journal(tmp_path / "journal", store_uri, connect=lambda: StoreBackend(store_uri), threads=1)
    log = journal.owned.create(intent())
    log.metric("loss", 1.0, 1, 0)
    offline = Journal(tmp_path / "journal", "https://nowhere.test")
    lost = offline.run("abc")
    lost.metric("loss", 1.0, 1, 0)
    shutil.rmtree(tmp_path / "journal")
    segment, step = journal._live.writer.current, 0
    while segment.tell() + 100 < FIRST_SIZE or step % 10:
        step += 1
        log.metric("loss", 1.0, 1, step)
    for _ in range(10):
        step += 1
        log.metric("loss", 1.0, 1, step)
    log.status("FINISHED", 2)
    assert journal.close()
    assert [point.step for point in client.get_metric_history(log.run_id, "loss")] == list(range(step + 1))
    assert client.get_run(log.run_id).info.status == "FINISHED"
    assert sum("was deleted" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(JournalError, match="was deleted while it was in use"):  # noqa: PT012 - the loop is the point
        for step in range(20_000):
            lost.metric("loss", 1.0, 1, step)
    offline.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the folder and the way out."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(JournalError, match="set journal_dir"):
        Journal(blocked / "journal", "https://nowhere.test").run("abc").metric("x", 1.0, 1)


def test_folders_are_private_and_name_no_credentials(journal: Journal, tmp_path: Path) -> None:
    """Only the owner can enter a journal, or read its files."""
    journal.run("abc").metric("x", 1.0, 1)
    folder = next(tmp_path.rglob("lock")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir() if path.suffix == ".seg")


def test_reading_alone_leaves_no_trace(open_journal: MakeJournal, tmp_path: Path) -> None:
    """A journal that nothing is logged to makes no folder."""
    open_journal().run("abc")
    assert list(tmp_path.iterdir()) == []


def test_closed_journals_say_so(open_journal: MakeJournal) -> None:
    """Logging after the close is an error that says what to do."""
    journal = open_journal()
    log = journal.run("abc")
    log.metric("x", 1.0, 1)
    journal.close()
    with pytest.raises(JournalError, match="was closed"):
        log.metric("x", 1.0, 1)


def test_the_same_run_has_one_log(open_journal: MakeJournal) -> None:
    """Two handles of a run share its accounts and its order."""
    journal = open_journal()
    assert journal.run("abc") is journal.run("abc")
    local = journal.owned.create_locally(intent())
    assert journal.run(local.run_id, uid=local.run_id) is local
