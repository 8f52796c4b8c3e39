"""Objects on their way to and from an S3 bucket: several parts, or ranges, of one at once."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ReadTimeoutError
from urllib3.exceptions import HTTPError

from volferry.errors import ObjectExists, StoreError
from volferry.interrupts import held_back
from volferry.stores.s3_client import (
    EXISTS,
    MISSING,
    NOT_KNOWN,
    GarbledResponse,
    content_md5,
    error_code,
    md5,
    was_tried_again,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor
    from types import TracebackType

    from volferry.stores.s3_client import Server
    from volferry.stores.uploads import Uploads

_RANGE_BYTES = 8 << 20
_RANGES_AHEAD = 4
_READ_BYTES = 1 << 20
_LARGEST_NUMBER = 10_000  # of parts (docs.aws.amazon.com, "Amazon S3 multipart upload limits")
_ABORT_SECONDS = 10


class Part(NamedTuple):
    """One that the server has."""

    number: int
    etag: str
    md5: bytes


class Transfers:
    """What all objects of a store share: the server, threads, and how objects are put."""

    def __init__(
        self,
        server: Server,
        pool: ThreadPoolExecutor,
        *,
        url: str,
        part_bytes: int,
        parallel_parts: int,
        uploads: Uploads,
        conditions: Conditions,
        arguments: Callable[[], dict[str, Any]],
    ) -> None:
        self.server = server
        self.pool = pool
        self.url = url
        self.part_bytes = part_bytes
        self.parallel_parts = parallel_parts
        self.uploads = uploads
        self.conditions = conditions
        self.arguments = arguments  # of every new object: storage class, encryption, retention

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        with held_back():  # the pool may start a thread
            return self.pool.submit(job)


class Conditions:
    """Whether the server heeds `If-None-Match: *`; found out with the first small object, and remembered."""

    def __init__(self, *, known: bool | None, remember: Callable[[bool], None]) -> None:
        self.heeded = known
        self._remember = remember
        self._lock = threading.Lock()

    @property
    def arguments(self) -> dict[str, Any]:
        return {} if self.heeded is False else {"IfNoneMatch": "*"}

    def found(self, *, heeded: bool) -> None:
        with self._lock:
            if self.heeded is None:
                self.heeded = heeded
                self._remember(heeded)


class S3Writer:
    """Implements `ObjectWriter`. Memory: `parallel_parts` + 1 parts."""

    def __init__(self, transfers: Transfers, name: str, key: str) -> None:
        self._transfers = transfers
        self._server = transfers.server
        self._name = name  # in the bucket
        self._key = key
        self._buffer = bytearray()
        self._upload: str | None = None
        self._parts: list[Part] = []
        self._under_way: deque[Future[Part]] = deque()
        self._number = 0
        self._bytes = 0
        self._ended = False

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self._transfers.part_bytes - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == self._transfers.part_bytes:
                self._send()

    def commit(self) -> None:
        try:
            if self._upload is None:
                self._put()
            else:
                if self._buffer:
                    self._send()
                while self._under_way:
                    self._parts.append(self._under_way.popleft().result())
                self._complete()
            self._ended = True
        finally:
            self.abort()

    def abort(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._buffer = bytearray()
        if self._upload is None:
            return
        for future in self._under_way:
            future.cancel()
        # A part that arrives after the upload was aborted would stay.
        wait([future for future in self._under_way if not future.cancelled()], timeout=_ABORT_SECONDS)
        abort_upload(self._server, self._name, self._upload)
        self._transfers.uploads.ended(self._upload)

    def _send(self) -> None:
        """The buffer becomes a part on its way."""
        if self._upload is None:
            self._begin()
        while len(self._under_way) >= self._transfers.parallel_parts:
            self._parts.append(self._under_way.popleft().result())
        self._number += 1
        if self._number > _LARGEST_NUMBER:
            raise StoreError(
                f"cannot write {self._key} to the store {self._transfers.url}: part_size is too small for it"
            )
        data, number = self._buffer, self._number
        self._bytes += len(data)
        self._buffer = bytearray()
        self._under_way.append(self._transfers.submit(partial(self._send_part, number, data)))

    def _begin(self) -> None:
        what = f"write {self._key}"
        with held_back():
            begun = self._server.call(
                what,
                lambda client: client.create_multipart_upload(
                    Bucket=self._server.bucket, Key=self._name, **self._transfers.arguments()
                ),
            )
            self._upload = begun["UploadId"]
            self._transfers.uploads.begun(self._name, self._upload)

    def _send_part(self, number: int, data: bytearray) -> Part:
        digest = md5(data)

        def send(client: Any) -> str:
            response = client.upload_part(
                Bucket=self._server.bucket,
                Key=self._name,
                UploadId=str(self._upload),
                PartNumber=number,
                Body=bytes(data),
                ContentMD5=content_md5(digest),
            )
            check_etag(response, digest)
            return str(response["ETag"])

        try:
            return Part(number, self._server.call(f"write {self._key}", send), digest)
        except ClientError as error:
            raise self._server.error(f"write {self._key}", error) from error

    def _put(self) -> None:
        data = bytes(self._buffer)
        digest = md5(data)
        repeated = 0

        def put(client: Any) -> None:
            nonlocal repeated
            repeated += 1
            response = client.put_object(
                Bucket=self._server.bucket,
                Key=self._name,
                Body=data,
                ContentMD5=content_md5(digest),
                **self._transfers.conditions.arguments,
                **self._transfers.arguments(),
            )
            check_etag(response, digest)

        if self._transfers.conditions.heeded is not True:
            self._refuse_if_there()
        try:
            self._conditionally(put)
        except ClientError as error:
            if error_code(error) not in EXISTS:
                raise self._server.error(f"write {self._key}", error) from error
            if not (
                (was_tried_again(error.response) or repeated > 1) and self._is_ours(digest.hex(), len(data))
            ):
                raise self._exists() from error
        if self._transfers.conditions.heeded is None:
            self._find_out(put)

    def _find_out(self, put: Callable[[Any], None]) -> None:
        """Puts the same bytes once more: a server that heeds the condition refuses, for they are there."""
        try:
            self._server.call(f"write {self._key}", put)
        except ClientError as error:
            if error_code(error) not in EXISTS:
                raise self._server.error(f"write {self._key}", error) from error
            self._transfers.conditions.found(heeded=True)
        else:
            self._transfers.conditions.found(heeded=False)

    def _complete(self) -> None:
        parts = [{"PartNumber": part.number, "ETag": part.etag} for part in self._parts]
        etag = f"{md5(b''.join(part.md5 for part in self._parts)).hex()}-{len(parts)}"
        repeated = 0

        def complete(client: Any) -> None:
            nonlocal repeated
            repeated += 1
            client.complete_multipart_upload(
                Bucket=self._server.bucket,
                Key=self._name,
                UploadId=str(self._upload),
                MultipartUpload={"Parts": parts},
                **self._transfers.conditions.arguments,
            )

        if self._transfers.conditions.heeded is not True:
            self._refuse_if_there()
        try:
            with held_back():
                self._conditionally(complete)
        except ClientError as error:
            # The answer to an earlier attempt may have been lost: then the object is there, and the upload is not.
            if (was_tried_again(error.response) or repeated > 1) and self._is_ours(etag, self._bytes):
                pass
            elif error_code(error) in EXISTS:
                raise self._exists() from error
            else:
                raise self._server.error(f"write {self._key}", error) from error
        self._transfers.uploads.ended(str(self._upload))

    def _conditionally(self, request: Callable[[Any], None]) -> None:
        """With the condition; without it where the server says that it does not know it."""
        try:
            self._server.call(f"write {self._key}", request)
        except ClientError as error:
            if error_code(error) not in NOT_KNOWN or self._transfers.conditions.heeded is not None:
                raise
            self._transfers.conditions.found(heeded=False)
            self._server.call(f"write {self._key}", request)

    def _refuse_if_there(self) -> None:
        """For servers that do not do it: nobody else writes the same key on purpose, for ids are random."""
        if self._head() is not None:
            raise self._exists()

    def _is_ours(self, etag: str, size: int) -> bool:
        found = self._head()
        return (
            found is not None
            and found["ContentLength"] == size
            and (found["ETag"].strip('"') == etag or not _is_of_content(found))
        )

    def _head(self) -> Any:
        try:
            return self._server.call(
                f"read {self._key}",
                lambda client: client.head_object(Bucket=self._server.bucket, Key=self._name),
            )
        except ClientError as error:
            if error_code(error) in MISSING:
                return None
            raise self._server.error(f"read {self._key}", error) from error

    def _exists(self) -> ObjectExists:
        return ObjectExists(f"{self._key} is in the store {self._transfers.url} already")


def abort_upload(server: Server, name: str, upload: str) -> None:
    """What cannot be aborted now is aborted by a later `prune`."""
    try:
        server.call(
            "end an upload",
            lambda client: client.abort_multipart_upload(Bucket=server.bucket, Key=name, UploadId=upload),
        )
    except (StoreError, ClientError):
        pass


def check_etag(response: Any, digest: bytes) -> None:
    """Raises GarbledResponse if the server has other bytes than were sent."""
    etag = str(response.get("ETag", "")).strip('"')
    if _is_of_content(response) and len(etag) == 2 * len(digest) and etag != digest.hex():
        raise GarbledResponse("the server has other bytes than were sent")


def _is_of_content(response: Any) -> bool:
    """Whether the entity tag is the MD5 of the content: it is not where the server encrypts with keys of its own
    (docs.aws.amazon.com, "Common response headers").
    """
    return str(response.get("ServerSideEncryption", "AES256")) == "AES256"


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
            raise StoreError(
                f"cannot read {self._key} in the store {self._transfers.url}: it changed meanwhile"
            )
        return found

    def _fetch(self, start: int, size: int) -> _Range:
        """Up to `size` bytes from `start`, fewer only at the end of the object."""

        def get(client: Any) -> _Range:
            response = client.get_object(
                Bucket=self._server.bucket,
                Key=self._name,
                Range=f"bytes={start}-{start + size - 1}",
                **({"IfMatch": self._etag} if self._etag else {}),
            )
            return _content(response, start, size)

        try:
            return self._server.call(f"read {self._key}", get)
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


def _content(response: Any, start: int, size: int) -> _Range:
    """Raises GarbledResponse for a body that is not the one that was announced."""
    announced = int(response["ContentLength"])
    total = _total_bytes(response, start, announced)
    if announced != min(size, total - start):
        raise GarbledResponse("another range came than was asked for")
    body = response["Body"]
    parts = []
    try:
        while data := body.read(_READ_BYTES):
            parts.append(data)
    except (IncompleteReadError, ReadTimeoutError, BotoCoreError, HTTPError, OSError) as error:
        raise GarbledResponse(f"the answer broke off: {error}") from error
    finally:
        body.close()
    content = b"".join(parts)
    if len(content) != announced:
        raise GarbledResponse("the answer broke off")
    return _Range(content, total, str(response.get("ETag", "")))


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
