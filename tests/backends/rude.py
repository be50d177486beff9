"""A real server on loopback that answers as it is told: late, broken, refusing, or not at all."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Answer = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RudeServer:
    """Answers the first request with the first answer, and so on; the last answer is for all that follow.

    Given `choose`, that picks the answer to each request.
    """

    url: str
    answers: list[Answer]
    choose: Callable[[Request], Answer] | None = None
    requests: list[Request] = field(default_factory=list)

    def answer_to(self, request: Request) -> Answer:
        if self.choose is not None:
            return self.choose(request)
        return self.answers[min(len(self.requests), len(self.answers)) - 1]


def reply(status: int, body: bytes | str = b"{}", **headers: str) -> Answer:
    """A whole answer; underscores in names of headers stand for hyphens."""
    payload = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(payload)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    data = "\r\n".join(lines).encode() + b"\r\n\r\n" + payload
    return lambda connection: connection.sendall(data)


def refusal(status: int, code: str, message: str = "no", **headers: str) -> Answer:
    """An error as MLflow puts it."""
    return reply(status, f'{{"error_code": "{code}", "message": "{message}"}}', **headers)


def reset(connection: socket.socket) -> None:
    """Break the connection in the middle of the answer's body."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    time.sleep(0.05)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionAbortedError


def hang_up(connection: socket.socket) -> None:
    """Close without a word."""
    raise ConnectionAbortedError


def silence(connection: socket.socket) -> None:
    """Say nothing for longer than any test waits."""
    time.sleep(3)


@contextlib.contextmanager
def rude_server(*answers: Answer, choose: Callable[[Request], Answer] | None = None) -> Iterator[RudeServer]:
    """Serve the answers until the block is left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = RudeServer(f"http://127.0.0.1:{listener.getsockname()[1]}", list(answers), choose)
        threading.Thread(target=_accept, args=(listener, server), daemon=True).start()
        yield server


def _accept(listener: socket.socket, server: RudeServer) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_converse, args=(connection, server), daemon=True).start()


def _converse(connection: socket.socket, server: RudeServer) -> None:
    with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
        while start := stream.readline():
            method, path, _ = start.decode().split()
            headers = {}
            while line := stream.readline().strip():
                key, _, value = line.decode().partition(":")
                headers[key.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", 0)))
            request = Request(method, path, headers, body)
            server.requests.append(request)
            server.answer_to(request)(connection)
