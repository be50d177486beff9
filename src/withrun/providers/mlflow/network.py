"""Sockets that acknowledge at once, under httpcore's connection pool, under httpx."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import httpcore
import httpx

from withrun.errors import InvalidArgument, MissingDependency

__all__ = ["Transport"]

_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux alone has the flag; elsewhere acknowledgements are left to the system."""

_SLICE = 0.25
"""Seconds of waiting after which it is asked whether to go on."""

_MAX_CONNECTIONS = 32
_KEEP_ALIVE = 4.0
"""Seconds; less than the 5 after which MLflow's server closes an idle connection."""


class Transport(httpx.BaseTransport):
    """Sends httpx's requests through an httpcore pool whose sockets acknowledge what they receive at once.

    A stock `mlflow server` has several workers, and their socket lacks TCP_NODELAY: the server holds the body
    of an answer back until its headers are acknowledged, and a Linux client delays that by some 40 ms.

    Args:
        ssl_context: for `https://` servers.
        proxy: URL of the proxy to go through, with its credentials; None connects straight.
        quick_ack: whether to acknowledge at once, where the platform can; False is for measurements.

    A request whose extensions hold a function `check` is given up soon after that raises, also while nothing
    comes from the server.
    """

    def __init__(
        self, ssl_context: ssl.SSLContext | None, *, proxy: str | None = None, quick_ack: bool = True
    ) -> None:
        self._patience = _Patience()
        network = _Network(quick_ack=quick_ack, patience=self._patience)
        self._pool = _make_pool(ssl_context, proxy, network)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; raises httpx's exceptions."""
        assert isinstance(request.stream, httpx.SyncByteStream)  # noqa: S101 - narrows for the type checker
        core_request = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        check = request.extensions.get("check")
        with _as_httpx_errors(), self._patience.until(check):
            response = self._pool.handle_request(core_request)
        assert isinstance(response.stream, Iterable)  # noqa: S101 - a synchronous pool's streams are
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response.stream, self._patience, check),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


def _make_pool(
    ssl_context: ssl.SSLContext | None, proxy: str | None, network: httpcore.NetworkBackend
) -> httpcore.ConnectionPool:
    if proxy is None:
        return httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEP_ALIVE,
            network_backend=network,
        )
    parsed = httpx.Proxy(proxy)
    url = httpcore.URL(
        scheme=parsed.url.raw_scheme, host=parsed.url.raw_host, port=parsed.url.port, target=b"/"
    )
    auth = None if parsed.auth is None else (parsed.auth[0].encode(), parsed.auth[1].encode())
    if parsed.url.scheme in ("http", "https"):
        return httpcore.HTTPProxy(
            url,
            proxy_auth=auth,
            ssl_context=ssl_context,
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEP_ALIVE,
            network_backend=network,
        )
    if parsed.url.scheme in ("socks5", "socks5h"):
        try:
            return httpcore.SOCKSProxy(
                url,
                proxy_auth=auth,
                ssl_context=ssl_context,
                max_connections=_MAX_CONNECTIONS,
                max_keepalive_connections=_MAX_CONNECTIONS,
                keepalive_expiry=_KEEP_ALIVE,
                network_backend=network,
            )
        except RuntimeError as exc:
            raise MissingDependency(
                "a socks5:// proxy needs the package socksio: pip install 'httpx[socks]'"
            ) from exc
    raise InvalidArgument(
        f"can't use a proxy of scheme {parsed.url.scheme!r}; use one of http, https, socks5, socks5h"
    )


class _Patience(threading.local):
    """What ends a thread's waiting for a server."""

    check: Callable[[], None] | None = None

    @contextlib.contextmanager
    def until(self, check: Callable[[], None] | None) -> Iterator[None]:
        """Within the block, wait until `check` raises."""
        before, self.check = self.check, check
        try:
            yield
        finally:
            self.check = before

    def wait(self, connection: socket.socket, timeout: float | None) -> None:
        """Wait until there is something to read, or the time is over; raises what `check` does."""
        if self.check is None or (isinstance(connection, ssl.SSLSocket) and connection.pending()):
            return
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        ready = select.poll()
        ready.register(connection, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and not ready.poll(min(left, _SLICE) * 1000):
            self.check()


class _Network(httpcore.SyncBackend):
    """Connects without delaying small packets, within one time limit for all addresses of a name."""

    def __init__(self, *, quick_ack: bool, patience: _Patience) -> None:
        self._quick_ack = quick_ack and _QUICK_ACK is not None
        self._patience = patience

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Open a connection, trying the addresses of `host` in turn."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for left, (*_, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            # An address that swallows packets must not use up the time of those that follow.
            share = None if deadline is None else max((deadline - time.monotonic()) / left, 0.001)
            try:
                stream = super().connect_tcp(str(address[0]), port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
            else:
                return _Stream(stream, self._patience, quick_ack=self._quick_ack)
        raise failure


class _Stream(httpcore.NetworkStream):
    """A connection that acknowledges at once, and whose reader can be called off."""

    def __init__(self, stream: httpcore.NetworkStream, patience: _Patience, *, quick_ack: bool) -> None:
        self._stream, self._patience, self._quick_ack = stream, patience, quick_ack
        self._socket: socket.socket = stream.get_extra_info("socket")
        # Of TLS within TLS nobody can tell from outside whether there is something to read.
        self._can_wait = isinstance(stream.get_extra_info("ssl_object"), (ssl.SSLSocket, type(None)))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._quick_ack:
            # The flag doesn't stick. A dead socket refuses it; the read itself then says what is wrong.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK or 0, 1)
        if self._can_wait:
            self._patience.wait(self._socket, timeout)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _Stream(inner, self._patience, quick_ack=self._quick_ack)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _Body(httpx.SyncByteStream):
    def __init__(
        self, stream: Iterable[bytes], patience: _Patience, check: Callable[[], None] | None
    ) -> None:
        self._stream, self._patience, self._check = stream, patience, check

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._stream)
        while True:
            # Around each read, and not around what a caller does with a piece.
            with _as_httpx_errors(), self._patience.until(self._check):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


@contextlib.contextmanager
def _as_httpx_errors() -> Iterator[None]:
    """Translate httpcore's exceptions into httpx's, which have the same names."""
    try:
        yield
    except Exception as exc:
        for kind in type(exc).__mro__:
            translated = getattr(httpx, kind.__name__, None)
            if kind.__module__.startswith("httpcore") and isinstance(translated, type):
                raise translated(str(exc)) from exc
        raise
