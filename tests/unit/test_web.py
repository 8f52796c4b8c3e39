"""The daemon's HTTP server, asked by whoever can reach it."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from tests.parts.s3_servers import free_ports
from volferry.daemon_config import Listen
from volferry.web.server import WebServer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Answers:
    def metrics(self) -> bytes:
        return b"metrics 1\n"

    def unhealthy(self) -> str:
        return ""

    def unready(self) -> str:
        return "no engine"


def asked(connection: socket.socket, path: str) -> bytes:
    connection.settimeout(10)
    connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    return b"".join(iter(lambda: connection.recv(4096), b""))


def test_whoever_opens_many_connections_keeps_nobody_from_an_answer() -> None:
    (port,) = free_ports(1)
    server = WebServer(Listen(f"127.0.0.1:{port}"), Answers())
    with ExitStack() as stack:
        stack.callback(server.close)
        before = threading.active_count()
        for _ in range(60):
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert asked(connection, "/healthz").endswith(b"ok\n")
        assert threading.active_count() - before < 40


def test_no_resolver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object) -> str:
        raise AssertionError

    monkeypatch.setattr(socket, "getfqdn", resolve)
    (port,) = free_ports(1)
    server = WebServer(Listen(f"127.0.0.1:{port}"), Answers())
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert b" 503 " in asked(connection, "/readyz")
    server.close()


def test_a_socket_is_for_its_user_alone_and_files_that_are_made_meanwhile_are_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def umask(_: int) -> int:
        raise AssertionError

    monkeypatch.setattr(os, "umask", umask)
    place = tmp_path / "http.sock"
    server = WebServer(Listen(f"unix:{place}"), Answers())
    assert place.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place))
        assert asked(connection, "/metrics").endswith(b"metrics 1\n")
    server.close()
    assert not place.exists()
