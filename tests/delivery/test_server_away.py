"""Going on while the server is away: runs that are left, children, and programs that end."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from tests.delivery import program
from tests.faultproxy import Fault, FaultProxy
from tests.servers import MlflowServer, free_port
from withrun.errors import ServerUnreachable

from .conftest import MakeApi, journals, runs_tagged, steps

pytestmark = pytest.mark.slow

AWAY = Fault(reset=True)


def warnings_of(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and words in r.getMessage()
    ]


def test_leaving_says_once_what_is_kept(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Leaving waits `exit_timeout`, warns once what is kept, where and how it gets delivered, and goes on."""
    api = open_api(proxy.url, exit_timeout=0.6)
    with api.start_run(exp_id) as run:
        proxy.always(AWAY)
        for step in range(100):
            run.log_metric("m", 1.0, step)
        started = time.monotonic()
    assert 0.5 < time.monotonic() - started < 4
    [warning] = warnings_of(caplog, "kept in")
    [journal] = journals(api.journal_dir)  # type: ignore[arg-type]
    assert str(journal) in warning
    assert "withrun sync" in warning
    assert "next program" in warning
    assert run.delivery.pending > 0
    proxy.always(None)
    api.flush(30)
    assert client.get_run(run.id).info.status == "FINISHED"
    assert steps(client, run.id, "m") == list(range(100))


def test_twenty_children_left_in_a_row_wait_once(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the server away for all of them, `exit_timeout` is spent once and warned of once."""
    api = open_api(proxy.url, exit_timeout=1.0, connect_timeout=1.0)
    with api.start_run(exp_id) as parent:
        children = [parent.start_child(tags={"number": number}) for number in range(20)]
        proxy.always(AWAY)
        started = time.monotonic()
        for number, child in enumerate(children):
            with child:
                child.log_metric("m", number)
        assert time.monotonic() - started < 5
    assert len(warnings_of(caplog, "kept in")) == 1
    proxy.always(None)
    api.flush(30)
    found = runs_tagged(client, exp_id, "number")
    for number, child in enumerate(children):
        [run] = found[str(number)]
        assert (run.info.run_id, run.info.status) == (child.id, "FINISHED")
        assert run.data.metrics == {"m": number}


@pytest.mark.parametrize("away", [AWAY, Fault(status=503)], ids=["no answer", "gateway"])
def test_children_go_on_locally(
    away: Fault,
    proxy: FaultProxy,
    open_api: MakeApi,
    client: Any,
    exp_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Inside an open run children start without the server, with one warning; later all exist once."""
    api = open_api(proxy.url, exit_timeout=0.3, connect_timeout=0.5)
    with api.start_run(exp_id, tags={"who": "parent"}) as parent:
        proxy.always(away)
        started = time.monotonic()
        for number in range(5):
            with parent.start_child(f"fold-{number}", tags={"who": f"child-{number}"}) as child:
                child.log_param("number", number)
                child.log_metric("m", number, step=1)
                with api.start_run(exp_id, nested=True, tags={"who": f"grandchild-{number}"}) as grandchild:
                    grandchild.log_metric("m", 1.0)
        assert time.monotonic() - started < 6
        parent.log_param("done", True)
    assert len(warnings_of(caplog, "local IDs")) == 1
    proxy.always(None)
    api.flush(30)
    found = runs_tagged(client, exp_id, "who")
    assert {who: len(runs) for who, runs in found.items()} == {
        "parent": 1,
        **{f"{kind}-{number}": 1 for kind in ("child", "grandchild") for number in range(5)},
    }
    assert found["parent"][0].data.params == {"done": "true"}
    for number in range(5):
        [child_run], [grandchild_run] = found[f"child-{number}"], found[f"grandchild-{number}"]
        assert child_run.info.run_name == f"fold-{number}"
        assert child_run.data.params == {"number": str(number)}
        assert child_run.data.tags["mlflow.parentRunId"] == parent.id
        assert grandchild_run.data.tags["mlflow.parentRunId"] == child_run.info.run_id
        assert {run.info.status for run in (child_run, grandchild_run)} == {"FINISHED"}


def test_starting_without_a_server(open_api: MakeApi) -> None:
    """A first run raises ServerUnreachable after `connect_timeout`, and names the way to go on without."""
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnreachable):
        open_api(uri)
    api = open_api(uri, healthcheck=False, connect_timeout=0.5)
    started = time.monotonic()
    with pytest.raises(ServerUnreachable):
        api.start_run("0")
    assert time.monotonic() - started < 5


def test_a_start_that_times_out_names_the_choice(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """The error of a run that could not start names `on_unreachable`; no run of it is left on the server."""
    api = open_api(proxy.url, connect_timeout=0.5)
    exp = api.get_exp(exp_id)
    proxy.always(Fault(lose_answer=True))
    with pytest.raises(ServerUnreachable, match="on_unreachable"):
        api.start_run(exp)
    proxy.always(None)
    with api.start_run(exp) as run:
        run.log_metric("m", 1.0)
    api.flush(30)
    assert [found.info.run_id for found in client.search_runs([exp_id])] == [run.id]


def test_a_run_that_starts_offline_by_choice(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """With `on_unreachable="offline"` a run starts with a local ID, and is on the server once it is back."""
    api = open_api(proxy.url, on_unreachable="offline", connect_timeout=0.5, exit_timeout=0.3)
    exp = api.get_exp(exp_id)
    proxy.always(AWAY)
    with api.start_run(exp, "away", tags={"who": "away"}) as run:
        run.log_param("a", 1)
        for step in range(50):
            run.log_metric("m", 1.0, step)
        with run.start_child(tags={"who": "child"}) as child:
            child.log_param("a", 2)
    proxy.always(None)
    api.flush(30)
    found = runs_tagged(client, exp_id, "who")
    [there], [child_there] = found["away"], found["child"]
    assert (there.info.run_name, there.info.status) == ("away", "FINISHED")
    assert steps(client, there.info.run_id, "m") == list(range(50))
    assert child_there.data.tags["mlflow.parentRunId"] == there.info.run_id
    assert api.get_run(run.id).params == {"a": 1}


LEAVING = """
import urllib.request
with exp.start_run(tags={"who": "it"}) as run:
    for step in range(1000):
        run.log_metric("m", 1.0, step)
    say(run.id)
    sys.stdin.readline()
    for step in range(1000, 2000):
        run.log_metric("m", 1.0, step)
say("left")
"""


def test_a_program_that_ends_while_the_server_is_away(
    proxy: FaultProxy, server: MlflowServer, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """It exits 0 soon after `exit_timeout` with one warning; the next API on that store delivers the rest."""
    code = LEAVING.replace("sys.stdin.readline()", "time.sleep(0.5)")
    running = program.start(code, proxy.url, exp_id, tmp_path / "journal", exit_timeout=0.5)
    run_id = running.line()
    proxy.always(AWAY)
    started = time.monotonic()
    exit_code, out, err = running.finish()
    assert (exit_code, out.split()) == (0, ["left"]), err
    assert time.monotonic() - started < 10
    assert err.count("kept in") == 1
    [journal] = journals(tmp_path / "journal")
    assert str(journal) in err
    assert "Traceback" not in err
    proxy.always(None)
    open_api(proxy.url).flush(30)
    assert steps(client, run_id, "m") == list(range(2_000))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert journals(tmp_path / "journal") == []
