"""Reading the body of an answer: through httpx, or, where it is long and plain, from the connection itself.

On its way through the HTTP parser each byte is copied several times, in pieces of 64 kB that each wake a
thread up. On a machine where client and server share the cores, that alone made a download a fifth slower.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable, Iterator

import httpx

__all__ = ["LONG", "read_body"]

LONG = 4 << 20
"""Bytes from which a body is read from its connection, which then serves no further request."""

_BUFFER = 1 << 20
"""Bytes held in memory."""

_AT_ONCE = 256 << 10
"""Bytes that the kernel collects before it wakes the reader up, where it can."""

_SLICE = 0.25
"""Seconds of waiting after which it is asked whether to go on."""


def read_body(answer: httpx.Response, length: int, check: Callable[[], None]) -> Iterator[bytes | memoryview]:
    """Yield the decoded body of a streamed answer; a piece is good until the next one is asked for.

    Args:
        answer: whose headers have been read, and nothing else.
        length: the bytes of the body on the wire; -1 if that is not known.
        check: raises to give up; called between pieces.

    Raises:
        httpx.TransportError: the connection broke.
        httpx.DecodingError: the body is not encoded as it claims.
    """
    connection = _plain_socket(answer)
    if length < LONG or connection is None or "content-encoding" in answer.headers:
        for piece in answer.iter_bytes():
            check()
            yield piece
        return
    pieces = answer.iter_raw()  # kept: when it goes, it closes the connection
    # What came with the headers is in the parser's buffer, which its first piece empties.
    first = next(pieces)
    yield first
    yield from _received(connection, length - len(first), check)


def _plain_socket(answer: httpx.Response) -> socket.socket | None:
    """The answer's connection if it carries the body as it is: HTTP/1.1 with neither TLS nor chunks."""
    stream = answer.extensions.get("network_stream")
    if (
        stream is None
        or answer.extensions.get("http_version") != b"HTTP/1.1"
        or "transfer-encoding" in answer.headers
        or stream.get_extra_info("ssl_object") is not None
    ):
        return None
    found = stream.get_extra_info("socket")
    return found if type(found) is socket.socket else None


def _received(connection: socket.socket, left: int, check: Callable[[], None]) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_BUFFER))
    patience, idle = connection.gettimeout() or math.inf, 0.0
    connection.settimeout(_SLICE)
    _wake_at(connection, _AT_ONCE)
    try:
        while left:
            check()
            if left < _AT_ONCE:
                _wake_at(connection, 1)
            try:
                count = connection.recv_into(buffer, min(left, _BUFFER))
            except TimeoutError:
                idle += _SLICE
                if idle >= patience:
                    raise
                _wake_at(connection, 1)  # a slow one: what has come will do
                continue
            if not count:
                raise httpx.RemoteProtocolError(f"the connection was closed {left:,} bytes before the end")
            idle = 0.0
            left -= count
            yield buffer[:count]
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"nothing came for {patience:g} s") from error
    except OSError as error:
        raise httpx.ReadError(str(error)) from error


def _wake_at(connection: socket.socket, count: int) -> None:
    """Have the kernel wake the reader only when so many bytes are there, where it can."""
    with contextlib.suppress(AttributeError, OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
