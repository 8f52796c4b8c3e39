"""An HTTP proxy in front of a real S3 server, which makes it one that does not take, or answers otherwise, what others do."""

from __future__ import annotations

import http.client
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from tests.parts.http_answers import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECKSUM_HEADERS = (
    "x-amz-checksum-algorithm",
    "x-amz-checksum-crc32",
    "x-amz-checksum-mode",
    "x-amz-checksum-type",
    "x-amz-sdk-checksum-algorithm",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; headers by name, in small letters."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def key(self) -> str:
        """Of the object in the bucket; empty for the bucket itself."""
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]

    @property
    def call(self) -> str:
        """As S3 names it."""
        query = self.query
        if not self.key:
            for name, call in (
                ("uploads", "ListMultipartUploads"),
                ("versioning", "GetBucketVersioning"),
                ("lifecycle", "GetBucketLifecycleConfiguration"),
                ("list-type", "ListObjectsV2"),
            ):
                if name in query:
                    return call
            return {"HEAD": "HeadBucket", "GET": "ListObjects"}.get(self.method, self.method)
        if "uploadId" in query:
            return {
                "PUT": "UploadPart",
                "POST": "CompleteMultipartUpload",
                "DELETE": "AbortMultipartUpload",
                "GET": "ListParts",
            }[self.method]
        if "retention" in query:
            return "PutObjectRetention"
        if "uploads" in query:
            return "CreateMultipartUpload"
        return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}[
            self.method
        ]

    def without(self, *names: str) -> Asked:
        """Headers that a server ignores; its signatures are not looked at, then."""
        return replace(
            self, headers={name: value for name, value in self.headers.items() if name not in names}
        )


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_without_length: bool = False  # it ends with the connection
    is_without_date: bool = False

    @classmethod
    def error(cls, status: int, code: str, message: str) -> Answer:
        document = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        return cls(status, {"Content-Type": "application/xml"}, document.encode())

    def set(self, name: str, value: str | None) -> None:
        """Also in another case; None takes it away."""
        for each in [each for each in self.headers if each.lower() == name.lower()]:
            del self.headers[each]
        if value is not None:
            self.headers[name] = value

    def get(self, name: str) -> str:
        return next((value for each, value in self.headers.items() if each.lower() == name.lower()), "")


@dataclass(slots=True)
class S3Proxy:
    endpoint: str
    # Answers, or passes on and changes what comes back.
    behaviour: Callable[[Asked, Callable[[Asked], Answer]], Answer] = lambda asked, pass_on: pass_on(asked)
    asked: list[Asked] = field(default_factory=list)
    statuses: list[tuple[str, int]] = field(default_factory=list)  # of the answers, by call

    def errors(self) -> list[tuple[str, int]]:
        """Of what was asked, but for those that say that something is there, or is not."""
        return [
            (call, status) for call, status in self.statuses if status >= 400 and status not in {404, 412}
        ]

    def forget(self) -> None:
        self.asked.clear()
        self.statuses.clear()

    def calls(self, *names: str) -> list[Asked]:
        return [each for each in self.asked if each.call in names]


@contextmanager
def s3_proxy(upstream: str) -> Iterator[S3Proxy]:
    """In front of `upstream`, until the end of the block."""

    def answer(asked: Asked) -> Answer:
        proxy.asked.append(asked)
        said = proxy.behaviour(asked, lambda each: _passed_on(upstream, each))
        proxy.statuses.append((asked.call, said.status))
        return said

    with serving(_Handler, answer) as endpoint:
        proxy = S3Proxy(endpoint)
        yield proxy


def _passed_on(upstream: str, asked: Asked) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=60)
    try:
        connection.putrequest(asked.method, asked.target, skip_host=True, skip_accept_encoding=True)
        for name, value in asked.headers.items():
            if name != "connection":
                connection.putheader(name, value)
        connection.endheaders(asked.body)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer: Callable[[Asked], Answer]

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        said = self.answer(Asked(self.command, self.path, headers, body))
        self.send_response_only(said.status)
        for name, value in said.headers.items():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        if not said.get("Date") and not said.is_without_date:
            self.send_header("Date", self.date_time_string())
        length = said.get("Content-Length") if self.command == "HEAD" else str(len(said.body))
        if said.is_without_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", length or str(len(said.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do  # noqa: N815 -- http.server's names

    def log_message(self, *arguments: object) -> None:
        pass
