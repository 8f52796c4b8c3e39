"""An HTTP server that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# A bucket's, with nothing in it.
EMPTY_LIST = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>bucket</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]  # by name, in small letters


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    body: str = ""


@dataclass(slots=True)
class AnsweringServer:
    endpoint: str
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def answering_server(answer: Callable[[Asked], Answer]) -> Iterator[AnsweringServer]:
    """One that listens from here to the end of the block."""
    asked: list[Asked] = []

    def heard(each: Asked) -> Answer:
        asked.append(each)
        return answer(each)

    with serving(_Handler, heard) as endpoint:
        yield AnsweringServer(endpoint, asked)


@contextmanager
def serving(kind: type[BaseHTTPRequestHandler], answer: Callable[[Any], object]) -> Iterator[str]:
    """The endpoint of a server, until the end of the block, whose handlers have `answer`."""
    handler = type("Handler", (kind,), {"answer": staticmethod(answer)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer: Callable[[Asked], Answer]

    def _do(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        said = self.answer(Asked(self.command, self.path, headers))
        body = said.body.encode()
        self.send_response(said.status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do  # noqa: N815 -- http.server's names

    def log_message(self, *arguments: object) -> None:
        pass
