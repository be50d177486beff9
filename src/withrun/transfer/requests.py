"""Requests to MLflow's artifact service: retries, and what an answer means as an error.

Only requests that may be made twice are made (GET, PUT of a whole file or part, the steps of a multipart
upload), so each is repeated after a lost connection or an answer that says "later".
"""

from __future__ import annotations

import base64
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import msgspec

from withrun.errors import ArtifactNotFound, ServerUnreachable, TransferError
from withrun.transfer.workers import Check

__all__ = ["Again", "client_for_others", "redacted", "request_json", "retrying", "send", "unreachable"]

ATTEMPTS = 6
"""How often a request is made before its failure counts; some 6 seconds in all."""

_SHORTEST_SECRET = 4
"""Shorter texts are parts of ordinary words, and blotting those out would make messages unreadable."""

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


class Again(Exception):
    """The attempt failed in a way that may pass; `error` is what to raise when it does not.

    Attributes:
        error: what went wrong.
        wait: seconds that the server asks to wait; 0 if it does not say.
        status: of the server's answer; 0 if there was none.
    """

    def __init__(self, error: Exception, wait: float = 0.0, status: int = 0) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.status = status


def request_json(
    http: httpx.Client,
    method: str,
    url: str,
    *,
    what: str,
    params: dict[str, str] | None = None,
    json: object = None,
    check: Check = lambda: None,
) -> bytes:
    """Make a small request, with retries, and return the body of its answer."""

    def attempt() -> bytes:
        request = http.build_request(method, url, params=params, json=json, extensions={"check": check})
        answer = send(http, request, what)
        return answer.content

    return retrying(attempt, check)


def send(
    http: httpx.Client,
    request: httpx.Request,
    what: str,
    *,
    stream: bool = False,
    ok: tuple[int, ...] = (200, 201, 204),
) -> httpx.Response:
    """Send one request; raise what its answer means, `Again` around what may pass."""
    try:
        answer = http.send(request, stream=stream)
    except httpx.RequestError as error:
        raise Again(unreachable(http, request, what, error)) from error
    if answer.status_code in ok:
        return answer
    try:
        answer.read()
        words = redacted(http, request, _words(answer))[:500].strip()
    except httpx.RequestError as error:
        raise Again(unreachable(http, request, what, error)) from error
    finally:
        answer.close()
    status = answer.status_code
    said = f"Could not {what}: the server answered {status}" + (f", saying {words!r}" if words else "") + "."
    if status == 404:
        raise ArtifactNotFound(said)
    if status in (401, 403):
        raise TransferError(f"{said} Check the credentials of the tracking server (`client_settings`).")
    if status == 413:
        raise TransferError(
            f"{said} The file is larger than the server or a proxy before it takes; raise that limit."
        )
    if status == 507 or "No space left" in words:
        raise TransferError(f"{said} The server's disk is full: make room there, and repeat.")
    failure = TransferError(said)
    if status in RETRYABLE:
        raise Again(failure, _retry_after(answer), status)
    raise failure


def client_for_others(http: httpx.Client | None, **options: Any) -> httpx.Client:
    """Make a client for servers other than that of `http`, without its credentials.

    It goes the way that the provider's client knows (certificates to trust, a proxy). No client reads the
    environment: `HTTP_PROXY` and `.netrc` are not the instance's configuration.

    Args:
        http: the tracking server's client; None if the store has none.
        options: what `httpx.Client` takes.
    """
    make: Callable[..., httpx.Client] | None = getattr(http, "without_credentials", None)
    return make(**options) if make is not None else httpx.Client(**options, trust_env=False)


def retrying(attempt: Callable[[], T], check: Check) -> T:
    """Call `attempt` until it returns, fails for good, or has asked too often to be tried again."""
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except Again as again:  # noqa: PERF203 - the loop is the retry
            check()
            if number == ATTEMPTS - 1:
                raise again.error from again.__cause__
            backoff = min(0.2 * 2**number, 3.0) * random.uniform(0.75, 1.25)  # noqa: S311
            _pause(max(again.wait, backoff), check)
    raise AssertionError("unreachable")


def _pause(seconds: float, check: Check) -> None:
    """Sleep, and end soon after `check` raises: an interrupt must not wait for what a server asks for."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.1))


def unreachable(
    http: httpx.Client, request: httpx.Request, what: str, error: httpx.RequestError
) -> ServerUnreachable:
    """Say that the server gave no answer, without the credentials that the request held."""
    where = f"{request.url.scheme}://{request.url.host}:{request.url.port or ''}".rstrip(":")
    return ServerUnreachable(
        f"Could not {what}: no answer from {where} "
        f"({type(error).__name__}: {redacted(http, request, str(error))}). "
        "Check that the server runs and can be reached, and repeat; what is through stays."
    )


def redacted(http: httpx.Client, request: httpx.Request, text: str) -> str:
    """Blot out the credentials of a request in a text: a server may repeat in its answer what it was sent."""
    own = getattr(http.auth, "redact", None)  # the provider's, which knows of further headers
    if own is not None:
        text = own(text)
    kind, _, sent = request.headers.get("authorization", "").rpartition(" ")
    # A signed URL's signature and token are long values of its query; `path` is MLflow's own parameter.
    secrets = [sent, *(value for name, value in request.url.params.multi_items() if name != "path")]
    if kind.lower() == "basic":
        with contextlib.suppress(ValueError):  # not base64, so there is no password in it to find
            secrets.append(base64.b64decode(sent).decode().partition(":")[2])
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def _words(answer: httpx.Response) -> str:
    """What the server says of a refusal: MLflow's `message`, FastAPI's `detail`, or the text."""
    with contextlib.suppress(msgspec.DecodeError):
        said = msgspec.json.decode(answer.content)
        if isinstance(said, dict):
            return str(said.get("message") or said.get("detail") or "")
    return "" if "html" in answer.headers.get("content-type", "") else answer.text


def _retry_after(answer: httpx.Response) -> float:
    with contextlib.suppress(ValueError):
        return min(max(float(answer.headers.get("retry-after", "0")), 0.0), 30.0)
    return 0.0
