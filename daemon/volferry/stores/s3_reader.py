"""Objects on their way from an S3 bucket: several ranges of one at once."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from volferry.errors import StoreError
from volferry.stores.s3_answers import MISSING, GarbledResponse, error_code
from volferry.stores.s3_received import tag_of
from volferry.stores.s3_ways import GET, UNCHANGED, Way

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from volferry.stores.s3_transfer import Transfers
    from volferry.stores.throttle import Direction

_RANGE_BYTES = 8 << 20
_RANGES_AHEAD = 4


class _Range(NamedTuple):
    data: bytes
    total_bytes: int  # of the object
    etag: str


class S3Reader:
    """Implements `ObjectReader`. Ranges after the first are asked for ahead, several at once."""

    def __init__(self, transfers: Transfers, name: str, key: str, offset: int, length: int | None) -> None:
        self._transfers = transfers
        self._server = transfers.server
        self._name = name
        self._key = key
        self._ahead: deque[Future[_Range]] = deque()
        self._data = memoryview(b"")
        self._etag: str | None = None
        if length == 0:
            self._next = self._end = offset
            self._missing_is_said()
            return
        first = _RANGE_BYTES if length is None else min(length, _RANGE_BYTES)
        found = self._fetch(offset, first)
        self._data = memoryview(found.data)
        self._etag = found.etag
        self._end = found.total_bytes if length is None else min(found.total_bytes, offset + length)
        self._next = offset + len(found.data)
        self._look_ahead()

    def read(self, size: int) -> bytes:
        if not self._data and self._ahead:
            self._data = memoryview(self._ahead.popleft().result().data)
            self._look_ahead()
        piece = bytes(self._data[:size])
        self._data = self._data[size:]
        return piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def _look_ahead(self) -> None:
        while self._next < self._end and len(self._ahead) < _RANGES_AHEAD:
            start, size = self._next, min(_RANGE_BYTES, self._end - self._next)
            self._ahead.append(self._transfers.submit(partial(self._whole, start, size)))
            self._next += size

    def _whole(self, start: int, size: int) -> _Range:
        found = self._fetch(start, size)
        if len(found.data) != size:
            raise self._changed()
        return found

    def _changed(self) -> StoreError:
        return StoreError(f"cannot read {self._key} in the store {self._transfers.url}: it changed meanwhile")

    def _fetch(self, start: int, size: int) -> _Range:
        """Up to `size` bytes from `start`, fewer only at the end of the object."""

        def get(client: Any, way: Way) -> _Range:
            response = client.get_object(
                Bucket=self._server.bucket,
                Key=self._name,
                Range=f"bytes={start}-{start + size - 1}",
                **({"IfMatch": self._etag} if UNCHANGED in way else {}),
            )
            found = _content(response, start, size, self._transfers.throttle.down)
            if self._etag and found.etag and _tag(found.etag) != _tag(self._etag):
                raise self._changed()
            return found

        # By a weak tag nothing is the same (RFC 9110, 13.1.1).
        conditions = {UNCHANGED} if self._etag and not self._etag.startswith("W/") else set()
        try:
            return self._transfers.ask(GET, f"read {self._key}", frozenset(conditions), get)
        except ClientError as error:
            code = error_code(error)
            if code in {"InvalidRange", "416"}:  # at or after its end
                return _Range(b"", start, "")
            if code in MISSING:
                raise self._server.missing(self._key, self._transfers.url) from error
            raise self._server.error(f"read {self._key}", error) from error

    def _missing_is_said(self) -> None:
        """An object that is not there is an error also when none of its bytes are asked for."""
        self._fetch(0, 1)


def _content(response: Any, start: int, size: int, throttle: Direction) -> _Range:
    """Raises GarbledResponse for a body that is not the one that was announced."""
    announced = _announced_bytes(response)
    total = _total_bytes(response, start, announced)
    if announced != min(size, total - start):
        raise GarbledResponse("another range came than was asked for")
    body = response["Body"]
    try:
        content = _read(body, throttle)
    except (BotoCoreError, HTTPError, OSError) as error:
        raise GarbledResponse(f"the answer broke off: {error}") from error
    finally:
        body.close()
    if len(content) != announced:
        raise GarbledResponse("the answer broke off")
    return _Range(content, total, str(response.get("ETag", "")))


def _read(body: Any, throttle: Direction) -> bytes:
    """What comes faster than it is taken waits at the server."""
    if not throttle.is_limited:
        found: bytes = body.read()
        return found
    pieces = []
    while piece := body.read(throttle.piece_bytes):
        throttle.take(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def _tag(text: str) -> str:
    return tag_of({"ETag": text})


def _announced_bytes(response: Any) -> int:
    """Of the answer; one that comes in chunks says it by its range alone."""
    if "ContentLength" in response:
        return int(response["ContentLength"])
    first, _, last = str(response["ContentRange"]).removeprefix("bytes ").partition("/")[0].partition("-")
    return int(last) - int(first) + 1


def _total_bytes(response: Any, start: int, announced: int) -> int:
    """Of the object, by `Content-Range: bytes 0-9/100`."""
    text = str(response.get("ContentRange", ""))
    if not text:  # the whole object, from a server that ignores ranges for small ones
        if start:
            raise GarbledResponse("the server ignores which range is asked for")
        return announced
    first, _, rest = text.removeprefix("bytes ").partition("-")
    total = rest.partition("/")[2]
    if not first.isdigit() or not total.isdigit() or int(first) != start:
        raise GarbledResponse("another range came than was asked for")
    return int(total)
