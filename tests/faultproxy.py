"""A proxy on loopback that stands between a client and a real server, and misbehaves on command."""

from __future__ import annotations

import contextlib
import http.client
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit


@dataclass
class Fault:
    """What happens to a request instead of, or besides, being passed on.

    Attributes:
        status: answer with this status without asking the server; 0: pass the request on.
        headers: further headers of that answer.
        body: what that answer holds.
        delay: seconds to wait before anything else.
        lose_answer: the server applies the request, and the connection is cut before the client hears of it.
        reset: cut the connection without asking the server.
        cut_body: pass on half of the answer's body, then cut the connection.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"refused by the fault proxy"
    delay: float = 0.0
    lose_answer: bool = False
    reset: bool = False
    cut_body: bool = False


class FaultProxy:
    """Passes requests on to a server and counts them.

    Attributes:
        url: where it listens.
        plan: asked for each request, with method and path; None: no fault.
        poison: a request whose body holds this is answered with 500, as by a server that has a bug there.
        largest: a request with a larger body is answered with 413; 0: none is.
        requests: method and path of each request that came in.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target).netloc
        self.plan: Callable[[str, str], Fault | None] = lambda _method, _path: None
        self.poison = b""
        self.largest = 0
        self.requests: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    super().handle_one_request()

            def do_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def times(self, count: int, fault: Fault, *, path: str = "") -> None:
        """Let the next `count` requests whose path contains `path` meet a fault."""
        left = [count]
        lock = threading.Lock()

        def plan(_method: str, requested: str) -> Fault | None:
            with lock:
                if path in requested and left[0] > 0:
                    left[0] -= 1
                    return fault
            return None

        self.plan = plan

    def always(self, fault: Fault | None) -> None:
        """Let every request meet a fault; None ends that."""
        self.plan = lambda _method, _path: fault

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length") or 0)
        body = handler.rfile.read(length)
        self.requests.append((handler.command, handler.path))
        fault = self.plan(handler.command, handler.path) or Fault()
        if self.poison and self.poison in body:
            fault = Fault(status=500)
        if 0 < self.largest < length:
            fault = Fault(status=413)
        time.sleep(fault.delay)
        if fault.reset:
            handler.close_connection = True
            return
        if fault.status:
            text = fault.body
            handler.send_response(fault.status)
            for key, value in fault.headers.items():
                handler.send_header(key, value)
            handler.send_header("content-length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text)
            return
        status, headers, answer = self._forward(handler, body)
        if fault.lose_answer:
            handler.close_connection = True
            return
        handler.send_response(status)
        for key, value in headers:
            if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                handler.send_header(key, value)
        handler.send_header("content-length", str(len(answer)))
        handler.end_headers()
        if fault.cut_body:
            answer = answer[: len(answer) // 2]
            handler.close_connection = True
        handler.wfile.write(answer)

    def _forward(
        self, handler: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._target, timeout=60)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection")}
        try:
            connection.request(handler.command, handler.path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of a server until the block is left."""
    proxy = FaultProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
