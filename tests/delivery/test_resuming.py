"""Runs that are resumed while what was logged to them before is still on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.delivery import program
from tests.faultproxy import Fault, FaultProxy
from tests.servers import MlflowServer
from withrun import RunStatus
from withrun.errors import ServerUnreachable
from withrun.journal.folder import JournalFolder

from .conftest import MakeApi, journals, steps

KILLED = """
run = api.start_run(exp)
say(run.id)
run.flush()
for step in range(3000):
    run.log_metric("m", step, step)
run.set_tag("stage", "old")
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def killed(server: MlflowServer, exp_id: str, tmp_path: Path) -> str:
    """A run whose process was killed, with much of it still to be delivered."""
    return program.run(KILLED, server.url, exp_id, tmp_path / "journal")[1].strip()


def test_resumed_after_a_crash(
    killed: str, server: MlflowServer, open_api: MakeApi, client: Any, tmp_path: Path
) -> None:
    """Inside the block it is RUNNING, this process's, and newer than what came before; it stays so."""
    api = open_api(server.url)
    with api.resume_run(killed) as run:
        assert client.get_run(killed).data.tags["withrun.owner"] == api.services.writes.journal.owner
        run.set_tag("stage", "new")
        assert api.get_run(run).status is RunStatus.RUNNING
        api.flush()
        found = client.get_run(killed)
        assert (found.info.status, found.data.tags["stage"]) == ("RUNNING", "new")
    found = client.get_run(killed)
    assert (found.info.status, found.data.tags["stage"]) == ("FINISHED", "new")
    assert steps(client, killed, "m") == list(range(3000))
    api.close()
    assert journals(tmp_path / "journal") == []


def test_resumed_while_nothing_moves(
    killed: str, server: MlflowServer, open_api: MakeApi, client: Any, tmp_path: Path
) -> None:
    """If what comes first is not delivered, the program goes on, is told why, and all arrives in order."""
    [before] = journals(tmp_path / "journal")
    held = JournalFolder.take(before)
    assert held is not None
    api = open_api(server.url, connect_timeout=0.2, exit_timeout=0.4)
    with api.resume_run(killed) as run:
        run.set_tag("stage", "new")
        with pytest.raises(TimeoutError, match=before.name):
            run.flush(timeout=0.5)
        held.release()
        api.flush(30)
        found = client.get_run(killed)
        assert (found.info.status, found.data.tags["stage"]) == ("RUNNING", "new")
    assert client.get_run(killed).info.status == "FINISHED"
    assert steps(client, killed, "m") == list(range(3000))


def test_an_answer_that_is_lost_while_resuming(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """A run that the server set RUNNING, though the caller was told of a failure, is ended by recovery."""
    api = open_api(proxy.url, connect_timeout=0.5)
    with api.start_run(exp_id) as run:
        pass
    proxy.times(50, Fault(lose_answer=True), path="runs/update")
    with pytest.raises(ServerUnreachable):
        api.resume_run(run.id)
    proxy.always(None)
    assert client.get_run(run.id).info.status == "RUNNING"
    api.close()
    open_api(proxy.url).flush(20)
    assert client.get_run(run.id).info.status == "FAILED"
    assert journals(tmp_path / "journal") == []
