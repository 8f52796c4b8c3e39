"""A TCP proxy in front of a server that does, by a seed, what networks and overloaded servers do."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTS = ("drop", "flip", "stall", "truncate", "500", "503")
_PIECE = 64 << 10
_STALL_SECONDS = 1.5
_MOST_BYTES = 3 << 20  # of a connection, after which a fault comes at the latest
_LONGEST_BYTES = 6 << 20  # of one without a fault: more than a part
_ANSWERS = {
    "500": b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>",
    "503": b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
}
_STATUS = {"500": b"500 Internal Server Error", "503": b"503 Slow Down"}


@dataclass(slots=True)
class FaultProxy:
    """Decides for each connection whether, where and how it goes wrong."""

    endpoint: str  # of the proxy
    upstream: tuple[str, int]
    noise: random.Random
    share: float  # of connections that go wrong
    faults: int = 0

    def fault(self) -> tuple[str, str, int]:
        """Kind, direction, and after how many bytes of that."""
        if self.noise.random() >= self.share:
            return (
                "truncate",
                self.noise.choice(["up", "down"]),
                _LONGEST_BYTES,
            )  # or one good connection would serve for ever
        self.faults += 1
        at = (
            int(_MOST_BYTES ** self.noise.random()) - 1
        )  # as often within the first KiB as within the last MiB
        return self.noise.choice(FAULTS), self.noise.choice(["up", "down"]), at

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client, self.fault()), daemon=True).start()

    def _connection(self, client: socket.socket, fault: tuple[str, str, int]) -> None:
        try:
            server = socket.create_connection(self.upstream)
        except OSError:
            client.close()
            return
        up = threading.Thread(target=self._pump, args=(client, server, client, fault, "up"), daemon=True)
        up.start()
        self._pump(server, client, client, fault, "down")
        up.join()
        client.close()
        server.close()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        client: socket.socket,
        fault: tuple[str, str, int],
        direction: str,
    ) -> None:
        kind, left = (fault[0], fault[2]) if fault[1] == direction else ("", -1)
        try:
            while data := source.recv(_PIECE):
                if kind and left < len(data):
                    data = self._apply(kind, data, max(0, left), sink, client)
                    kind, _, left = self.fault()  # it goes on, and so do faults
                left -= len(data)
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _apply(self, kind: str, data: bytes, at: int, sink: socket.socket, client: socket.socket) -> bytes:
        """What goes on in place of `data`. Raises OSError for the end of the connection."""
        if kind == "flip":
            changed = bytearray(data)
            changed[at] ^= 1 << self.noise.randrange(8)
            return bytes(changed)
        if kind == "stall":
            time.sleep(_STALL_SECONDS)
            return data
        if kind == "truncate":
            sink.sendall(data[:at])
        elif kind == "drop":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:
            body = _ANSWERS[kind]
            client.sendall(
                b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                % (_STATUS[kind], len(body), body)
            )
        raise ConnectionError(kind)


@contextmanager
def fault_proxy(endpoint: str, seed: int, *, share: float = 0.4) -> Iterator[FaultProxy]:
    """In front of `endpoint`, until the end of the block."""
    parts = urlsplit(endpoint)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        proxy = FaultProxy(
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            (str(parts.hostname), int(parts.port or 80)),
            random.Random(seed),
            share,
        )
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
