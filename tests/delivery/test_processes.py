"""What ends a process, forks it or is its child: all values that were logged arrive, and none twice.

Programs talk to a server, unless they say otherwise, so that none of them spends seconds on importing MLflow.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.delivery import program
from tests.faultproxy import Fault, FaultProxy
from tests.servers import MlflowServer

from .conftest import MakeApi, journals, runs_tagged, steps

pytestmark = pytest.mark.slow

LOGGED = 1_200

LOGGING = f"""
run = exp.start_run(tags={{"who": "it"}})
for step in range({LOGGED}):
    run.log_metric("m", step / 7, step)
run.log_params({{f"p{{i}}": i for i in range(150)}})
"""

ENDINGS = {
    "end": ("", 0, "FINISHED"),
    "sys.exit": ("sys.exit(0)", 0, "FINISHED"),
    "sys.exit in a block": ("with run: sys.exit(3)", 3, "FAILED"),
    "exception": ("raise ValueError('x')", 1, "FAILED"),
    "sys.exit in a thread's block": (
        """
def work():
    with exp.start_run(tags={"who": "thread"}) as own:
        own.log_metric("m", 1.0)
        sys.exit(1)
thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
        0,
        "FINISHED",
    ),
}


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_interpreter_exit(
    ending: str, server: MlflowServer, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """However a program ends, all that it logged is on the server when it has; no journal is left."""
    last, expected, status = ENDINGS[ending]
    code, _, err = program.run(LOGGING + last, server.url, exp_id, tmp_path / "journal")
    assert code == expected, err
    [run] = runs_tagged(client, exp_id, "who")["it"]
    assert run.info.status == status
    assert steps(client, run.info.run_id, "m") == list(range(LOGGED))
    assert len(run.data.params) == 150
    assert journals(tmp_path / "journal") == []


BLOCK = f"""
try:
    with exp.start_run(tags={{"who": "it"}}) as run, run.start_child(tags={{"who": "child"}}) as child:
        for step in range({LOGGED}):
            run.log_metric("m", 1.0, step)
            child.log_metric("m", 1.0, step)
        say("logged")
        time.sleep(60)
finally:
    say("unwound")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_in_a_block(
    number: signal.Signals, server: MlflowServer, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """The blocks unwind, their runs end KILLED, and all values are on the server before the process ends."""
    running = program.start(BLOCK, server.url, exp_id, tmp_path / "journal")
    assert running.line() == "logged"
    running.send(number)
    code, out, err = running.finish()
    assert (code, out.split()) == (143 if number == signal.SIGTERM else -number, ["unwound"]), err
    found = runs_tagged(client, exp_id, "who")
    for who in ("it", "child"):
        [run] = found[who]
        assert run.info.status == "KILLED"
        assert steps(client, run.info.run_id, "m") == list(range(LOGGED))
    assert journals(tmp_path / "journal") == []


def test_a_second_ctrl_c_ends_the_wait(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """While the first waits for a server that is away, the second lets the program end; all is kept."""
    running = program.start(BLOCK, proxy.url, exp_id, tmp_path / "journal", exit_timeout=60)
    assert running.line() == "logged"
    proxy.always(Fault(reset=True))
    running.send(signal.SIGINT)
    time.sleep(1.0)
    assert running.process.poll() is None
    running.send(signal.SIGINT)
    started = time.monotonic()
    code, _, err = running.finish()
    assert code == -signal.SIGINT, err
    assert time.monotonic() - started < 10
    assert err.count("kept in") == 1, err
    proxy.always(None)
    open_api(proxy.url).flush(30)
    found = runs_tagged(client, exp_id, "who")
    for who in ("it", "child"):
        [run] = found[who]
        assert run.info.status in ("KILLED", "FAILED")
        assert steps(client, run.info.run_id, "m") == list(range(LOGGED))
    assert found["child"][0].info.status == "KILLED"


FORKS = f"""
def log(run, first):
    for step in range(first, first + {LOGGED}):
        run.log_metric("m", 1.0, step)

# The parent logs all the time, in a thread of its own, so that its drain is in the middle of something.
run = exp.start_run(tags={{"who": "parent"}})
busy = threading.Thread(target=log, args=(run, 0))
busy.start()
children = []
for number in range(1, 4):
    time.sleep(0.02)
    pid = os.fork()
    if pid == 0:
        try:
            log(run, number * {LOGGED})
            with api.start_run(exp, parent=run, tags={{"who": f"child-{{number}}"}}) as own:
                log(own, 0)
            api.flush(60)
            code = 0
        except BaseException:
            logging.exception("in a child")
            code = 1
        finally:
            os._exit(code)
    children.append(pid)
busy.join()
say(*[os.waitpid(pid, 0)[1] for pid in children])
with run:
    pass
"""


@pytest.mark.parametrize("through", ["server", "sqlite"])
def test_forks_in_the_middle_of_logging(
    through: str, server: MlflowServer, open_api: MakeApi, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """Forked children log to their parent's run and to own ones while it logs; every value arrives once."""
    from mlflow import MlflowClient

    uri = server.url
    if through == "sqlite":
        uri, exp_id = f"sqlite:///{tmp_path}/mlflow.db", "0"
        client = MlflowClient(uri)
    code, out, err = program.run(FORKS, uri, exp_id, tmp_path / "journal")
    assert (code, out.split()) == (0, ["0", "0", "0"]), err
    # What a child could only journal, because its parent was in the middle of a call, others deliver.
    open_api(uri).flush(60)
    found = runs_tagged(client, exp_id, "who")
    [parent] = found["parent"]
    assert steps_there(client, parent) == list(range(4 * LOGGED))
    assert parent.info.status == "FINISHED"
    for number in range(1, 4):
        [own] = found[f"child-{number}"]
        assert steps_there(client, own) == list(range(LOGGED))
        assert own.info.status == "FINISHED"
        assert own.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert journals(tmp_path / "journal") == []


def steps_there(client: Any, run: Any) -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run.info.run_id, "m"))


WORKERS = """
import multiprocessing

def work(run, number):
    # Logs and returns: neither flush nor end. Children of multiprocessing skip `atexit`.
    for step in range(1000):
        run.log_metric("m", 1.0, number * 1000 + step)
    own = run.start_child(tags={"who": f"child-{number}"})
    own.log_param("number", number)
    if number == 2:
        raise ValueError("on purpose")

if __name__ == "__main__":
    with exp.start_run(tags={"who": "parent"}) as run:
        context = multiprocessing.get_context(sys.argv[1])
        workers = [context.Process(target=work, args=(run, number)) for number in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        say(*[worker.exitcode for worker in workers])
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_that_log_and_return(
    method: str, server: MlflowServer, client: Any, exp_id: str, tmp_path: Path
) -> None:
    """Their values are on the server when they have ended, and their open runs end as they did."""
    module = tmp_path / "workers.py"
    module.write_text(program.PREAMBLE + WORKERS)
    code, out, err = program.start(
        f"import subprocess as s; s.run([sys.executable, {str(module)!r}, {method!r}], check=True)",
        server.url,
        exp_id,
        tmp_path / "journal",
    ).finish()
    assert (code, out.split()) == (0, ["0", "0", "1"]), err
    found = runs_tagged(client, exp_id, "who")
    [parent] = found["parent"]
    assert parent.info.status == "FINISHED"
    assert steps_there(client, parent) == list(range(3_000))
    for number, status in enumerate(("FINISHED", "FINISHED", "FAILED")):
        [own] = found[f"child-{number}"]
        assert own.data.params == {"number": str(number)}
        assert own.info.status == status
    assert journals(tmp_path / "journal") == []
