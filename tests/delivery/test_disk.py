"""What a disk does to a journal: full, read-only, damaged; every intact record is delivered."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.delivery import program
from tests.servers import MlflowServer, free_port
from withrun.errors import JournalError, WithrunError

from .conftest import MakeApi, journals, steps

pytestmark = pytest.mark.slow

can_mount = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small tmpfs takes root"
)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"can't mount: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all room that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return filler


@can_mount
def test_a_full_disk_while_the_server_answers(
    small: Path, server: MlflowServer, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """What finds no room in the journal goes straight to the server: nothing raises, and nothing is lost."""
    api = open_api(server.url, journal_dir=small / "journal")
    with api.start_run(exp_id) as run:
        run.log_metric("m", 1.0, 0)
        fill(small)
        step = 0
        # Until the segment that was reserved is full, and a little on.
        while step < 200 or (run.delivery.accepted < 20_000 and not segment_is_full(small)):
            step += 1
            run.log_metric("m", 1.0, step)
        for _ in range(5):
            step += 1
            run.log_metric("m", 1.0, step)
        run.log_params({"a": 1, "b": 2})
        run.set_tag("t", "x")
        run.log_artifact(__file__, "files/test.py")
        with run.start_child() as child:
            child.log_param("a", 3)
    assert steps(client, run.id, "m") == list(range(step + 1))
    there = client.get_run(run.id)
    assert (there.info.status, there.data.params, there.data.tags["t"]) == (
        "FINISHED",
        {"a": "1", "b": "2"},
        "x",
    )
    assert client.get_run(child.id).data.params == {"a": "3"}


def segment_is_full(folder: Path) -> bool:
    """Whether the newest segment has no room for another hundred records."""
    newest = max(folder.rglob("*.seg"))
    return newest.read_bytes()[-8_000:].strip(b"\0") != b""


@can_mount
def test_a_disk_that_is_full_from_the_start(
    small: Path, server: MlflowServer, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """Where no journal can be opened a run is delivered all the same while the server answers."""
    fill(small)
    api = open_api(server.url, journal_dir=small / "journal")
    with api.start_run(exp_id) as run:
        for step in range(20):
            run.log_metric("m", 1.0, step)
        run.log_param("a", 1)
    there = client.get_run(run.id)
    assert (there.info.status, there.data.params) == ("FINISHED", {"a": "1"})
    assert steps(client, run.id, "m") == list(range(20))


@can_mount
def test_a_full_disk_and_no_server(small: Path, open_api: MakeApi) -> None:
    """Then a run that would start without the server says that the disk is full: folder and way out."""
    fill(small)
    uri = f"http://127.0.0.1:{free_port()}"
    api = open_api(uri, journal_dir=small / "journal", on_unreachable="offline", connect_timeout=0.5)
    with pytest.raises(JournalError, match=r"full.*journal_dir") as caught:
        api.start_run("0")
    assert str(small / "journal") in str(caught.value)


@pytest.mark.parametrize("place", ["journal_dir", "cache_dir", "XDG_STATE_HOME"])
def test_a_folder_that_cannot_be_written(
    place: str,
    server: MlflowServer,
    open_api: MakeApi,
    exp_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first write raises a JournalError that names the folder and `journal_dir`; reading goes on."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, because root writes to read-only folders")
    if place == "XDG_STATE_HOME":
        monkeypatch.setenv(place, str(blocked))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        api = open_api(server.url, journal_dir=None, cache_dir=None)
    elif place == "cache_dir":
        api = open_api(server.url, journal_dir=None, cache_dir=blocked)
    else:
        api = open_api(server.url, journal_dir=blocked / "journal")
    with pytest.raises(JournalError, match="journal_dir") as caught:
        api.start_run(exp_id)
    assert str(blocked) in str(caught.value)
    assert isinstance(caught.value, WithrunError)
    assert api.get_exp(exp_id).id == exp_id


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="changing the user takes root")
def test_a_read_only_state_folder(server: MlflowServer, exp_id: str, tmp_path: Path) -> None:
    """For a user who may not write there, the program ends with one clear error and no half-made journal."""
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code, out, err = program.run(
        """
        os.setuid(65534)
        try:
            api.start_run(exp)
        except withrun.errors.JournalError as error:
            say(error)
        """,
        server.url,
        exp_id,
        state / "journal",
        cache_dir=str(tmp_path / "cache"),
    )
    assert code == 0, err
    assert str(state / "journal") in out
    assert "journal_dir" in out
    assert "Permission denied" in out
    assert list(state.iterdir()) == []


LEFT = """
run = exp.start_run()
run.flush()
say(run.id)
while not Path(os.environ["GO"]).exists():
    time.sleep(0.01)
for step in range(12_000):
    run.log_metric("m", 1.0, step)
run.log_params({f"p{i}": i for i in range(50)})
os.kill(os.getpid(), 9)
"""


def leave(proxy: Any, exp_id: str, folder: Path) -> tuple[str, Path]:
    """A run, and the journal of its killed program of which the server has got nothing."""
    from tests.faultproxy import Fault

    running = program.start(LEFT, proxy.url, exp_id, folder / "journal", env={"GO": str(folder / "go")})
    run_id = running.line()
    proxy.always(Fault(reset=True))
    (folder / "go").touch()
    running.finish()
    proxy.always(None)
    [journal] = journals(folder / "journal")
    return run_id, journal


def test_damaged_segments(
    proxy: Any, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Overwritten bytes cost the records that they hit, and are reported; all others arrive."""
    run_id, journal = leave(proxy, exp_id, tmp_path)
    first = min(journal.glob("*.seg"))
    with first.open("r+b") as file:
        for place in (5_000, 90_000, 91_000):
            file.seek(place)
            file.write(os.urandom(60))
    open_api(proxy.url).flush(60)
    there = steps(client, run_id, "m")
    assert len(set(there)) == len(there)
    missing = set(range(12_000)) - set(there)
    assert 0 < len(missing) <= 15
    assert client.get_run(run_id).data.params == {f"p{i}": str(i) for i in range(50)}
    assert client.get_run(run_id).info.status == "FAILED"
    assert any(
        "damaged" in record.getMessage() and str(first) in record.getMessage() for record in caplog.records
    )
    assert journals(tmp_path / "journal") == []


def test_a_truncated_segment(proxy: Any, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path) -> None:
    """A segment that lost its end gives all records before it; the segments behind it are delivered whole."""
    run_id, journal = leave(proxy, exp_id, tmp_path)
    first = min(journal.glob("*.seg"))
    os.truncate(first, first.stat().st_size - 50_001)
    open_api(proxy.url).flush(60)
    there = steps(client, run_id, "m")
    missing = set(range(12_000)) - set(there)
    # One gap, where the end was: nothing before it, nothing behind it.
    assert missing == set(range(min(missing), max(missing) + 1))
    assert len(missing) < 50_001 / 25
    assert client.get_run(run_id).data.params == {f"p{i}": str(i) for i in range(50)}


@pytest.mark.parametrize(
    "name",
    ["runs.log", *(pytest.param(name, marks=pytest.mark.slow) for name in ("acknowledged", "origin.json"))],
)
def test_damaged_books(
    name: str, proxy: Any, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """Without its ledger, its acknowledged offset or its origin a journal is delivered all the same, once."""
    run_id, journal = leave(proxy, exp_id, tmp_path)
    (journal / name).write_bytes(os.urandom(200))
    open_api(proxy.url).flush(60)
    assert steps(client, run_id, "m") == list(range(12_000))
    assert client.get_run(run_id).data.params == {f"p{i}": str(i) for i in range(50)}
    assert journals(tmp_path / "journal") == []
