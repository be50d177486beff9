"""What ends a process: signals, exits, forks; and what processes do with each other's runs.

The programs talk to the server, so that none of them spends seconds on importing MLflow.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import withrun
from tests.servers import MlflowServer
from tests.session import program
from withrun import BaseMlflowApi, ExpApi, MlflowApi

if TYPE_CHECKING:
    from mlflow import MlflowClient

BLOCK = """
with exp.start_run() as run:
    say(run.id)
    time.sleep(30)
say("not reached")
"""


def status(client: MlflowClient, run_id: str) -> str:
    found: str = client.get_run(run_id).info.status
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_ends_the_block_killed(
    server: MlflowServer, other_exp: ExpApi, other_client: MlflowClient, number: signal.Signals
) -> None:
    """SIGTERM, with no handler of the program's, and Ctrl-C unwind blocks; their runs end KILLED."""
    running = program.start(BLOCK, server.url, other_exp.id)
    run_id = running.line()
    running.send(number)
    code, out, _ = running.finish()
    assert code in (-number, 128 + number)
    assert "not reached" not in out
    assert status(other_client, run_id) == "KILLED"


def test_sigterm_with_other_handlers(
    server: MlflowServer, other_exp: ExpApi, other_client: MlflowClient
) -> None:
    """A handler that returns, and SIG_IGN, let the program go on unaffected; each is in place again after."""
    code, out, err = program.run(
        """
        calls = []
        def handler(number, frame):
            calls.append(number)
        for chosen in (handler, signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, chosen)
            try:
                with exp.start_run() as run, run.start_child():
                    say(run.id)
                    os.kill(os.getpid(), signal.SIGTERM)
                    say("went on")
            except SystemExit as exit:
                say("exit", exit.code)
            say(signal.getsignal(signal.SIGTERM) == chosen)
        say(calls == [signal.SIGTERM])
        """,
        server.url,
        other_exp.id,
    )
    lines = out.split("\n")
    assert code == 0, err
    assert lines[1:3] == ["went on", "True"]
    assert lines[4:6] == ["went on", "True"]
    assert lines[7:10] == ["exit 143", "True", "True"]
    assert [status(other_client, lines[i]) for i in (0, 3, 6)] == ["FINISHED", "FINISHED", "KILLED"]


def test_sigterm_handlers_set_inside_blocks(
    server: MlflowServer, other_exp: ExpApi, other_client: MlflowClient
) -> None:
    """A handler that is set inside a block, and hands on to the one before, still ends it KILLED."""
    code, out, err = program.run(
        """
        def chained(number, frame):
            say("chained")
            previous(number, frame)
        with exp.start_run() as first:
            previous = signal.signal(signal.SIGTERM, chained)
        say(signal.getsignal(signal.SIGTERM) is chained)
        try:
            with exp.start_run() as second:
                say(second.id)
                os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            say("unwound")
        """,
        server.url,
        other_exp.id,
    )
    lines = out.split()
    assert code == 0, err
    assert lines[0] == "True"
    assert lines[2:] == ["chained", "unwound"]
    assert status(other_client, lines[1]) == "KILLED"


def test_sigterm_and_a_block_in_a_thread(
    server: MlflowServer, other_exp: ExpApi, other_client: MlflowClient
) -> None:
    """Blocks in threads install no handler; that of the main thread is put back after a thread's."""
    code, out, err = program.run(
        """
        entered, leave = threading.Event(), threading.Event()
        def work():
            with exp.start_run():
                entered.set()
                leave.wait()
        thread = threading.Thread(target=work)
        thread.start()
        entered.wait()
        say(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        with exp.start_run() as run:
            say(signal.getsignal(signal.SIGTERM) != signal.SIG_DFL)
        leave.set()
        thread.join()
        with exp.start_run():
            pass
        say(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        """,
        server.url,
        other_exp.id,
    )
    assert (code, out.split()) == (0, ["True", "True", "True"]), err


@pytest.mark.parametrize(
    ("last", "code", "ending"),
    [
        ("", 0, "FINISHED"),
        ("sys.exit(0)", 0, "FINISHED"),
        ("sys.exit(3)", 3, "FINISHED"),  # the exit code is told to nobody; a block sees the exception
        ("raise ValueError('x')", 1, "FAILED"),
        ("import IPython; raise ValueError('x')", 1, "FAILED"),  # imported, and no shell of it runs
        ("raise KeyboardInterrupt", None, "KILLED"),
    ],
)
def test_open_handles_at_interpreter_exit(
    server: MlflowServer,
    other_exp: ExpApi,
    other_client: MlflowClient,
    last: str,
    code: int | None,
    ending: str,
) -> None:
    """Handles still open at interpreter exit end FINISHED; after an uncaught exception as it says."""
    program_code, out, err = program.run(
        f"""
        run = exp.start_run()
        child = run.start_child()
        say(run.id, child.id)
        {last}
        """,
        server.url,
        other_exp.id,
    )
    assert code is None or program_code == code, err
    assert [status(other_client, run_id) for run_id in out.split()] == [ending] * 2


def test_forked_child_just_leaves(
    server: MlflowServer, other_exp: ExpApi, other_client: MlflowClient
) -> None:
    """A forked child that leaves an inherited block, or exits, ends none of its parent's runs."""
    code, out, err = program.run(
        """
        handle = exp.start_run("handle")
        say(handle.id)
        with withrun.start_run(nested=True) as run:
            say(run.id)
            pid = os.fork()
            if pid == 0:
                withrun.log_param("by", "child")
            else:
                os.waitpid(pid, 0)
                run.update()
                say(run.status, run.params["by"])
        if pid == 0:
            sys.exit(0)
        say(handle.update().status, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        """,
        server.url,
        other_exp.id,
    )
    lines = out.splitlines()
    assert code == 0, err
    assert lines[2:] == ["RUNNING child", "RUNNING True"]
    assert [status(other_client, run_id) for run_id in lines[:2]] == ["FINISHED"] * 2


def log_from_a_worker(run: withrun.RunApi, number: int) -> tuple[int, str]:
    """What a process pool's worker does with a handle that it was sent."""
    run.log_metric("number", number, step=number)
    with run.start_child(f"child-{number}") as child:
        withrun.log_param("number", number)
    return os.getpid(), child.id


def test_pickled_handles_in_a_process_pool(other_exp: ExpApi, other_client: MlflowClient) -> None:
    """Workers of a spawned pool log to the run whose handle they get, and start children of it."""
    with other_exp.start_run() as run:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=spawn) as pool:
            results = list(pool.map(log_from_a_worker, [run] * 3, range(3)))
        assert status(other_client, run.id) == "RUNNING"
    assert os.getpid() not in {pid for pid, _ in results}
    assert sorted(p.value for p in other_client.get_metric_history(run.id, "number")) == [0, 1, 2]
    assert {child.id: child.params["number"] for child in run.children} == {
        child_id: number for number, (_, child_id) in enumerate(results)
    }


def test_pickles(api: BaseMlflowApi, exp: ExpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """APIs and all handles pickle; a copy is equal, shares one API, and reaches the same store."""
    run = exp.create_run(tags={"a": {"b": [1]}})
    model = api.get_or_create_model(exp.name)
    copies: list[Any] = [pickle.loads(pickle.dumps(handle)) for handle in (exp, run, model)]
    assert copies == [exp, run, model]
    assert copies[0].api is copies[1].api is copies[2].api
    assert copies[1].update().tags["a"] == {"b": [1]}
    assert pickle.loads(pickle.dumps(api)).store_uri == api.store_uri


def test_nothing_shows_credentials(server: MlflowServer, request: pytest.FixtureRequest) -> None:
    """No password, token or header shows in a pickle, a repr or an error of API or handles."""
    secrets = {"token": "sec-token", "headers": {"X-Key": "sec-header"}}
    host = server.url.removeprefix("http://")
    stack = contextlib.ExitStack()
    request.addfinalizer(stack.close)
    for uri, settings in (
        (f"http://user:sec-url@{host}", {}),
        (server.url, {"username": "u", "password": "sec-password"}),
        (server.url, secrets),
    ):
        api = MlflowApi(tracking_uri=uri, client_settings=settings)
        stack.enter_context(api)
        exp = api.get_exp("0")
        texts = [repr(api), str(api), repr(exp), api.store_uri, exp.url, repr(withrun.session(api))]
        texts += [str(pickle.dumps(thing)) for thing in (api, exp)]
        for wrong in (
            lambda api=api: api.get_exp("987654"),
            lambda api=api: api.get_run("0" * 32),
            lambda uri=uri: MlflowApi(tracking_uri=uri, client_setings={}),
            lambda settings=settings: MlflowApi(tracking_uri=1, client_settings=settings),
        ):
            with pytest.raises(withrun.errors.WithrunError) as caught:
                wrong()
            texts.append(str(caught.value) + repr(caught.value.__cause__))
        assert [text for text in texts if "sec-" in text] == []
        assert pickle.loads(pickle.dumps(exp)) == exp
