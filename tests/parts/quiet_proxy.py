"""A TCP proxy before a unix socket that ends connections on which nothing has happened for a while, as proxies of the engine's socket do."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 64 << 10


@dataclass(slots=True)
class QuietProxy:
    upstream: str  # a path
    quiet_seconds: float
    url: str
    cut: int = 0  # connections

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self.upstream)
            others = {client: server, server: client}
            reading = {client, server}
            while reading:
                ready, _, _ = select.select(reading, [], [], self.quiet_seconds)
                if not ready:
                    self.cut += 1
                    return
                for each in ready:
                    if data := each.recv(_PIECE):
                        others[each].sendall(data)
                    else:
                        reading.discard(each)
                        others[each].shutdown(socket.SHUT_WR)


@contextmanager
def quiet_proxy(upstream: str, quiet_seconds: float) -> Iterator[QuietProxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = QuietProxy(upstream, quiet_seconds, f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
