"""A counting, throttling TCP relay on loopback: what it saw pass between real parts is the evidence."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit


class Relay:
    """Relays connections to `target`; counts requests by a marker, and bytes on the way back."""

    def __init__(self, target: str, marker: bytes, bytes_per_second: float = 0.0) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._marker = marker
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = 0
        self.received = 0

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pump(self, source: socket.socket, sink: socket.socket, upstream: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                with self._lock:
                    if upstream:
                        self.requests += data.count(self._marker)
                    else:
                        self.received += len(data)
                if self._rate and not upstream:
                    time.sleep(len(data) / self._rate)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay(target: str, marker: bytes, bytes_per_second: float = 0.0) -> Iterator[Relay]:
    """Run a relay until the block is left."""
    running = Relay(target, marker, bytes_per_second)
    thread = threading.Thread(target=running.serve, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.close()
        thread.join(5)
