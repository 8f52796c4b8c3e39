"""An engine whose API changes: while we are connected to it, and in what it says."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from volferry.engine.carry import containers_of, copy_image
from volferry.engine.client import connect
from volferry.engine.volumes import volume_sizes
from volferry.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Changing(ThreadingHTTPServer):
    """An engine that takes no other version than its own, and what is in `also`."""

    daemon_threads = True
    version = "1.51"
    also: frozenset[str] = frozenset()

    def answer(self, path: str) -> tuple[int, Any]:
        if path == "/version":
            return 200, {"ApiVersion": self.version}
        version, _, call = path.removeprefix("/v").partition("/")
        if version not in {self.version, *self.also}:
            kind = "new" if float(version) > float(self.version) else "old"
            return 400, {
                "message": f"client version {version} is too {kind}. The supported API version is {self.version}"
            }
        call = call.partition("?")[0]
        if call == "info":
            return 200, {"Name": "machine"}
        if call == "system/df":
            items = [{"Name": "data", "UsageData": {"Size": 7}}, {"Name": "odd", "UsageData": {"Size": -1}}]
            return 200, {"VolumesUsage": {"Items": items}} if self.version == "1.53" else {"Volumes": items}
        if call == "containers/json":
            return 200, [
                {
                    "Id": "a" * 64,
                    "Names": ["/web"],
                    "Labels": {},
                    "Mounts": [{"Type": "volume", "Name": "data"}],
                }
            ]
        if call.startswith("containers/"):
            config = {} if version == "1.53" else {"MacAddress": "02:42:ac:11:00:99"}
            return 200, {"Id": "a" * 64, "Name": "/web", "Config": config}
        if call == "images/load":
            return 200, {"errorDetail": {"message": "no space left"}}
        return 200, {}


class Handler(BaseHTTPRequestHandler):
    server: Changing

    def do_GET(self) -> None:
        status, document = self.server.answer(self.path)
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while int(self.rfile.readline(), 16):
                self.rfile.readline()
        self.close_connection = True
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Changing]:
    with Changing(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.mark.parametrize("later", ["1.41", "1.53"])
def test_an_engine_that_was_upgraded_or_downgraded_is_understood(server: Changing, later: str) -> None:
    engine = connect(f"tcp://127.0.0.1:{server.server_port}")
    try:
        assert volume_sizes(engine) == {"data": 7}
        server.version = later
        assert volume_sizes(engine) == {"data": 7}
        assert engine.api.api_version == later
    finally:
        engine.close()


def test_a_mac_address_that_was_chosen_is_asked_for_as_older_engines_say_it(server: Changing) -> None:
    server.version, server.also = "1.53", frozenset({"1.51"})
    engine = connect(f"tcp://127.0.0.1:{server.server_port}")
    try:
        (found,) = containers_of(engine, ["data"], None)
        assert found["Config"] == {"MacAddress": "02:42:ac:11:00:99"}
        server.also = frozenset()
        (found,) = containers_of(engine, ["data"], None)
        assert found["Config"] == {}
    finally:
        engine.close()


def test_what_an_engine_says_against_an_image_names_the_image(server: Changing) -> None:
    engine = connect(f"tcp://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(EngineError, match="image shop/app:1: no space left"):
            copy_image(engine, engine, "shop/app:1", lambda _: None)
    finally:
        engine.close()
