"""Claims: of those who publish versions to one place of a run, one at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.servers import clean_env
from withrun.cache.layout import Key
from withrun.errors import AlreadyExists
from withrun.services.claims import claimed

HOLD = """
import sys
from pathlib import Path
from withrun.cache.layout import Key
from withrun.services.claims import claimed
with claimed(Key("run", "a/b"), Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def claim(key: Key, locks: Path | None) -> threading.Event:
    """Claim it in a thread of its own, and let go at once; tells when it was held."""
    held = threading.Event()

    def hold() -> None:
        with claimed(key, locks):
            held.set()

    threading.Thread(target=hold, daemon=True).start()
    return held


@pytest.mark.parametrize(("path", "killed"), [("a/b", True), ("a", False), ("a/b/c", False)])
def test_between_processes(tmp_path: Path, path: str, killed: bool) -> None:
    """What overlaps a path can be claimed once the process that claimed it is done, or dead."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "locks")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_env()
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for elsewhere in (Key("run", "a/c"), Key("run", "a/bc"), Key("other", "a/b")):
            assert claim(elsewhere, tmp_path / "locks").wait(10)
        mine = claim(Key("run", path), tmp_path / "locks")
        assert not mine.wait(0.1)
        if killed:
            other.kill()
        else:
            other.communicate()
        assert mine.wait(10)


def test_between_threads(tmp_path: Path) -> None:
    """Threads wait for one another whatever the folders of their lock files; one never waits for itself."""
    with claimed(Key("run", "a"), None):
        mine = claim(Key("run", "a/b"), tmp_path)
        assert not mine.wait(0.1)
        assert claim(Key("run", "b"), tmp_path).wait(10)
        with pytest.raises(AlreadyExists, match="this very thread"), claimed(Key("run", "a"), tmp_path):
            pass
    assert mine.wait(10)


def test_where_nothing_can_be_locked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without lock files the claim holds within the process, and a warning says that it does no more."""
    (tmp_path / "file").write_text("no folder")
    with claimed(Key("run", "a"), tmp_path / "file"):
        assert "Other processes are not kept" in caplog.text
        assert not claim(Key("run", "a"), None).wait(0.1)


def test_who_waits_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Waiting for another process is logged once with what is waited for, at level INFO."""
    locks = tmp_path / "locks"
    command = [sys.executable, "-c", HOLD, str(locks)]
    with (
        caplog.at_level("INFO", "withrun"),
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_env()
        ) as other,
    ):
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        mine = claim(Key("run", "a/b"), locks)
        assert not mine.wait(0.1)
        other.communicate()
        assert mine.wait(10)
    (record,) = caplog.records
    assert "published to" in record.getMessage()


FORK = HOLD.replace(
    "    print",
    """    import os, time
    if not os.fork():
        time.sleep(60)
    print""",
)


def test_a_forked_child_holds_no_claim(tmp_path: Path) -> None:
    """Once who claimed a path is dead it can be claimed, though a child that it forked meanwhile lives on."""
    locks = tmp_path / "locks"
    command = [sys.executable, "-c", FORK, str(locks)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_env(),
        start_new_session=True,
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            mine = claim(Key("run", "a/b"), locks)
            assert not mine.wait(0.1)
            other.kill()
            assert mine.wait(10)
        finally:
            os.killpg(other.pid, signal.SIGKILL)
