"""The end of a multipart upload: from here on the object is there. Servers may take minutes, and lose their answer on the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from volferry.errors import StoreError
from volferry.stores.s3_answers import GarbledResponse, error_code, is_at_work, may_be_done, says_exists
from volferry.stores.s3_client import CRC32_BYTES, base64_text, crc32, md5
from volferry.stores.s3_documents import ROOT
from volferry.stores.s3_look import exists, head, refuse_if_there
from volferry.stores.s3_reader import S3Reader
from volferry.stores.s3_received import is_of_content, tag_of
from volferry.stores.s3_ways import COMPLETE, CRC32, PART, UNLESS_THERE, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.stores.s3_transfer import Transfers

# Ceph puts the parts of a large object together for minutes, and answers that it is at it meanwhile.
_PATIENCE_SECONDS = 600.0
_UNSEEN_SECONDS = 60.0
_PAUSE_SECONDS = 5.0
_MOST_PARTS = 1000  # of an answer
_READ_BYTES = 1 << 20


class Part(NamedTuple):
    """One that the server has."""

    number: int
    etag: str | None  # as it was said
    digest: bytes  # CRC-32, big-endian, or MD5
    size: int
    is_sure: bool  # the server has said what arrived
    foreign: (
        str | None
    )  # what the server said of it looks like an MD5 or CRC-32, and is another one: whose (`found_foreign_tags`)

    @property
    def is_by_crc32(self) -> bool:
        return len(self.digest) == CRC32_BYTES

    def document(self, *, with_crc32: bool) -> dict[str, Any]:
        """As CompleteMultipartUpload has it."""
        checksum = {"ChecksumCRC32": base64_text(self.digest)} if with_crc32 else {}
        return {"PartNumber": self.number, "ETag": self.etag, **checksum}


class Completion:
    """Of one upload, all parts of which are there."""

    def __init__(
        self, transfers: Transfers, name: str, key: str, upload: str, parts: list[Part], *, replaces: bool
    ) -> None:
        self._transfers = transfers
        self._server = transfers.server
        self._name = name
        self._key = key
        self._upload = upload
        self._parts = parts
        self._replaces = replaces
        self._looked = False
        self._attempts = 0
        self._is_believed = True  # the server, if it says that there is such an object
        self._forms = self._other_forms()

    def prepare(self) -> None:
        """Raises ObjectExists, StoreError."""
        if not self._transfers.knowledge.heeds_if_none_match:
            self._refuse_if_there()
        if not all(part.etag for part in self._parts):
            self._ask_for_tags()

    def complete(self) -> None:
        """Raises ObjectExists, StoreError."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._transfers.ask(
                    COMPLETE, f"write {self._key}", self._offered, self._request, is_there=self._is_believed
                )
            except ClientError as error:
                # The answer to an earlier attempt may have been lost: then the object is there, and the upload is not.
                if self._attempts > 1 and self._is_there_as_sent():
                    return
                if error_code(error) != "NoSuchUpload":
                    self._change(error)
                    continue
                if self._attempts == 1 or time.monotonic() >= until:
                    raise self._server.error(f"write {self._key}", error) from error
                # It may have ended the upload before it shows the object.
                until = min(until, time.monotonic() + _UNSEEN_SECONDS)
            except StoreError as error:
                if not may_be_done(error.__cause__):
                    raise
                if self._is_there_as_sent():
                    return
                if not is_at_work(error.__cause__) or time.monotonic() >= until:
                    raise
            else:
                return
            time.sleep(_PAUSE_SECONDS)

    def _change(self, error: ClientError) -> None:
        """What is said, for another attempt. Raises ObjectExists, StoreError where there is nothing to change."""
        if says_exists(error):
            if (
                not self._is_believed
                or self._replaces
                or head(self._transfers, self._name, self._key) is not None
            ):
                raise exists(self._transfers, self._key) from error
            self._is_believed = False  # it says so of what it does not understand
            return
        other = next(self._forms, None) if error_code(error) == "InvalidPart" else None
        if other is None:
            self._transfers.knowledge.doubt_parts()
            raise self._server.error(f"write {self._key}", error) from error
        self._parts = other

    def _other_forms(self) -> Iterator[list[Part]]:
        """The parts with their entity tags as the server has them: what stands between may change headers. Raises StoreError."""
        as_sent = self._parts
        self._parts = [part._replace(etag=None) for part in as_sent]
        self._ask_for_tags()
        if self._parts != as_sent:
            yield self._parts

    def _is_there_as_sent(self) -> bool:
        try:
            return self._is_ours()
        except StoreError:  # of two errors, the first one is told
            return False

    @property
    def _offered(self) -> Way:
        offered = set()
        if all(part.is_by_crc32 for part in self._parts):
            offered.add(CRC32)
        if not self._replaces and self._transfers.knowledge.abilities.heeds_if_none_match is not False:
            offered.add(UNLESS_THERE)
        return frozenset(offered)

    def _request(self, client: Any, way: Way) -> None:
        self._attempts += 1
        if UNLESS_THERE not in way:
            self._refuse_if_there()
        response = client.complete_multipart_upload(
            Bucket=self._server.bucket,
            Key=self._name,
            UploadId=self._upload,
            MultipartUpload={"Parts": [part.document(with_crc32=CRC32 in way) for part in self._parts]},
            **({"IfNoneMatch": "*"} if UNLESS_THERE in way else {}),
        )
        is_said = response.get("ETag") or response[ROOT] == "CompleteMultipartUploadResult"
        if not is_said and not self._is_ours():
            raise GarbledResponse("it does not say that the upload is complete, and it is not")

    def _refuse_if_there(self) -> None:
        if not self._replaces and not self._looked:
            self._looked = True
            refuse_if_there(self._transfers, self._name, self._key)

    def _is_ours(self) -> bool:
        """Whether what is there is what was sent. Raises StoreError."""
        found = head(self._transfers, self._name, self._key)
        if found is None or found["ContentLength"] != sum(part.size for part in self._parts):
            return False
        digests = b"".join(part.digest for part in self._parts)
        whole = base64_text(crc32(digests)) if self._parts[0].is_by_crc32 else md5(digests).hex()
        told = {found.get("ChecksumCRC32")} | ({tag_of(found)} if is_of_content(found) else set())
        return f"{whole}-{len(self._parts)}" in told or self._is_as_sent()

    def make_sure(self) -> None:
        """Where no answer told what has arrived, it is read back. Raises StoreError if it is something else."""
        if all(part.is_sure for part in self._parts):
            return
        self._transfers.knowledge.reads_back(PART)
        if not self._is_as_sent():
            raise StoreError(
                f"cannot write {self._key} to the store {self._transfers.url}: the server has other bytes than were sent: run it again"
            )
        for foreign in {part.foreign for part in self._parts if part.foreign is not None}:
            self._transfers.knowledge.found_foreign_tags(foreign)

    def _is_as_sent(self) -> bool:
        """Reads it back, part by part. Raises StoreError."""
        start = 0
        for part in self._parts:
            with S3Reader(self._transfers, self._name, self._key, start, part.size) as reader:
                data = b"".join(iter(lambda: reader.read(_READ_BYTES), b""))
            if (crc32(data) if part.is_by_crc32 else md5(data)) != part.digest or len(data) != part.size:
                return False
            start += part.size
        return True

    def _ask_for_tags(self) -> None:
        """Of parts at whose end the server did not say one. Raises StoreError."""
        tags: dict[int, str] = {}
        marker: dict[str, Any] = {}
        while True:

            def page(client: Any, marker: dict[str, Any] = marker) -> Any:
                return client.list_parts(
                    Bucket=self._server.bucket,
                    Key=self._name,
                    UploadId=self._upload,
                    MaxParts=_MOST_PARTS,
                    **marker,
                )

            try:
                response = self._server.call(f"write {self._key}", page)
            except ClientError as error:
                raise self._server.error(f"write {self._key}", error) from error
            found = response.get("Parts", ())
            tags |= {each["PartNumber"]: each["ETag"] for each in found if each.get("ETag")}
            if not found or response.get("IsTruncated") is False:
                break
            marker = {"PartNumberMarker": response.get("NextPartNumberMarker") or found[-1]["PartNumber"]}
        if missing := [part.number for part in self._parts if not (part.etag or tags.get(part.number))]:
            raise StoreError(
                f"cannot write {self._key} to the store {self._transfers.url}: the server has no entity tag for part {missing[0]}"
            )
        self._parts = [part if part.etag else part._replace(etag=tags[part.number]) for part in self._parts]
