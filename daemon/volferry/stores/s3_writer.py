"""Objects on their way to an S3 bucket: several parts of one at once."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from volferry.errors import StoreError
from volferry.interrupts import held_back
from volferry.stores.s3_answers import MISSING, GarbledResponse, error_code
from volferry.stores.s3_completion import Completion, Part
from volferry.stores.s3_put import SmallObject
from volferry.stores.s3_received import Receipt, Sent, tag_to_say
from volferry.stores.s3_transfer import Body
from volferry.stores.s3_ways import BEGIN, CRC32, CRC32_OF_PART, MD5, PART, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.stores.s3_client import Server
    from volferry.stores.s3_transfer import Transfers

_LARGEST_NUMBER = 10_000  # of parts (docs.aws.amazon.com, "Amazon S3 multipart upload limits")
_ABORT_SECONDS = 10
_TAG_ATTEMPTS = 3  # of a part whose entity tag is another MD5: then it is none


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
        arguments: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """With `replaces`, an object of that key is overwritten: in a bucket with versions, by a newer one. `then` tidies up once the
        object is there, and may fail. `arguments` in place of those of every new object.
        """
        self._transfers = transfers
        self._server = transfers.server
        self._name = name  # in the bucket
        self._key = key
        self._replaces = replaces
        self._then = then
        self._arguments = arguments or transfers.arguments
        self._waiting: list[memoryview] = []  # pieces of the next part
        self._waiting_bytes = 0
        self._beginning: Future[str] | None = None
        self._upload: str | None = None
        self._completing: Future[None] | None = None
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
        def ask(client: Any, way: Way) -> str:
            response = client.create_multipart_upload(
                Bucket=self._server.bucket,
                Key=self._name,
                **({"ChecksumAlgorithm": "CRC32"} if CRC32 in way else {}),
                **self._arguments(),
            )
            self._by_crc32 = CRC32 in way
            return str(response["UploadId"])

        def begin() -> str:
            self._transfers.prepare_uploads()
            offered = self._transfers.knowledge.offered_for_parts & {CRC32}
            try:
                upload = self._transfers.ask(BEGIN, f"write {self._key}", offered, ask)
            except ClientError as error:
                raise self._server.error(f"write {self._key}", error) from error
            self._transfers.uploads.begun(self._name, upload)
            return upload

        # In a thread, where no signal comes in between; this one may be interrupted while it waits.
        with held_back():
            self._beginning = self._transfers.submit(begin)
        self._upload = self._beginning.result()

    def _send_part(self, number: int, pieces: list[memoryview]) -> Part:
        sent = Sent(b"".join(pieces))
        pieces.clear()
        knowledge = self._transfers.knowledge
        attempts = 0

        def send(client: Any, way: Way) -> Part:
            nonlocal attempts
            attempts += 1
            response = client.upload_part(
                Bucket=self._server.bucket,
                Key=self._name,
                UploadId=str(self._upload),
                PartNumber=number,
                Body=Body(sent.data, self._transfers.throttle.up),
                **({"ChecksumCRC32": sent.crc32_text} if CRC32 in way else {}),
                **({"ContentMD5": sent.md5_text} if MD5 in way else {}),
            )
            receipt = sent.receipt(response, has_foreign_crc32=knowledge.has_foreign_tags(CRC32_OF_PART))
            is_odd = receipt is Receipt.WRONG or (
                receipt is Receipt.FOREIGN and not knowledge.has_foreign_tags(PART)
            )
            if is_odd and attempts < _TAG_ATTEMPTS:
                raise GarbledResponse("the server has other bytes than were sent")
            if CRC32 in way and not sent.is_echoed(response):
                knowledge.found(checks_crc32=False)
            is_sure = receipt is Receipt.CONFIRMED or (MD5 in way and knowledge.abilities.checks_md5 is True)
            digest = sent.crc32 if CRC32 in way else sent.md5
            is_sure = is_sure and receipt is not Receipt.WRONG
            foreign = {Receipt.FOREIGN: PART, Receipt.WRONG: CRC32_OF_PART}.get(receipt)
            return Part(number, tag_to_say(response), digest, len(sent.data), is_sure, foreign)

        offered = {CRC32, MD5} if self._by_crc32 else {MD5}
        try:
            return self._transfers.ask(PART, f"write {self._key}", frozenset(offered), send)
        except ClientError as error:
            knowledge.doubt_parts()
            raise self._server.error(f"write {self._key}", error) from error

    def _put(self) -> None:
        SmallObject(
            self._transfers,
            self._name,
            self._key,
            b"".join(self._waiting),
            replaces=self._replaces,
            arguments=self._arguments(),
        ).put()

    def _complete(self) -> None:
        # In a thread: what was begun must be known to `abort`, also where this one is interrupted.
        completion = Completion(
            self._transfers, self._name, self._key, str(self._upload), self._parts, replaces=self._replaces
        )
        completion.prepare()
        with held_back():
            self._completing = self._transfers.submit(completion.complete)
        self._completing.result()
        self._transfers.uploads.ended(str(self._upload))
        completion.make_sure()


def abort_upload(server: Server, name: str, upload: str) -> bool:
    """Returns whether it is gone. What cannot be aborted now is aborted by a later `prune`."""
    try:
        server.call(
            "end an upload",
            lambda client: client.abort_multipart_upload(Bucket=server.bucket, Key=name, UploadId=upload),
        )
    except ClientError as error:
        return error_code(error) in MISSING | {"NoSuchUpload"}
    except StoreError:
        return False
    return True
