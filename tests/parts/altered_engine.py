"""A socket to an engine that answers otherwise than its own would: one on another machine, one that refuses limits."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse, responses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.parts.api_proxy import copy_all, request_of, serve_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Document = dict[str, Any]


@dataclass
class AlteredEngine:
    """Each connection serves one request."""

    engine: Path
    docker_host: str
    # of POST /containers/create: changes what is asked for, or says why it is refused
    creating: Callable[[Document], str | None] = lambda _: None
    starting: Callable[[Document], str | None] = lambda _: None  # of the same, once it is started
    info: Document = field(default_factory=dict)  # what it says of itself, in place of the truth
    created: list[Document] = field(default_factory=list)
    _bodies: dict[str, Document] = field(default_factory=dict)  # by container

    def serve(self, listener: socket.socket) -> None:
        serve_each(listener, self._serve_one)

    def _serve_one(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.socket(socket.AF_UNIX) as engine:
            request = request_of(client)
            if request is None:
                return
            head, rest, method, _, path = request
            asked: Document | None = None
            why: str | None = None
            if (method, path) == ("POST", "/containers/create"):
                asked = json.loads(rest)
                self.created.append(asked)
                why = self.creating(asked)
                rest = json.dumps(asked).encode()
                head = re.sub(rb"(?im)^content-length:[^\r]*", b"Content-Length: %d" % len(rest), head)
            elif (
                method == "POST" and path.endswith("/start") and (found := path.split("/")[2]) in self._bodies
            ):
                why = self.starting(self._bodies[found])
            if why is not None:
                client.sendall(_answer(500, {"message": why}))
                return
            if not re.search(rb"^upgrade:", head, re.IGNORECASE | re.MULTILINE):
                # Then nothing that follows on this connection is a request.
                head = (
                    re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE)
                    + b"\r\nConnection: close"
                )
            engine.connect(str(self.engine))
            engine.sendall(head + b"\r\n\r\n" + rest)
            if path == "/info" and self.info:
                response = HTTPResponse(engine)
                response.begin()
                client.sendall(_answer(200, {**json.loads(response.read()), **self.info}))
                return
            if asked is not None:
                answer = b""
                while more := engine.recv(1 << 16):
                    answer += more
                if made := re.search(rb'"Id":"([0-9a-f]+)"', answer):
                    self._bodies[made[1].decode()] = asked
                client.sendall(answer)
                return
            threading.Thread(target=copy_all, args=(client, engine), daemon=True).start()
            copy_all(engine, client)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _answer(status: int, document: Document) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} {responses[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@contextmanager
def altered_engine(engine: str) -> Iterator[AlteredEngine]:
    """A socket to the engine at a URL, until the end of the block."""
    # Tests' own directories have names that are too long for a socket.
    with TemporaryDirectory(prefix="volferry-") as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/docker.sock")
        listener.listen(128)
        altered = AlteredEngine(Path(engine.removeprefix("unix://")), f"unix://{place}/docker.sock")
        threading.Thread(target=altered.serve, args=(listener,), daemon=True).start()
        yield altered
        listener.shutdown(socket.SHUT_RDWR)
