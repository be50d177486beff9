"""One server's HTTP client: pooled, lazily connected, repeating what may be repeated, safe across a fork."""

from __future__ import annotations

import math
import os
import random
import re
import ssl
import threading
import time
import weakref
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import certifi
import httpx
import msgspec

from withrun.deadline import time_left
from withrun.errors import InvalidArgument, ServerError, ServerUnreachable

from .credentials import Credentials
from .network import Transport
from .refusals import Refusal, Subject
from .server_url import ServerUrl, without_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import ClientSettings

    Params = Mapping[str, str | int | tuple[str, ...]]

__all__ = ["HttpConnection"]

_BACKOFF = 0.1
_MAX_BACKOFF = 5.0
_MAX_REDIRECTS = 5
_LEAST_ATTEMPT = 0.5
"""Seconds that an attempt gets though the caller's deadline is nearer."""
_JSON = {"Content-Type": "application/json"}
_OBJECT = re.compile(rb"\s*\{")
_SECONDS = re.compile(r"\s*[0-9]{1,18}\s*")
_SHOWN = 60
"""Characters that a message shows of an answer that is none of MLflow's."""


class _ErrorBody(msgspec.Struct):
    error_code: str = ""
    message: str = ""


_error_decoder = msgspec.json.Decoder(_ErrorBody)


class HttpConnection:
    """Requests to one server, under one instance's settings.

    Args:
        server: where the server is.
        settings: how to talk to it.
        quick_ack: see `Transport`; False is for measurements.
    """

    def __init__(self, server: ServerUrl, settings: ClientSettings, *, quick_ack: bool = True) -> None:
        self.url = server.url
        self._settings = settings
        self._quick_ack = quick_ack
        self._credentials = Credentials(server, settings)
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._closed = False
        _connections.add(self)

    def __repr__(self) -> str:
        return f"HttpConnection({self.url!r})"

    @property
    def client(self) -> httpx.Client:
        """The pooled client, for requests under `url`; made at the first use in this process.

        It adds the credentials to requests to this server alone, and follows no redirects.
        """
        client = self._client
        if client is not None:
            return client
        with self._lock:
            if self._closed:
                raise InvalidArgument(f"the connection to {self.url} was closed; make a new API instance")
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def close(self) -> None:
        """Close the pooled connections; further requests are errors."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def forget_connections(self) -> None:
        """In a forked child: leave the parent's sockets alone and start over."""
        # The lock and the pool may have been in use by a thread that the child doesn't have.
        self._lock = threading.Lock()
        self._client = None
        self._credentials.forget_lock()

    def request(
        self,
        method: str,
        path: str,
        *,
        call: str,
        subject: Subject | None = None,
        params: Params | None = None,
        content: bytes | None = None,
        repeatable: bool,
        is_api: bool = True,
    ) -> bytes:
        """Send a request, return the body of a good answer.

        A request that could not reach the server is sent again in any case; after it may have been received,
        only if it is repeatable, and no later than `timeout` seconds after the first attempt. All of it ends
        at the caller's deadline (`withrun.deadline`).

        Args:
            method: HTTP method.
            path: path below the server's URL, without a leading slash.
            call: the backend's method, for messages.
            subject: what the call is about, for messages.
            params: query parameters.
            content: JSON body.
            repeatable: whether sending it twice does what sending it once does.
            is_api: a good answer is a JSON object, as all of MLflow's API are.

        Raises:
            WithrunError: `ServerUnreachable`, or what `Refusal.to_error` makes of the answer; a foreign
                `ServerError` for a good answer that begins like no JSON object.
        """
        started = time.monotonic()
        given = max(time_left(), _LEAST_ATTEMPT)
        attempt = 0
        while True:
            try:
                response = self._send(method, path, params, content, started + given)
            except (httpx.TransportError, httpx.StreamError) as exc:
                not_sent = isinstance(exc, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
                budget = self._settings.connect_timeout if not_sent else self._settings.timeout
                pause = self._pause(attempt, None, started + min(budget, given))
                if pause is None or not (repeatable or not_sent):
                    raise self._unreachable(exc, call, subject, given, not_sent=not_sent) from exc
            else:
                if response.is_success:
                    if is_api and not _OBJECT.match(response.content):
                        raise self._foreign(response, call, subject)
                    return response.content
                refusal = self._refusal(response)
                pause = self._pause(
                    attempt, refusal.retry_after, started + min(self._settings.timeout, given)
                )
                if pause is None or not (repeatable and refusal.worth_repeating):
                    raise refusal.to_error(call, subject, self.url)
            attempt += 1
            time.sleep(pause)

    def _send(
        self, method: str, path: str, params: Params | None, content: bytes | None, deadline: float
    ) -> httpx.Response:
        headers = _JSON if content is not None else None
        client = self.client
        request = client.build_request(method, path, params=params, content=content, headers=headers)
        self._limit(request, deadline)
        for _ in range(_MAX_REDIRECTS):
            response = client.send(request)
            if not response.has_redirect_location:
                return response
            request = self._redirected(request, response)
            self._limit(request, deadline)
        raise ServerError(
            f"{self.url} redirected a request {_MAX_REDIRECTS} times; check the tracking URI",
            status=response.status_code,
            foreign=True,
        )

    def _limit(self, request: httpx.Request, deadline: float) -> None:
        """Have a request end at a deadline, also while a server sends its answer byte by byte."""
        if math.isinf(deadline):
            return

        def check() -> None:
            if time.monotonic() >= deadline:
                raise httpx.ReadTimeout("the deadline has passed", request=request)

        left = max(deadline - time.monotonic(), 0.01)
        limits: dict[str, float | None] = request.extensions["timeout"]
        request.extensions["timeout"] = {
            kind: left if limit is None else min(limit, left) for kind, limit in limits.items()
        }
        request.extensions["check"] = check

    def _redirected(self, request: httpx.Request, response: httpx.Response) -> httpx.Request:
        """The request to send next; an error if it would carry credentials or data to another server."""
        location = response.headers["location"]
        target = (
            response.next_request.url if response.next_request is not None else request.url.join(location)
        )
        same = (target.scheme, target.host, target.port) == (
            request.url.scheme,
            request.url.host,
            request.url.port,
        )
        kept = request.method == "GET" or response.status_code in (307, 308)
        if not (same and kept):
            shown = without_credentials(str(target))
            raise ServerError(
                f"{self.url} answered with a redirect ({response.status_code}) to {shown}, which was not "
                "followed; if it is a login page, give credentials in client_settings; if the server has "
                "moved, use its new address as tracking URI",
                status=response.status_code,
                foreign=True,
            )
        return self.client.build_request(
            request.method, target, content=request.content, headers=request.headers
        )

    def _pause(self, attempt: int, retry_after: float | None, deadline: float) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none."""
        if attempt >= self._settings.retries:
            return None
        ceiling = min(_MAX_BACKOFF, _BACKOFF * 2**attempt)
        pause = random.uniform(ceiling / 2, ceiling)  # noqa: S311 - jitter, no secret
        if retry_after is not None:
            pause = max(pause, retry_after)
        return pause if time.monotonic() + pause < deadline else None

    def _refusal(self, response: httpx.Response) -> Refusal:
        retry_after = _retry_after(response.headers.get("retry-after"))
        try:
            body = _error_decoder.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            body = _ErrorBody()
        if body.error_code:
            return Refusal(
                response.status_code, body.error_code, self._credentials.redact(body.message), retry_after
            )
        words = f"the answer ({_content_type(response)}) is none of MLflow's"
        if response.status_code == 404:
            words += ": this URL leads to no MLflow server, or to a version that does not know the call"
        elif response.status_code in (401, 403):
            words += (
                ": the server, or a proxy before it, wants other credentials than those in client_settings"
            )
        return Refusal(response.status_code, "", words, retry_after)

    def _foreign(self, response: httpx.Response, call: str, subject: Subject | None) -> ServerError:
        """A good answer that nobody may take for MLflow's: a login page, a portal, another web server."""
        about = "" if subject is None else f" for {subject.label}"
        # Redacted before it is cut: part of a secret is one too.
        text = self._credentials.redact(response.content[:4096].decode("utf-8", "replace")).strip()
        shown = "".join(c if c.isprintable() else " " for c in text[:_SHOWN])
        return ServerError(
            f"{self.url} answered {call}{about} with {response.status_code} and {shown!r} "
            f"({_content_type(response)}), where MLflow answers with a JSON object; is there an MLflow "
            "server at this URL, and no login page or proxy before it?",
            status=response.status_code,
            foreign=True,
        )

    def _unreachable(
        self, exc: Exception, call: str, subject: Subject | None, given: float, *, not_sent: bool
    ) -> ServerUnreachable:
        about = "" if subject is None else f" for {subject.label}"
        reason = self._credentials.redact(str(exc)) or type(exc).__name__
        if not_sent:
            found = f"can't connect ({reason}); is the server running, and the tracking URI right?"
        elif isinstance(exc, httpx.TimeoutException) and given < self._settings.timeout:
            found = f"no answer within the {given:.1f} s that it was given"
        elif isinstance(exc, httpx.TimeoutException):
            found = f"no answer within {self._settings.timeout:g} s (client_settings: timeout)"
        else:
            found = f"the connection broke before the whole answer had come ({reason})"
        return ServerUnreachable(f"{self.url} could not be reached by {call}{about}: {found}")

    def _make_client(self) -> httpx.Client:
        settings = self._settings
        context = (
            _ssl_context(settings) if self.url.startswith("https:") or settings.proxy is not None else None
        )
        return _Client(
            settings,
            base_url=self.url,
            auth=self._credentials,
            headers={"User-Agent": "withrun", "Accept": "application/json"},
            transport=Transport(context, proxy=_proxy(settings), quick_ack=self._quick_ack),
            timeout=httpx.Timeout(settings.timeout, connect=settings.connect_timeout),
            follow_redirects=False,
            trust_env=False,
        )


class _Client(httpx.Client):
    """An instance's client, which can make others that take the same way out."""

    def __init__(self, settings: ClientSettings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings

    def without_credentials(self, **options: Any) -> httpx.Client:
        """Make a client for other servers: the instance's certificate checks and proxy, no credentials.

        Args:
            options: what `httpx.Client` takes (`base_url`, `timeout`).
        """
        # The client's certificate is a credential too.
        context = _ssl_context(self._settings.model_copy(update={"client_cert": None}))
        transport = Transport(context, proxy=_proxy(self._settings))
        return httpx.Client(**{"timeout": self.timeout, **options}, transport=transport, trust_env=False)


def _proxy(settings: ClientSettings) -> str | None:
    return settings.proxy.get_secret_value() if settings.proxy is not None else None


def _ssl_context(settings: ClientSettings) -> ssl.SSLContext:
    # Not ssl.create_default_context: it reads SSL_CERT_FILE and SSLKEYLOGFILE from the environment.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif settings.verify is True:
            context.load_verify_locations(cafile=certifi.where())
        elif settings.verify.is_dir():
            context.load_verify_locations(capath=settings.verify)
        else:
            context.load_verify_locations(cafile=settings.verify)
        if settings.client_cert is not None:
            password = settings.client_key_password
            context.load_cert_chain(
                settings.client_cert,
                settings.client_key,
                # A function even for none: without one OpenSSL would ask for the password on the terminal.
                password=lambda: password.get_secret_value() if password is not None else "",
            )
    except (OSError, ssl.SSLError) as exc:
        raise InvalidArgument(
            f"client_settings: the certificates of verify={settings.verify}, "
            f"client_cert={settings.client_cert}, client_key={settings.client_key} can't be used: {exc}"
        ) from exc
    return context


def _content_type(response: httpx.Response) -> str:
    kind: str = response.headers.get("content-type", "no content type").partition(";")[0]
    return kind[:_SHOWN]


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a Retry-After header: a number, or a date."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):  # no date, or one that no calendar or clock has
        return None
    return max(0.0, date - time.time())


_connections: weakref.WeakSet[HttpConnection] = weakref.WeakSet()


def _forget_all() -> None:
    for connection in list(_connections):
        connection.forget_connections()


os.register_at_fork(after_in_child=_forget_all)
