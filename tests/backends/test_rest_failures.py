"""What RestBackend does when the server, or what claims to be one, misbehaves."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest

from tests.backends.rude import Answer, hang_up, refusal, reply, reset, rude_server, silence
from tests.servers import free_port
from withrun.backend import REPLAY_SAFE, KeyValue, Metric
from withrun.errors import NotFound, ServerError, ServerUnreachable, WithrunError
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.settings import ClientSettings

Call = Callable[[RestBackend], object]

RUN = """{
    "run": {"info": {"run_id": "abc", "experiment_id": "1"}},
    "model_version": {"name": "m", "version": "1"}
}"""
LOGIN = reply(200, "<!doctype html><title>Sign in</title>", Content_Type="text/html")

CREATING: list[Call] = [
    lambda b: b.create_run("1", run_name="r", start_time=1),
    lambda b: b.create_experiment("e"),
    lambda b: b.create_model("m"),
    lambda b: b.create_version("m", "s3://x/y"),
]
REPEATABLE: dict[str, Call] = {
    "get_run": lambda b: b.get_run("abc"),
    "search_runs": lambda b: b.search_runs(("1",)),
    "log_batch": lambda b: b.log_batch("abc", metrics=(Metric("m", 1.0),)),
    "update_run": lambda b: b.update_run("abc", status="FAILED"),
    "set_experiment_tag": lambda b: b.set_experiment_tag("1", "k", "v"),
    "delete_experiment_tag": lambda b: b.delete_experiment_tag("1", "k"),
    "set_model_tag": lambda b: b.set_model_tag("m", "k", "v"),
    "delete_model_tag": lambda b: b.delete_model_tag("m", "k"),
    "set_version_tag": lambda b: b.set_version_tag("m", "1", "k", "v"),
    "delete_version_tag": lambda b: b.delete_version_tag("m", "1", "k"),
    "set_alias": lambda b: b.set_alias("m", "a", "1"),
    "delete_alias": lambda b: b.delete_alias("m", "a"),
    "delete_tag": lambda b: b.delete_tag("abc", "k"),
    "log_inputs": lambda b: b.log_inputs("abc", ()),
    "delete_version": lambda b: b.delete_version("m", "1"),
}
PASSING: list[Answer] = [
    reset,
    hang_up,
    silence,
    reply(500, "oops"),
    reply(502, "<html>Bad gateway</html>"),
    refusal(503, "TEMPORARILY_UNAVAILABLE"),
    refusal(429, "REQUEST_LIMIT_EXCEEDED"),
]


def _backend(url: str, **settings: object) -> RestBackend:
    return RestBackend(url, ClientSettings.model_validate({"timeout": 0.5, "connect_timeout": 2} | settings))


@pytest.mark.parametrize("failure", PASSING)
def test_reads_are_repeated(failure: Answer) -> None:
    """A read survives two failures of any passing kind (a silence uses up the time that there is)."""
    with rude_server(failure, failure, reply(200, RUN)) as server:
        backend = _backend(server.url)
        if failure is silence:
            with pytest.raises(ServerUnreachable, match="no answer within"):
                backend.get_run("abc")
        else:
            assert backend.get_run("abc").run_id == "abc"
            assert len(server.requests) == 3


def test_replay_safe_covers_the_protocol() -> None:
    """Every call that the protocol calls replay-safe is in this module's list, and no creating one is."""
    assert set(REPEATABLE) >= REPLAY_SAFE
    assert not any(name.startswith("create") for name in REPLAY_SAFE)


@pytest.mark.parametrize("call", REPEATABLE.values(), ids=REPEATABLE)
def test_replay_safe_writes_are_repeated(call: Call) -> None:
    """A replay-safe call is sent again after an answer got lost, with the same body."""
    with rude_server(hang_up, reply(500), reply(200, RUN)) as server:
        call(_backend(server.url))
        first, second, third, *_ = server.requests
        assert first == second == third


@pytest.mark.parametrize("failure", PASSING)
@pytest.mark.parametrize("call", CREATING)
def test_creating_calls_are_sent_once(call: Call, failure: Answer) -> None:
    """A creating call is never sent again once it may have arrived, whatever comes back."""
    with rude_server(failure) as server:
        with pytest.raises((ServerUnreachable, ServerError)):
            call(_backend(server.url))
        assert len(server.requests) == 1


def test_a_refused_connection_is_tried_again() -> None:
    """A creating call too waits for a server that is just starting, since nothing was sent."""
    port = free_port()
    backend = _backend(f"http://127.0.0.1:{port}", retries=1)
    with pytest.raises(ServerUnreachable, match="can't connect") as caught:
        backend.create_experiment("e")
    assert f"http://127.0.0.1:{port}" in str(caught.value)


def test_connecting_ends_in_time() -> None:
    """A server that swallows packets is unreachable after the connect timeout, attempts included."""
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # more than the queue holds: the system drops what else asks to connect
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        backend = _backend(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.6, timeout=30)
        started = time.monotonic()
        with pytest.raises(ServerUnreachable, match="can't connect"):
            backend.server_info()
        assert 0.5 < time.monotonic() - started < 2


def test_retries_end() -> None:
    """A lasting failure is reported after the configured number of repeats, with status and code."""
    with rude_server(refusal(503, "TEMPORARILY_UNAVAILABLE", "down for maintenance")) as server:
        with pytest.raises(ServerError, match="down for maintenance") as caught:
            _backend(server.url, retries=2, timeout=5).get_run("abc")
        assert (caught.value.status, caught.value.code) == (503, "TEMPORARILY_UNAVAILABLE")
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 501])
def test_refusals_are_not_repeated(status: int) -> None:
    """A call that was refused is not sent again."""
    with rude_server(refusal(status, "SOME_CODE")) as server:
        with pytest.raises(ServerError):
            _backend(server.url).get_run("abc")
        assert len(server.requests) == 1


def test_retry_after_is_waited_for() -> None:
    """The server's Retry-After sets the pause before the next attempt."""
    with rude_server(refusal(429, "REQUEST_LIMIT_EXCEEDED", Retry_After="1"), reply(200, RUN)) as server:
        started = time.monotonic()
        _backend(server.url, timeout=5).get_run("abc")
        assert 1 <= time.monotonic() - started < 2
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3600", 3600.0),
        (" 60 ", 60.0),
        ("10000000000", 1e10),
        ("9" * 400, None),
        ("soon", None),
        ("-5", None),
        ("\N{SUPERSCRIPT TWO}", None),
        ("", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999999 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_told(value: str, seconds: float | None) -> None:
    """A pause longer than the timeout is left to the caller, who learns of it from the error."""
    with rude_server(refusal(503, "X", Retry_After=value)) as server:
        with pytest.raises(ServerError) as caught:
            _backend(server.url, retries=1).get_run("abc")
        assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    "answer",
    [
        LOGIN,
        reply(200, "{not json"),
        reply(200, b"\xff\xfe"),
        reply(200, ""),
        reply(200, "[]"),
        reply(200, '{"run": null}'),
        reply(200, '{"run": {"info": {"run_id": 7, "experiment_id": "1"}}}'),
        reply(200, "[" * 100_000),
    ],
)
def test_garbage(answer: Answer) -> None:
    """An answer that is not MLflow's is a ServerError, not a crash, whatever it holds."""
    with rude_server(answer) as server, pytest.raises(ServerError, match="MLflow"):
        _backend(server.url).get_run("abc")


@pytest.mark.parametrize(
    "answer", [LOGIN, reply(404, "<html>Not Found"), reply(200, "it works!"), reply(404, "{}")]
)
def test_no_mlflow_server(answer: Answer) -> None:
    """The health check of a web server that is no MLflow says so."""
    with rude_server(answer) as server, pytest.raises(ServerError, match="MLflow server"):
        _backend(server.url).server_info()


def test_server_without_version() -> None:
    """A server that hides its version but answers as MLflow does is healthy, and taken for an old one."""
    hidden = reply(404, "<html>Not Found")
    missing = refusal(404, "RESOURCE_DOES_NOT_EXIST")
    with rude_server(hidden, missing) as server:
        assert _backend(server.url).server_info().version == ""
    with rude_server(hidden, missing, reply(200, "{}")) as server:
        assert not _backend(server.url).grammar.null_checks


def test_old_server() -> None:
    """A server of MLflow 2 isn't asked what it can't answer; its experiments tell that it has a database."""
    experiments = reply(200, '{"experiments": [{"experiment_id": "1", "name": "x"}]}')
    with rude_server(reply(200, "2.9.2"), reply(200, "2.9.2"), experiments) as server:
        backend = _backend(server.url)
        assert backend.server_info().version == "2.9.2"
        assert [request.path for request in server.requests] == ["/version"]
        assert not backend.grammar.null_checks
        assert backend.grammar.like_spans_lines


def test_history_without_pages() -> None:
    """From a server that knows no pages the whole history comes as one."""
    body = '{"metrics": [{"key": "m", "value": "NaN", "timestamp": "5", "step": "1"}]}'
    with rude_server(reply(200, body)) as server:
        page = _backend(server.url).metric_history("abc", "m")
    assert (len(page.items), page.next_token, page.items[0].timestamp) == (1, "", 5)


def test_missing_call() -> None:
    """A call that the server doesn't know is a ServerError that suspects the version."""
    with rude_server(reply(404, "<html>Not Found")) as server, pytest.raises(ServerError, match="version"):
        _backend(server.url).delete_experiment_tag("1", "k")
    with (
        rude_server(reply(404, "<html>Not Found")) as server,
        pytest.raises(NotFound, match="no logged models"),
    ):
        _backend(server.url).get_logged_model("m-1")


def test_hostile_words_are_tamed() -> None:
    """What a server says appears on one line, cut, and without control characters."""
    words = "\\u001b[2J" + "x" * 5_000 + "\\n" * 50
    with rude_server(refusal(400, "BAD_REQUEST", words)) as server, pytest.raises(WithrunError) as caught:
        _backend(server.url).log_batch("abc", tags=(KeyValue("a", "b"),))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000
