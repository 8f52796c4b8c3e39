"""A multipart upload of a few bytes, before the first real one: whether its steps take CRC-32 as small objects do. Where one of them
does not, the upload of a gigabyte would fail at its end.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from volferry.errors import StoreError
from volferry.stores.base import PROBES
from volferry.stores.s3_answers import SERVER_FAULT, http_status
from volferry.stores.s3_received import Sent, tag_to_say
from volferry.stores.s3_ways import BEGIN, COMPLETE, CRC32, UNLESS_THERE, Refusal, meaning

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.stores.s3_transfer import Transfers

_CONTENT = b"volferry"


def take_crc32_in_parts(transfers: Transfers, place: str) -> None:
    """Lets `transfers` know, if it does not. Leaves nothing. Raises StoreError where the server does not answer."""
    knowledge = transfers.knowledge
    if knowledge.abilities.multipart_crc32 is not None or CRC32 not in knowledge.offered_for_parts:
        return
    trial = _Trial(transfers, f"{place}{PROBES}{secrets.token_hex(8)}")
    try:
        knowledge.found(multipart_crc32=trial.is_taken())
    finally:
        trial.remove()


class _Trial:
    def __init__(self, transfers: Transfers, name: str) -> None:
        self._server = transfers.server
        self._transfers = transfers
        self._object: dict[str, Any] = {"Bucket": transfers.server.bucket, "Key": name}
        self._name = name
        self._upload: str | None = None
        self._is_there = False

    def is_taken(self) -> bool:
        sent = Sent(_CONTENT)
        try:
            self._upload = self._call(
                lambda client: client.create_multipart_upload(**self._object, ChecksumAlgorithm="CRC32")
            )["UploadId"]
            self._transfers.uploads.begun(self._name, str(self._upload))
            part = self._call(
                lambda client: client.upload_part(
                    **self._of_upload, PartNumber=1, Body=sent.data, ChecksumCRC32=sent.crc32_text
                )
            )
            if not sent.is_echoed(part):
                return False
            document = {
                "PartNumber": 1,
                "ETag": tag_to_say(part) or sent.md5.hex(),
                "ChecksumCRC32": sent.crc32_text,
            }
            self._complete({"Parts": [document]})
        except ClientError as error:
            if meaning(error, BEGIN) is Refusal.FINAL:
                raise self._server.error("write a trial object", error) from error
            return False
        except StoreError as error:
            # A fault of the server's own, and it serves else: so some answer what they do not know.
            cause = error.__cause__
            if (
                isinstance(cause, ClientError)
                and http_status(cause) >= SERVER_FAULT
                and self._server.knows_us()
            ):
                return False
            raise
        return True

    def _complete(self, parts: dict[str, Any]) -> None:
        """Raises ClientError for what is refused also without the condition."""
        knowledge = self._transfers.knowledge
        with_condition = frozenset({CRC32, UNLESS_THERE})
        conditions = {"IfNoneMatch": "*"} if UNLESS_THERE in knowledge.way(COMPLETE, with_condition) else {}
        for condition in [conditions, {}] if conditions else [{}]:
            try:
                self._call(
                    lambda client, condition=condition: client.complete_multipart_upload(  # type: ignore[misc]
                        **self._of_upload, MultipartUpload=parts, **condition
                    )
                )
            except ClientError:
                if not condition:
                    raise
                continue
            self._is_there = True
            if conditions and not condition:
                knowledge.refused(COMPLETE, with_condition, frozenset({CRC32}))
            return

    def remove(self) -> None:
        """Whatever is left of it."""
        with suppress(ClientError, StoreError):
            if self._is_there:
                self._call(lambda client: client.delete_object(**self._object))
            elif self._upload is not None:
                self._call(lambda client: client.abort_multipart_upload(**self._of_upload))
            if self._upload is not None:
                self._transfers.uploads.ended(str(self._upload))

    @property
    def _of_upload(self) -> dict[str, Any]:
        return {**self._object, "UploadId": self._upload}

    def _call(self, request: Callable[[Any], Any]) -> Any:
        return self._server.call("write a trial object", request, refusable=True, patient=False)
