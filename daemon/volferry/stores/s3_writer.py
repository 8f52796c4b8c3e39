"""Objects on their way to an S3 bucket: several parts of one at once."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from volferry.errors import ObjectExists, StoreError
from volferry.interrupts import held_back
from volferry.stores.s3_client import (
    CRC32_BYTES,
    EXISTS,
    MISSING,
    NOT_KNOWN,
    GarbledResponse,
    base64_text,
    crc32,
    error_code,
    md5,
)
from volferry.stores.s3_transfer import Abilities

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.stores.s3_client import Server
    from volferry.stores.s3_transfer import Transfers
    from volferry.stores.throttle import Direction

_SEND_BYTES = 1 << 20
_LARGEST_NUMBER = 10_000  # of parts (docs.aws.amazon.com, "Amazon S3 multipart upload limits")
_ABORT_SECONDS = 10


class Part(NamedTuple):
    """One that the server has."""

    number: int
    etag: str
    digest: bytes  # CRC-32, big-endian, or MD5

    @property
    def document(self) -> dict[str, Any]:
        """As CompleteMultipartUpload has it."""
        crc32 = {"ChecksumCRC32": base64_text(self.digest)} if len(self.digest) == CRC32_BYTES else {}
        return {"PartNumber": self.number, "ETag": self.etag, **crc32}


class _PartBody(BytesIO):
    """Comes in larger pieces than urllib3 asks for, which are of 16 KiB: fewer calls, fewer waits for the interpreter."""

    def __init__(self, data: bytes, throttle: Direction) -> None:
        super().__init__(data)
        self._throttle = throttle

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size < _SEND_BYTES:  # to sign it, where there is no TLS
            return super().read(size)
        # A server ends a connection on which nothing comes for long.
        found = super().read(self._throttle.piece_bytes if self._throttle.is_limited else _SEND_BYTES)
        self._throttle.take(len(found))
        return found


class S3Writer:
    """Implements `ObjectWriter`. Memory: `parallel_parts` + 1 parts."""

    def __init__(
        self,
        transfers: Transfers,
        name: str,
        key: str,
        *,
        replaces: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        """With `replaces`, an object of that key is overwritten: in a bucket with versions, by a newer one. `then` tidies up once the
        object is there, and may fail.
        """
        self._transfers = transfers
        self._server = transfers.server
        self._name = name  # in the bucket
        self._key = key
        self._replaces = replaces
        self._then = then
        self._waiting: list[memoryview] = []  # pieces of the next part
        self._waiting_bytes = 0
        self._beginning: Future[str] | None = None
        self._upload: str | None = None
        self._completing: Future[bool] | None = None
        self._by_crc32 = False
        self._parts: list[Part] = []
        self._under_way: deque[Future[Part]] = deque()
        self._number = 0
        self._bytes = 0
        self._ended = False

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            piece = view[: self._transfers.part_bytes - self._waiting_bytes]
            view = view[len(piece) :]
            self._waiting.append(piece)
            self._waiting_bytes += len(piece)
            if self._waiting_bytes == self._transfers.part_bytes:
                self._send()

    def commit(self) -> None:
        try:
            if self._upload is None:
                self._put()
            else:
                if self._waiting:
                    self._send()
                while self._under_way:
                    self._take_part()
                self._complete()
            self._ended = True
        finally:
            self.abort()
        if self._then is not None:
            with suppress(StoreError):
                self._then()

    def abort(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._waiting = []
        if self._beginning is None:
            return
        for future in self._under_way:
            future.cancel()
        # What arrives after the upload was aborted would stay. A server that is gone is not waited for: `clean` will do it.
        ongoing: list[Future[Any]] = [
            self._beginning,
            *self._under_way,
            *([self._completing] if self._completing else []),
        ]
        wait([future for future in ongoing if not future.cancelled()], timeout=_ABORT_SECONDS)
        if self._beginning.done() and self._beginning.exception() is None:
            wait(
                [self._transfers.submit(partial(self._abort_upload, self._beginning.result()))],
                _ABORT_SECONDS,
            )

    def _abort_upload(self, upload: str) -> None:
        if abort_upload(self._server, self._name, upload):
            self._transfers.uploads.ended(upload)

    def _send(self) -> None:
        """What waits becomes a part on its way."""
        if self._upload is None:
            self._begin()
        while len(self._under_way) >= self._transfers.parallel_parts:
            self._take_part()
        self._number += 1
        if self._number > _LARGEST_NUMBER:
            raise StoreError(
                f"cannot write {self._key} to the store {self._transfers.url}: part_size is too small for it"
            )
        pieces, self._waiting = self._waiting, []
        self._bytes += self._waiting_bytes
        self._waiting_bytes = 0
        with held_back():  # what was begun must be known to `abort`
            self._under_way.append(self._transfers.submit(partial(self._send_part, self._number, pieces)))

    def _take_part(self) -> None:
        """The first of those under way, which stays there while it is waited for."""
        self._parts.append(self._under_way[0].result())
        self._under_way.popleft()

    def _begin(self) -> None:
        self._by_crc32 = self._transfers.knowledge.checks_crc32
        checksum = {"ChecksumAlgorithm": "CRC32"} if self._by_crc32 else {}

        def begin() -> str:
            upload = self._server.call(
                f"write {self._key}",
                lambda client: str(
                    client.create_multipart_upload(
                        Bucket=self._server.bucket, Key=self._name, **checksum, **self._transfers.arguments()
                    )["UploadId"]
                ),
            )
            self._transfers.uploads.begun(self._name, upload)
            return upload

        # In a thread, where no signal comes in between; this one may be interrupted while it waits.
        with held_back():
            self._beginning = self._transfers.submit(begin)
        self._upload = self._beginning.result()

    def _send_part(self, number: int, pieces: list[memoryview]) -> Part:
        data = b"".join(pieces)
        pieces.clear()
        digest = crc32(data) if self._by_crc32 else md5(data)
        checksum = {"ChecksumCRC32" if self._by_crc32 else "ContentMD5": base64_text(digest)}

        def send(client: Any) -> str:
            response = client.upload_part(
                Bucket=self._server.bucket,
                Key=self._name,
                UploadId=str(self._upload),
                PartNumber=number,
                Body=_PartBody(data, self._transfers.throttle.up),
                **checksum,
            )
            check_received(response, digest)
            return str(response["ETag"])

        try:
            return Part(number, self._server.call(f"write {self._key}", send), digest)
        except ClientError as error:
            raise self._server.error(f"write {self._key}", error) from error

    def _put(self) -> None:
        data = b"".join(self._waiting)
        digest = md5(data)
        repeated = 0
        with_crc32 = self._transfers.knowledge.abilities is None or self._transfers.knowledge.checks_crc32
        checksum = {"ChecksumCRC32": base64_text(crc32(data))} if with_crc32 else {}

        def put(client: Any) -> bool:
            """Returns whether the server has checked the CRC-32."""
            nonlocal repeated
            repeated += 1
            response = client.put_object(
                Bucket=self._server.bucket,
                Key=self._name,
                Body=_PartBody(data, self._transfers.throttle.up),
                ContentMD5=base64_text(digest),
                **checksum,
                **self._condition,
                **self._transfers.arguments(),
            )
            check_received(response, digest)
            return with_crc32 and response.get("ChecksumCRC32") == checksum["ChecksumCRC32"]

        self._refuse_if_there()
        try:
            checks_crc32 = self._conditionally(put)
        except ClientError as error:
            if error_code(error) not in EXISTS:
                raise self._server.error(f"write {self._key}", error) from error
            if not (repeated > 1 and self._is_ours(digest.hex(), len(data))):
                raise self._exists() from error
            return
        if self._transfers.knowledge.abilities is None and not self._replaces:
            self._transfers.knowledge.found(Abilities(self._is_refused(put), checks_crc32))

    def _is_refused(self, put: Callable[[Any], bool]) -> bool:
        """Puts the same bytes once more: a server that heeds the condition refuses, for they are there."""
        try:
            self._server.call(f"write {self._key}", put)
        except ClientError as error:
            if error_code(error) not in EXISTS:
                raise self._server.error(f"write {self._key}", error) from error
            return True
        return False

    def _complete(self) -> None:
        all_digests = b"".join(part.digest for part in self._parts)
        whole = f"{base64_text(crc32(all_digests)) if self._by_crc32 else md5(all_digests).hex()}-{len(self._parts)}"
        repeated = 0

        def complete(client: Any) -> bool:
            nonlocal repeated
            repeated += 1
            client.complete_multipart_upload(
                Bucket=self._server.bucket,
                Key=self._name,
                UploadId=str(self._upload),
                MultipartUpload={"Parts": [part.document for part in self._parts]},
                **self._condition,
            )
            return True

        self._refuse_if_there()
        try:
            with held_back():
                self._completing = self._transfers.submit(partial(self._conditionally, complete))
            self._completing.result()
        except ClientError as error:
            # The answer to an earlier attempt may have been lost: then the object is there, and the upload is not.
            if repeated > 1 and self._is_ours(whole, self._bytes):
                pass
            elif error_code(error) in EXISTS:
                raise self._exists() from error
            else:
                raise self._server.error(f"write {self._key}", error) from error
        self._transfers.uploads.ended(str(self._upload))

    def _conditionally(self, request: Callable[[Any], bool]) -> bool:
        """With the condition; without it where the server says that it does not know it."""
        knowledge = self._transfers.knowledge
        try:
            return self._server.call(f"write {self._key}", request)
        except ClientError as error:
            if error_code(error) not in NOT_KNOWN or knowledge.abilities is not None:
                raise
            knowledge.found(Abilities(heeds_if_none_match=False, checks_crc32=False))
            return self._server.call(f"write {self._key}", request)

    def _refuse_if_there(self) -> None:
        """For servers that do not do it: nobody else writes the same key on purpose, for ids are random."""
        if self._replaces or self._transfers.knowledge.heeds_if_none_match:
            return
        if self._head() is not None:
            raise self._exists()

    @property
    def _condition(self) -> dict[str, str]:
        return {} if self._replaces else self._transfers.knowledge.condition

    def _is_ours(self, whole: str, size: int) -> bool:
        """Whether what is there has the digest that we sent, or is of the same size where no digest tells."""
        found = self._head()
        if found is None or found["ContentLength"] != size:
            return False
        if not is_of_content(found):
            return True
        return whole in {found["ETag"].strip('"'), found.get("ChecksumCRC32")}

    def _head(self) -> Any:
        try:
            return self._server.call(
                f"read {self._key}",
                lambda client: client.head_object(
                    Bucket=self._server.bucket, Key=self._name, ChecksumMode="ENABLED"
                ),
            )
        except ClientError as error:
            if error_code(error) in MISSING:
                return None
            raise self._server.error(f"read {self._key}", error) from error

    def _exists(self) -> ObjectExists:
        return ObjectExists(f"{self._key} is in the store {self._transfers.url} already")


def abort_upload(server: Server, name: str, upload: str) -> bool:
    """Returns whether it is gone. What cannot be aborted now is aborted by a later `prune`."""
    try:
        server.call(
            "end an upload",
            lambda client: client.abort_multipart_upload(Bucket=server.bucket, Key=name, UploadId=upload),
        )
    except ClientError:  # there is no such upload
        return True
    except StoreError:
        return False
    return True


def check_received(response: Any, digest: bytes) -> None:
    """Raises GarbledResponse if the server has other bytes than were sent."""
    if len(digest) == CRC32_BYTES:
        wrong = response.get("ChecksumCRC32") != base64_text(digest)
    else:
        etag = str(response.get("ETag", "")).strip('"')
        wrong = is_of_content(response) and len(etag) == 2 * len(digest) and etag != digest.hex()
    if wrong:
        raise GarbledResponse("the server has other bytes than were sent")


def is_of_content(response: Any) -> bool:
    """Whether the entity tag is the MD5 of the content: it is not where the server encrypts with keys of its own
    (docs.aws.amazon.com, "Common response headers").
    """
    return str(response.get("ServerSideEncryption", "AES256")) == "AES256"
