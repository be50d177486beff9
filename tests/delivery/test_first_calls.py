"""The calls before a run has started, where the server accepts connections and answers nothing, or fails."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faultproxy import Fault, FaultProxy
from withrun import MlflowApi
from withrun.errors import ServerError, ServerUnreachable

pytestmark = pytest.mark.slow

MakeApi = Callable[..., MlflowApi]
Start = Callable[[MlflowApi, str], Any]

SETTINGS = {"timeout": 30.0, "connect_timeout": 10.0}
PATIENCE = 1.5

STARTS: dict[str, Start] = {
    "start_run": lambda api, _: api.start_run("0"),
    "get_or_create_exp": lambda api, name: api.get_or_create_exp(name),
    "get_or_create_model": lambda api, name: api.get_or_create_model(name),
}


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_silent_server_is_given_up(start: Start, silent: str, open_api: MakeApi) -> None:
    """After `connect_timeout`, and not the client's own, the call raises ServerUnreachable."""
    conf: dict[str, Any] = {"connect_timeout": PATIENCE, "client_settings": SETTINGS}
    api = open_api(silent, healthcheck=False, exit_timeout=0.2, **conf)
    started = time.monotonic()
    with pytest.raises(ServerUnreachable):
        start(api, "x")
    assert PATIENCE - 0.2 < time.monotonic() - started < PATIENCE + 1.5


def test_the_healthcheck_gives_a_silent_server_up(silent: str, open_api: MakeApi) -> None:
    """Making an API takes no longer than `connect_timeout` either."""
    started = time.monotonic()
    with pytest.raises(ServerUnreachable, match=r"no answer within the 1\.5 s"):
        open_api(silent, connect_timeout=PATIENCE, client_settings=SETTINGS)
    assert time.monotonic() - started < PATIENCE + 1.5


def test_a_creating_call_without_an_answer_is_given_up(
    proxy: FaultProxy, open_api: MakeApi, client: Any, exp_id: str
) -> None:
    """Where the reads are answered and the creation is not, the start raises; no run of it stays."""
    api = open_api(proxy.url, connect_timeout=PATIENCE, client_settings=SETTINGS)
    proxy.plan = lambda _method, path: Fault(delay=4) if "runs/create" in path else None
    started = time.monotonic()
    with pytest.raises(ServerUnreachable, match="on_unreachable"):
        api.start_run(exp_id)
    assert time.monotonic() - started < PATIENCE + 1.5
    proxy.always(None)
    time.sleep(4)  # the attempt arrives late
    with api.start_run(exp_id, name="another"):
        pass
    api.close()
    assert [run.info.run_name for run in client.search_runs([exp_id])] == ["another"]


def test_a_silent_server_starts_nothing_twice_over(silent: str, open_api: MakeApi) -> None:
    """With `on_unreachable="offline"` all goes on locally, and what follows does not wait as long again."""
    api = open_api(
        silent,
        connect_timeout=PATIENCE,
        client_settings=SETTINGS,
        exit_timeout=0.2,
        on_unreachable="offline",
    )
    started = time.monotonic()
    run = api.start_run("0")
    assert time.monotonic() - started < PATIENCE + 1.5
    run.log_metric("m", 1.0)
    assert api.get_or_create_exp("x").name == "x"
    assert time.monotonic() - started < 2 * PATIENCE + 2.5


def test_an_answer_that_never_ends_is_given_up(open_api: MakeApi) -> None:
    """A server that sends a byte now and then is as good as silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    for byte in b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 1_000:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.3)
                except OSError:
                    return

        threading.Thread(target=trickle, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        api = open_api(url, connect_timeout=PATIENCE, client_settings=SETTINGS, healthcheck=False)
        started = time.monotonic()
        with pytest.raises(ServerUnreachable):
            api.get_or_create_exp("x")
        assert time.monotonic() - started < PATIENCE + 1.5


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(status=500), Fault(status=404)], ids=lambda f: str(f.status)
)
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_failing_server_starts_locally_by_choice(
    start: Start, fault: Fault, proxy: FaultProxy, open_api: MakeApi
) -> None:
    """With `on_unreachable="offline"` a server that fails counts as one that is away; else it raises."""
    choice: dict[str, Any] = {"connect_timeout": PATIENCE, "exit_timeout": 0.2, "healthcheck": False}
    name = f"n-{time.monotonic_ns()}"
    proxy.always(fault)
    with pytest.raises((ServerError, ServerUnreachable)):
        start(open_api(proxy.url, **choice), name)
    api = open_api(proxy.url, on_unreachable="offline", **choice)
    made = start(api, name)
    proxy.always(None)
    api.flush(20)
    assert made is not None
    api.close()


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_missing_credentials_raise(start: Start, proxy: FaultProxy, open_api: MakeApi) -> None:
    """Refused credentials are no absence of the server: they are told before anything starts."""
    api = open_api(proxy.url, on_unreachable="offline", connect_timeout=PATIENCE)
    proxy.always(Fault(status=401))
    with pytest.raises(ServerError, match="credentials"):
        start(api, "x")
    proxy.always(None)


@pytest.mark.parametrize("by_id", [False, True], ids=["known", "by ID"])
def test_credentials_that_expire_inside_a_run_start_children_locally(
    by_id: bool,
    proxy: FaultProxy,
    open_api: MakeApi,
    client: Any,
    exp_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Training goes on, with a warning that says why; all is delivered when they are taken again."""
    api = open_api(proxy.url, connect_timeout=PATIENCE, exit_timeout=0.2)
    exp = api.get_exp(exp_id)
    with api.start_run(exp, name="parent") as parent:
        parent.flush()
        proxy.always(Fault(status=401))
        with api.start_run(exp_id if by_id else exp, name="child", nested=True) as child:
            child.log_param("lr", 0.1)
    assert "credentials" in caplog.text
    proxy.always(None)
    api.flush(30)
    runs = {run.info.run_name: run for run in client.search_runs([exp_id])}
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
        ("parent", "child"), "FINISHED"
    )
    assert runs["child"].data.params == {"lr": "0.1"}
    assert runs["child"].data.tags["mlflow.parentRunId"] == parent.id
