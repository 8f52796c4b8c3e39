"""A proxy of an engine's socket that can cut the streams of events which go through it, and let none through for a while."""

from __future__ import annotations

import re
import select
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 64 << 10
_EVENTS = re.compile(rb"GET (/v[0-9.]+)?/events[? ]")


@dataclass(slots=True)
class EventsProxy:
    upstream: str  # a path
    url: str
    blind: bool = False
    refused: int = 0  # requests while it was blind
    streams: int = 0  # that were begun
    _open: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cut(self) -> None:
        """All streams of events that are open."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

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
            try:
                while reading:
                    for each in select.select(reading, [], [])[0]:
                        data = each.recv(_PIECE)
                        if each is client and _EVENTS.match(data) and not self._lets(client):
                            return
                        if data:
                            others[each].sendall(data)
                        else:
                            reading.discard(each)
                            others[each].shutdown(socket.SHUT_WR)
            finally:
                with self._lock:
                    self._open.discard(client)

    def _lets(self, client: socket.socket) -> bool:
        """A request for events through."""
        with self._lock:
            if self.blind:
                self.refused += 1
                return False
            self.streams += 1
            self._open.add(client)
            return True


@contextmanager
def events_proxy(upstream: str) -> Iterator[EventsProxy]:
    # pytest's own directories have longer paths than a socket may have
    with TemporaryDirectory(prefix="volferry-proxy-") as place, socket.socket(socket.AF_UNIX) as listener:
        path = Path(place) / "docker.sock"
        listener.bind(str(path))
        listener.listen(64)
        proxy = EventsProxy(upstream, f"unix://{path}")
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
