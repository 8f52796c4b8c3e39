"""The daemon's HTTP server: `/metrics`, `/healthz`, `/readyz`; on loopback, unless told otherwise."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Protocol

from volferry.errors import ConfigError, reason
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from volferry.daemon_config import Listen

_IDLE_SECONDS = 10
_MOST_AT_ONCE = 16
_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Answers(Protocol):
    """What there is to be asked. Called from threads of the server."""

    def metrics(self) -> bytes: ...
    def unhealthy(self) -> str:
        """Why the daemon does not do its work; empty if it does."""

    def unready(self) -> str:
        """Why it cannot back anything up at the moment; empty if it can."""


class WebServer:
    """Answers from the moment that it is made until `close`."""

    def __init__(self, listen: Listen, answers: Answers) -> None:
        """Raises ConfigError if it cannot listen there."""

        class Handler(_Handler):
            asked = answers

        try:
            self._server = _on_socket(listen, Handler) if listen.socket_path else _on_port(listen, Handler)
        except OSError as error:
            raise ConfigError(f"daemon.listen: cannot listen on {listen}: {reason(error)}") from error
        self._socket_path = listen.socket_path
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)
        with held_back():
            self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # of five, a sixth that comes at once waits for a second

    def __init__(self, *arguments: Any) -> None:
        self._connections: dict[socket.socket, None] = {}  # the oldest first
        self._counting = threading.Lock()
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Without asking a resolver for the name of this machine: a dead one takes half a minute."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "volferry", 0

    def process_request(self, request: Any, client_address: Any) -> None:
        """Each connection has a thread. Whoever opens more of them than are needed must not use up the machine's, nor keep others from being answered."""
        with self._counting:
            self._connections[request] = None
            oldest = next(iter(self._connections)) if len(self._connections) > _MOST_AT_ONCE else None
            if oldest is not None:
                del self._connections[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._counting:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever went away in the middle of an answer is no news."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _SocketServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """With the mode that it keeps, for nobody else: Linux gives it that of the socket (unix(7))."""
        os.fchmod(self.socket.fileno(), 0o600)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "volferry", 0


def _on_port(listen: Listen, handler: type[_Handler]) -> _Server:
    host, port = listen.address
    return _Server6((host, port), handler) if ":" in host else _Server((host, port), handler)


def _on_socket(listen: Listen, handler: type[_Handler]) -> _Server:
    path = str(listen.socket_path)
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise OSError(98, "something listens there already")
    Path(path).unlink(missing_ok=True)  # of a daemon that died
    return _SocketServer(path, handler)


class _Handler(BaseHTTPRequestHandler):
    asked: Answers
    timeout = _IDLE_SECONDS
    server_version = "volferry"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, self.asked.metrics(), _METRICS)
        elif path in {"/healthz", "/readyz"}:
            why = self.asked.unhealthy() if path == "/healthz" else self.asked.unready()
            status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
            self._answer(status, f"{why or 'ok'}\n".encode(), _TEXT)
        elif path == "/":
            self._answer(HTTPStatus.OK, b"volferry: /metrics /healthz /readyz\n", _TEXT)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there is no such page\n", _TEXT)

    do_HEAD = do_GET  # noqa: N815 -- the base class looks for that name

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def address_string(self) -> str:
        return "local"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """Requests are no news."""
