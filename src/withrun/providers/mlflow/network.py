"""Sockets that acknowledge at once, under httpcore's connection pool, under httpx."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Iterator

import httpcore
import httpx

from withrun.errors import InvalidArgument, MissingDependency

__all__ = ["Transport"]

_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux alone has the flag; elsewhere acknowledgements are left to the system."""

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
    """

    def __init__(
        self, ssl_context: ssl.SSLContext | None, *, proxy: str | None = None, quick_ack: bool = True
    ) -> None:
        self._pool = _make_pool(ssl_context, proxy, _Network(quick_ack=quick_ack))

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
        with _as_httpx_errors():
            response = self._pool.handle_request(core_request)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response.stream),  # type: ignore[arg-type] # a synchronous pool's streams are iterable
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


class _Network(httpcore.SyncBackend):
    """Connects without delaying small packets, within one time limit for all addresses of a name."""

    def __init__(self, *, quick_ack: bool) -> None:
        self._quick_ack = quick_ack and _QUICK_ACK is not None

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
                return _QuickStream(stream) if self._quick_ack else stream
        raise failure


class _QuickStream(httpcore.NetworkStream):
    """A connection that acknowledges at once; the flag doesn't stick, so it is set before each read."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._socket: socket.socket = stream.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        # A socket that is already dead refuses the option; the read itself then says what is wrong.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK or 0, 1)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _QuickStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors():
            yield from self._stream

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
