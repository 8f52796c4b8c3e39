"""Objects on their way from an S3 bucket: several ranges of one at once."""

from __future__ import annotations

import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from volferry.errors import StoreError
from volferry.stores.s3_answers import MISSING, GarbledResponse, error_code
from volferry.stores.s3_look import head
from volferry.stores.s3_received import tag_of
from volferry.stores.s3_ways import GET, UNCHANGED, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    from volferry.stores.s3_transfer import Transfers
    from volferry.stores.throttle import Direction

_RANGE_BYTES = 8 << 20
_RANGES_AHEAD = 4
_READ_BYTES = 8 << 20
_WHOLE = 200  # HTTP status of an answer that is no part
_CONTENT_RANGE = re.compile(r"bytes[ =]+(\d+)-(\d+)/(\d+|\*)")


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
        self._bytes: int | None = None  # of the object, where the server does not say it with a range
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
        found = self._range(start, size)
        self._etag = self._etag or found.etag or None
        pieces = [found.data]
        got, wanted = len(found.data), min(size, found.total_bytes - start)
        while 0 < got < wanted:  # some servers give less at a time than they are asked for
            piece = self._range(start + got, wanted - got).data
            if not piece:
                raise self._changed()
            pieces.append(piece)
            got += len(piece)
        return found if len(pieces) == 1 else found._replace(data=b"".join(pieces))

    def _range(self, start: int, size: int) -> _Range:
        """Up to `size` bytes from `start`, or as many as the server gives at once."""

        def get(client: Any, way: Way) -> _Range:
            response = client.get_object(
                Bucket=self._server.bucket,
                Key=self._name,
                Range=f"bytes={start}-{start + size - 1}",
                **({"IfMatch": self._etag} if UNCHANGED in way else {}),
            )
            found = _content(response, start, size, self._transfers.throttle.down, self._object_bytes)
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

    def _object_bytes(self) -> int:
        """Where the server does not say it with a range. Raises GarbledResponse, StoreError."""
        if self._bytes is None:
            found = head(self._transfers, self._name, self._key)
            if found is None:
                raise GarbledResponse("it gives an object, and says that there is none")
            self._bytes = int(found["ContentLength"])
        return self._bytes

    def _missing_is_said(self) -> None:
        """An object that is not there is an error also when none of its bytes are asked for."""
        self._fetch(0, 1)


def _content(
    response: Any, start: int, size: int, throttle: Direction, object_bytes: Callable[[], int]
) -> _Range:
    """Up to `size` bytes from `start`; fewer at the end of the object, or where the server gives less. Raises GarbledResponse for a body that
    is not the one that was announced.
    """
    announced: int | None = int(response["ContentLength"]) if "ContentLength" in response else None
    found = _CONTENT_RANGE.fullmatch(str(response.get("ContentRange", "")).strip())
    if found:
        first, last, of = int(found[1]), int(found[2]), found[3]
        if first != start or last < first or (announced is not None and announced != last - first + 1):
            raise GarbledResponse("another range came than was asked for")
        total = int(of) if of.isdigit() else object_bytes()
        skipped, expected = 0, last - first + 1
    elif response["ResponseMetadata"]["HTTPStatusCode"] == _WHOLE:
        total = object_bytes() if announced is None else announced
        skipped, expected = start, max(total - start, 0)
    else:  # a part, and nothing says which: what else could it be than what was asked for
        total = object_bytes()
        skipped, expected = 0, min(size, max(total - start, 0)) if announced is None else announced
        if announced is not None and announced != min(size, max(total - start, 0)):
            raise GarbledResponse("another range came than was asked for")
    expected = min(expected, size)
    body = response["Body"]
    try:
        for _ in _pieces(body, skipped, throttle):
            pass
        content = b"".join(_pieces(body, expected, throttle))
        if not skipped and total <= start + expected and body.read(1):
            raise GarbledResponse("more came than was announced")
    except (BotoCoreError, HTTPError, OSError) as error:
        raise GarbledResponse(f"the answer broke off: {error}") from error
    finally:
        body.close()
    if len(content) != expected:
        raise GarbledResponse("the answer broke off")
    return _Range(content, total, str(response.get("ETag", "")))


def _pieces(body: Any, size: int, throttle: Direction) -> Iterator[bytes]:
    """Up to `size` bytes. What comes faster than it is taken waits at the server."""
    while size > 0 and (
        piece := body.read(min(size, throttle.piece_bytes if throttle.is_limited else _READ_BYTES))
    ):
        throttle.take(len(piece))
        size -= len(piece)
        yield piece


def _tag(text: str) -> str:
    return tag_of({"ETag": text})
