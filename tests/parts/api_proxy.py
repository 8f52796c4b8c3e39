"""A filtering proxy of the engine's API, which takes the options of wollomatic/socket-proxy and heeds them as that does.

In a test's own process it says afterwards what was called; `python3 api_proxy.py OPTIONS` is the same as a program of its own, with
nothing but the standard library, so that it runs in any image that has a Python.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE", "OPTIONS")
# Those that say nothing of what is let through.
_OTHERS = {"loglevel", "logjson", "watchdoginterval", "stoponwatchdog", "shutdowngracetime"}
_TURNED_DOWN = {403: "Forbidden", 405: "Method Not Allowed"}


@dataclass(frozen=True, slots=True)
class Options:
    """What is let through, and where to and from."""

    listen: Path
    mode: int
    engine: Path
    paths: dict[str, list[re.Pattern[str]]]  # by method; all of a path must fit one
    directories: tuple[str, ...]  # that may be mounted; all may where there are none

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Options:
        given: dict[str, str] = {}
        paths: dict[str, list[re.Pattern[str]]] = {}
        for argument in arguments:
            name, _, value = argument.removeprefix("-").partition("=")
            known = {f"allow{method}" for method in _METHODS} | _OTHERS
            known |= {
                "proxysocketendpoint",
                "proxysocketendpointfilemode",
                "socketpath",
                "allowbindmountfrom",
            }
            if not argument.startswith("-") or name not in known or name in given:
                raise ValueError(f"{argument}: no option, or a second time")
            if name.removeprefix("allow") in _METHODS:
                paths.setdefault(name.removeprefix("allow"), []).append(re.compile(value, re.ASCII))
            else:
                given[name] = value
        return cls(
            listen=Path(given["proxysocketendpoint"]),
            mode=int(given.get("proxysocketendpointfilemode", "0o600"), 0),
            engine=Path(given.get("socketpath", "/var/run/docker.sock")),
            paths=paths,
            directories=tuple(filter(None, given.get("allowbindmountfrom", "").split(","))),
        )

    def refusal(self, method: str, target: str, body: bytes) -> int | None:
        """A status, or None for what is let through."""
        if method not in self.paths:
            return 405
        path = unquote(urlsplit(target).path)
        if not any(pattern.fullmatch(path) for pattern in self.paths[method]):
            return 403
        if method == "POST" and self.directories and not self._may_mount(path, body):
            return 403
        return None

    def _may_mount(self, path: str, body: bytes) -> bool:
        """As version 1.13 has it: what a container would have from others is not known, and so refused."""
        if path.endswith("/volumes/create"):
            asked = json.loads(body)
            sources = [_bound(asked.get("Driver"), asked.get("DriverOpts"))]
        elif path.endswith("/containers/create"):
            settings = json.loads(body).get("HostConfig") or {}
            if settings.get("VolumesFrom"):
                return False
            sources = [bind.partition(":")[0] for bind in settings.get("Binds") or []]
            for mount in settings.get("Mounts") or []:
                driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
                bound = _bound(driver.get("Name"), driver.get("Options"))
                sources.append(mount["Source"] if mount["Type"] == "bind" else bound)
        else:
            return True
        return all(
            any(source == each or source.startswith(f"{each}/") for each in self.directories)
            for source in sources
            if source.startswith("/")
        )


def _bound(driver: str | None, options: dict[str, str] | None) -> str:
    """The directory that a volume of the local driver is a bind mount of; other devices are let through."""
    binds = {"bind", "rbind"} & {each.strip() for each in (options or {}).get("o", "").split(",")}
    return (options or {}).get("device", "") if binds and driver in {None, "", "local"} else ""


@dataclass(slots=True)
class ApiProxy:
    """A proxy that runs. Each connection serves one request."""

    options: Options
    calls: list[tuple[str, str]] = field(default_factory=list)  # method and path, without the API's version
    refused: list[tuple[str, str]] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        serve_each(listener, self._serve_one)

    def _serve_one(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            request = request_of(client)
            if request is None:
                return
            head, rest, method, target, path = request
            status = self.options.refusal(method, target, rest)
            (self.calls if status is None else self.refused).append((method, path))
            if status is not None:
                sys.stderr.write(f"blocked request: {method} {target}\n")
                message = _TURNED_DOWN[status]
                client.sendall(
                    f"HTTP/1.1 {status} {message}\r\nContent-Type: text/plain; charset=utf-8\r\n"
                    f"Content-Length: {len(message)}\r\nConnection: close\r\n\r\n{message}".encode()
                )
                return
            if not re.search(rb"^upgrade:", head, re.IGNORECASE | re.MULTILINE):
                # Then nothing that follows on this connection is a request.
                head = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE)
                head += b"\r\nConnection: close"
            self._relay(client, head + b"\r\n\r\n" + rest)

    def _relay(self, client: socket.socket, first: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self.options.engine))
            engine.sendall(first)
            threading.Thread(target=copy_all, args=(client, engine), daemon=True).start()
            copy_all(engine, client)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def serve_each(listener: socket.socket, serve_one: Callable[[socket.socket], None]) -> None:
    """Until it is closed, each connection in a thread of its own."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve_one, args=(client,), daemon=True).start()


def request_of(client: socket.socket) -> tuple[bytes, bytes, str, str, str] | None:
    """Head, body, method, target, and of that the path without the API's version; None if there is no request."""
    head, rest = head_of(client)
    if not head:
        return None
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
    length = re.search(rb"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
    while length and len(rest) < int(length[1]):
        rest += client.recv(1 << 16)
    return head, rest, method, target, re.sub(r"^/v[\d.]+(?=/)", "", unquote(urlsplit(target).path))


def head_of(client: socket.socket) -> tuple[bytes, bytes]:
    """A request up to the empty line, and what came after that."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(1 << 16)
        if not more:
            return b"", b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def copy_all(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def api_proxy(options: Options) -> Iterator[ApiProxy]:
    """One that runs until the end of the block."""
    with _listening(options) as listener:
        proxy = ApiProxy(options)
        threading.Thread(target=proxy.serve, args=(listener,), daemon=True).start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def _listening(options: Options) -> Iterator[socket.socket]:
    options.listen.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(options.listen))
        options.listen.chmod(options.mode)
        listener.listen(128)
        yield listener


def main() -> None:
    # the first process of a container gets no signal that it has no handler for
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    options = Options.parse(sys.argv[1:])
    with _listening(options) as listener:
        ApiProxy(options).serve(listener)


if __name__ == "__main__":
    main()
