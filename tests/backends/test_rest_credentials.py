"""Credentials: where they come from, where they go, and where they never show."""

from __future__ import annotations

import base64
import pickle
import threading

import httpx
import pytest
from pydantic import ValidationError

from tests.backends.rude import Answer, Request, hang_up, refusal, reply, rude_server
from withrun.errors import InvalidArgument, ServerError, WithrunError
from withrun.providers.mlflow.rest import RestBackend
from withrun.providers.mlflow.server_url import parse_server_url
from withrun.providers.mlflow.settings import ClientSettings

RUN = reply(200, '{"run": {"info": {"run_id": "abc", "experiment_id": "1"}}}')
SECRET = "s3cr3t-w0rd"


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("settings", "userinfo", "expected"),
    [
        ({"token": SECRET}, "", f"Bearer {SECRET}"),
        ({"token": lambda: SECRET}, "", f"Bearer {SECRET}"),
        ({"username": "me", "password": SECRET}, "", _basic("me", SECRET)),
        ({}, f"me:{SECRET}%40%3A@", _basic("me", f"{SECRET}@:")),
        ({}, "me@", _basic("me", "")),
    ],
)
def test_they_are_sent(settings: dict[str, object], userinfo: str, expected: str) -> None:
    """Tokens, passwords and the URL's user information arrive as an Authorization header."""
    with rude_server(RUN) as server:
        backend = RestBackend(
            server.url.replace("//", f"//{userinfo}"), ClientSettings.model_validate(settings)
        )
        backend.get_run("abc")
        assert server.requests[0].headers["authorization"] == expected
        assert backend.store_uri == server.url


def test_headers_are_sent() -> None:
    """Configured headers go along with every request, also with those made by way of `http`."""
    with rude_server(RUN) as server:
        backend = RestBackend(server.url, ClientSettings(headers={"X-Key": SECRET}))  # type: ignore[dict-item]
        backend.get_run("abc")
        backend.http.get("api/2.0/mlflow-artifacts/artifacts/x")
        assert [r.headers["x-key"] for r in server.requests] == [SECRET, SECRET]
        assert server.requests[1].path == "/api/2.0/mlflow-artifacts/artifacts/x"


def test_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither MLflow's variables, nor a proxy's, nor a netrc file have an effect."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    with rude_server(RUN) as server:
        RestBackend(server.url).get_run("abc")
        assert "authorization" not in server.requests[0].headers


def test_expired_token_is_renewed_once() -> None:
    """On 401 the token function is asked again, and the call, a creating one too, is sent a second time."""
    tokens = iter(["old", "new", "newer"])
    with rude_server(reply(401), reply(200, '{"experiment_id": "5"}'), RUN) as server:
        backend = RestBackend(server.url, ClientSettings(token=lambda: next(tokens)))
        assert backend.create_experiment("e") == "5"
        backend.get_run("abc")
        sent = [request.headers["authorization"] for request in server.requests]
        assert sent == ["Bearer old", "Bearer new", "Bearer new"]
        assert server.requests[0].body == server.requests[1].body


def test_token_that_stays_refused() -> None:
    """A second 401 is an error; the token function is not asked for ever."""
    calls: list[int] = []

    def token() -> str:
        calls.append(1)
        return f"t{len(calls)}"

    with rude_server(refusal(401, "UNAUTHENTICATED")) as server:
        with pytest.raises(ServerError) as caught:
            RestBackend(server.url, ClientSettings(token=token)).get_run("abc")
        assert caught.value.status == 401
        assert (len(server.requests), len(calls)) == (2, 2)


def test_threads_renew_a_token_once() -> None:
    """Eight threads whose token has expired get a new one by one call of the function."""
    calls: list[int] = []
    barrier = threading.Barrier(8)

    def token() -> str:
        calls.append(1)
        return f"t{len(calls)}"

    def choose(request: Request) -> Answer:
        return reply(401) if request.headers["authorization"] == "Bearer t1" else RUN

    with rude_server(choose=choose) as server:
        backend = RestBackend(server.url, ClientSettings(token=token))

        def work() -> None:
            barrier.wait()
            backend.get_run("abc")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(calls) == 2


@pytest.mark.parametrize("bad", [None, 7, "", "line\nbreak"])
def test_unusable_token(bad: object) -> None:
    """A token function that returns no usable token is an error that doesn't show what it returned."""
    with rude_server(RUN) as server:
        backend = RestBackend(server.url, ClientSettings(token=lambda: bad))  # type: ignore[arg-type,return-value]
        with pytest.raises(InvalidArgument, match="token function"):
            backend.get_run("abc")
        assert server.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_redirect_to_another_host(status: int, method: str) -> None:
    """A redirect to another server is not followed, so that it sees neither credentials nor data."""
    with rude_server(RUN) as other, rude_server(reply(status, Location=f"{other.url}/?q={SECRET}")) as server:
        settings = ClientSettings(token=SECRET, headers={"X-Key": SECRET})  # type: ignore[arg-type,dict-item]
        backend = RestBackend(server.url, settings)
        with pytest.raises(ServerError, match="redirect") as caught:
            backend.get_run("abc") if method == "GET" else backend.create_experiment("e")
        assert other.requests == []
        assert SECRET not in str(caught.value)
        assert other.url in str(caught.value)


@pytest.mark.parametrize("status", [307, 308])
def test_redirect_within_the_server(status: int) -> None:
    """A redirect within the server that keeps the method is followed, with credentials and body."""
    moved = reply(status, Location="/moved")
    with rude_server(moved, reply(200, '{"experiment_id": "5"}')) as server:
        backend = RestBackend(server.url, ClientSettings(token=SECRET))  # type: ignore[arg-type]
        assert backend.create_experiment("e") == "5"
        first, second = server.requests
        assert (second.method, second.path, second.body) == ("POST", "/moved", first.body)
        assert second.headers["authorization"] == f"Bearer {SECRET}"


def test_redirect_that_would_drop_the_body() -> None:
    """A redirect that would turn a write into a read is an error."""
    with rude_server(reply(302, Location="/login")) as server, pytest.raises(ServerError, match="redirect"):
        RestBackend(server.url).create_experiment("e")


def test_redirects_end() -> None:
    """Redirects in a circle end in an error."""
    with rude_server(reply(307, Location="/again")) as server:
        with pytest.raises(ServerError, match="redirected"):
            RestBackend(server.url).get_run("abc")
        assert len(server.requests) < 10


def test_other_hosts_get_no_credentials() -> None:
    """The shared client sends no credentials to another server (a pre-signed upload, say)."""
    with rude_server(RUN) as other, rude_server(RUN) as server:
        settings = ClientSettings(token=SECRET, headers={"X-Key": SECRET})  # type: ignore[arg-type,dict-item]
        RestBackend(server.url, settings).http.put(f"{other.url}/bucket", content=b"x")
        assert SECRET not in str(other.requests)


def test_secrets_show_nowhere() -> None:
    """Neither reprs nor errors hold a secret, not even when the server repeats it."""
    words = f"bad token {SECRET} and {_basic('me', SECRET)}"
    with rude_server(refusal(400, "BAD_REQUEST", words)) as server:
        url = server.url.replace("//", f"//me:{SECRET}@")
        by_url = RestBackend(url)
        by_token = RestBackend(server.url, ClientSettings(token=SECRET))  # type: ignore[arg-type]
        for backend in (by_url, by_token):
            assert SECRET not in repr(backend) + repr(backend._connection) + backend.store_uri
        for backend in (by_url, by_token):
            with pytest.raises(WithrunError) as caught:
                backend.get_run("abc")
            assert SECRET not in str(caught.value)
            if backend is by_url:
                assert _basic("me", SECRET) not in str(caught.value)
    assert SECRET not in repr(parse_server_url(url))
    assert SECRET not in repr(ClientSettings(username="me", password=SECRET))  # type: ignore[arg-type]
    with pytest.raises(ValidationError) as invalid:
        ClientSettings(username="me", password=SECRET, token=SECRET)  # type: ignore[arg-type]
    assert SECRET not in str(invalid.value)


def test_credentials_given_twice() -> None:
    """Credentials in the URL and in the settings at once are an error, not a choice made in silence."""
    with pytest.raises(InvalidArgument, match="twice"):
        RestBackend(f"http://me:{SECRET}@host", ClientSettings(token="x"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"tokn": "x"},
        {"timeout": 0},
        {"retries": -1},
        {"password": "x"},
        {"client_key": "x"},
        {"headers": {"a b": "x"}},
        {"headers": {"a": "x\r\ny: z"}},
        {"token": "x\ny"},
        {"token": "x", "username": "y"},
    ],
)
def test_bad_settings(settings: dict[str, object]) -> None:
    """Unknown, impossible and contradictory settings are refused when they are given."""
    with pytest.raises(ValidationError):
        ClientSettings.model_validate(settings)


def test_missing_certificate() -> None:
    """A certificate file that is not there is named, before anything is sent."""
    settings = ClientSettings(verify="/no/such/file.pem")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"no/such/file\.pem"):
        RestBackend("https://127.0.0.1:1", settings).server_info()


def test_proxy_is_used() -> None:
    """A configured proxy gets the request, with the proxy's own credentials."""
    with rude_server(RUN) as proxy:
        url = proxy.url.replace("//", f"//me:{SECRET}@")
        backend = RestBackend("http://server.invalid:5000/p", ClientSettings(proxy=url))  # type: ignore[arg-type]
        backend.get_run("abc")
        (request,) = proxy.requests
        assert request.path.startswith("http://server.invalid:5000/p/api/2.0/mlflow/runs/get")
        assert request.headers["proxy-authorization"] == _basic("me", SECRET)


def test_errors_pickle() -> None:
    """A ServerError survives the way to another process with all that it knows."""
    error = ServerError("m", status=503, code="C", retry_after=2.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status, copy.code, copy.retry_after) == ("m", 503, "C", 2.0)


def test_closed() -> None:
    """After `close` a call is an error that says so."""
    with rude_server(hang_up) as server:
        backend = RestBackend(server.url)
        assert isinstance(backend.http, httpx.Client)
        backend.close()
        with pytest.raises(InvalidArgument, match="closed"):
            backend.get_run("abc")
