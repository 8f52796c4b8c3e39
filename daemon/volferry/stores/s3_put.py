"""One small object on its way to a bucket, in one request: never over another one, and never without knowing what has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from volferry.errors import StoreError
from volferry.stores.s3_answers import MISSING, GarbledResponse, error_code, says_exists
from volferry.stores.s3_client import base64_text, md5
from volferry.stores.s3_look import exists, head, refuse_if_there
from volferry.stores.s3_received import Receipt, Sent, is_of_content, tag_of
from volferry.stores.s3_transfer import Body
from volferry.stores.s3_ways import CRC32, CRC32_OF_PUT, MD5, PUT, UNLESS_THERE, Way

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.stores.s3_transfer import Transfers


class SmallObject:
    """An object that fits into one request."""

    def __init__(
        self,
        transfers: Transfers,
        name: str,
        key: str,
        data: bytes,
        *,
        replaces: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        self._transfers = transfers
        self._server = transfers.server
        self._knowledge = transfers.knowledge
        self._name = name  # in the bucket
        self._key = key
        self._sent = Sent(data)
        self._replaces = replaces
        self._arguments = arguments
        self._looked = False  # whether there is such an object
        self._attempts = 0
        self._is_there = False  # the server has taken ours, whatever has arrived of it
        self._way: Way = frozenset()
        self._receipt = Receipt.SILENT
        self._is_echoed = False

    def put(self) -> None:
        """Raises ObjectExists, StoreError."""
        if not self._knowledge.heeds_if_none_match:
            self._refuse_if_there()
        try:
            self._ask(self._offered)
        except ClientError as error:
            if not says_exists(error):
                raise self._server.error(f"write {self._key}", error) from error
            if self._attempts > 1 and self._is_ours():
                return
            if self._replaces or head(self._transfers, self._name, self._key) is not None:
                raise exists(self._transfers, self._key) from error
            self._put_where_none_is()
        abilities = self._knowledge.abilities
        if abilities.heeds_if_none_match is None and UNLESS_THERE in self._way:
            self._knowledge.found(heeds_if_none_match=self._is_refused(), checks_crc32=self._is_echoed)
        elif abilities.checks_crc32 is None and CRC32 in self._way:
            self._knowledge.found(checks_crc32=self._is_echoed)
        if self._receipt is not Receipt.CONFIRMED:
            self._make_sure()

    @property
    def _offered(self) -> Way:
        abilities = self._knowledge.abilities
        offered = {MD5}
        if abilities.checks_crc32 is not False or MD5 not in abilities.ways.get(PUT, {MD5}):
            offered.add(CRC32)
        if not self._replaces and abilities.heeds_if_none_match is not False:
            offered.add(UNLESS_THERE)
        return frozenset(offered)

    def _ask(self, offered: Way, *, is_there: bool = True) -> None:
        self._transfers.ask(PUT, f"write {self._key}", offered, self._request, is_there=is_there)

    def _request(self, client: Any, way: Way) -> None:
        self._attempts += 1
        self._way = way
        if UNLESS_THERE not in way and not self._is_there:
            self._refuse_if_there()
        response = client.put_object(
            Bucket=self._server.bucket,
            Key=self._name,
            Body=Body(self._sent.data, self._transfers.throttle.up),
            **({"ContentMD5": self._sent.md5_text} if MD5 in way else {}),
            **({"ChecksumCRC32": self._sent.crc32_text} if CRC32 in way else {}),
            # Not over one's own, of which other bytes have arrived.
            **({"IfNoneMatch": "*"} if UNLESS_THERE in way and not self._is_there else {}),
            **self._arguments,
        )
        self._is_there = True
        if response.get("VersionId") not in {None, "null"}:
            self._knowledge.found(keeps_versions=True)
        self._receipt = self._sent.receipt(
            response, has_foreign_crc32=self._knowledge.has_foreign_tags(CRC32_OF_PUT)
        )
        self._is_echoed = CRC32 in way and self._sent.is_echoed(response)
        is_foreign = self._receipt is Receipt.FOREIGN and not self._knowledge.has_foreign_tags(PUT)
        if is_foreign or self._receipt is Receipt.WRONG:
            try:
                is_as_sent = self._is_as_sent(client)
            except ClientError as error:
                raise self._server.error(f"read {self._key}", error) from error
            if not is_as_sent:
                raise GarbledResponse("the server has other bytes than were sent")
            self._knowledge.found_foreign_tags(PUT if is_foreign else CRC32_OF_PUT)
            self._receipt = Receipt.CONFIRMED

    def _put_where_none_is(self) -> None:
        """The server says that there is one, and has none: it does not understand what it is asked."""
        try:
            self._ask(self._offered, is_there=False)
        except ClientError as error:
            raise self._server.error(f"write {self._key}", error) from error

    def _is_refused(self) -> bool:
        """Puts the same bytes once more: a server that heeds the condition refuses, for they are there."""
        way = self._way
        receipt, echoed = self._receipt, self._is_echoed
        self._is_there = False  # the condition is sent
        try:
            self._server.call(f"write {self._key}", lambda client: self._request(client, way))
        except ClientError as error:
            if not says_exists(error):
                raise self._server.error(f"write {self._key}", error) from error
            self._receipt, self._is_echoed = receipt, echoed
            return True
        return False

    def _make_sure(self) -> None:
        """Nothing in the answer tells what has arrived. Raises StoreError if it is something else, or cannot be known."""
        if MD5 in self._way:
            if self._knowledge.abilities.checks_md5 is None:
                self._knowledge.found(checks_md5=self._is_wrong_md5_refused())
            if self._knowledge.abilities.checks_md5:
                return
        self._knowledge.reads_back(PUT)
        if not self._server.call(f"read {self._key}", self._is_as_sent):
            raise StoreError(
                f"cannot write {self._key} to the store {self._transfers.url}: the server has other bytes than were sent: run it again"
            )

    def _is_wrong_md5_refused(self) -> bool:
        """Puts the same bytes once more, with the MD5 of others: nothing changes, whatever the server does."""
        try:
            self._server.client.put_object(
                Bucket=self._server.bucket,
                Key=self._name,
                Body=Body(self._sent.data, self._transfers.throttle.up),
                ContentMD5=base64_text(md5(self._sent.data + b"x")),
                **self._arguments,
            )
        except ClientError as error:
            return "digest" in error_code(error).lower() or "md5" in error_code(error).lower()
        except BotoCoreError:
            return False
        return False

    def _is_as_sent(self, client: Any) -> bool:
        """Reads it back. Raises GarbledResponse."""
        try:
            body = client.get_object(Bucket=self._server.bucket, Key=self._name)["Body"]
            with body:
                return bool(body.read() == self._sent.data)
        except ClientError as error:
            if error_code(error) in MISSING:
                return False
            raise
        except HTTPError as error:
            raise GarbledResponse(f"the answer broke off: {error}") from error

    def _is_ours(self) -> bool:
        """Whether what is there is what was sent: the answer to an earlier attempt may have been lost."""
        found = head(self._transfers, self._name, self._key)
        if found is None or found["ContentLength"] != len(self._sent.data):
            return False
        if self._sent.is_echoed(found) or (is_of_content(found) and tag_of(found) == self._sent.md5.hex()):
            return True
        return self._server.call(f"read {self._key}", self._is_as_sent)

    def _refuse_if_there(self) -> None:
        if not self._replaces and not self._looked:
            self._looked = True
            refuse_if_there(self._transfers, self._name, self._key)
