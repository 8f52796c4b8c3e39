"""What a server says that it has received, compared with what was sent: by its checksum, or its entity tag where that is an MD5."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Any

from volferry.stores.s3_answers import GarbledResponse
from volferry.stores.s3_client import base64_text, crc32, md5

_MD5_HEX = re.compile(r"[0-9a-f]{32}")
_CRC32_TEXT = re.compile(r"[A-Za-z0-9+/]{6}==")


class Receipt(Enum):
    CONFIRMED = auto()
    SILENT = auto()  # nothing in the answer depends on what was sent
    FOREIGN = auto()  # the entity tag looks like an MD5, and is not the one of what was sent
    WRONG = auto()  # the checksum is another one, and nothing else tells


@dataclass
class Sent:
    """Bytes on their way, with digests that are made when they are asked for."""

    data: bytes

    @cached_property
    def crc32(self) -> bytes:
        return crc32(self.data)

    @cached_property
    def md5(self) -> bytes:
        return md5(self.data)

    @property
    def crc32_text(self) -> str:
        return base64_text(self.crc32)

    @property
    def md5_text(self) -> str:
        return base64_text(self.md5)

    def is_echoed(self, response: Any) -> bool:
        """Whether the server has computed the same checksum."""
        return bool(response.get("ChecksumCRC32") == self.crc32_text)

    def receipt(self, response: Any, *, has_foreign_crc32: bool) -> Receipt:
        """`has_foreign_crc32`: what the server says as a CRC-32 is known to be something else. Raises GarbledResponse if it has other bytes
        than were sent.
        """
        echo = str(response.get("ChecksumCRC32") or "")
        if echo and echo == self.crc32_text:
            return Receipt.CONFIRMED
        is_wrong = bool(_CRC32_TEXT.fullmatch(echo)) and not has_foreign_crc32
        tag = tag_of(response)
        if not is_of_content(response) or not _MD5_HEX.fullmatch(tag):
            return Receipt.WRONG if is_wrong else Receipt.SILENT
        if tag == self.md5.hex():
            return Receipt.CONFIRMED
        if is_wrong:  # two digests, and neither is that of what was sent
            raise GarbledResponse("the server has other bytes than were sent")
        return Receipt.FOREIGN


def tag_of(response: Any) -> str:
    """The entity tag, without what servers put around it."""
    return str(response.get("ETag") or "").strip().removeprefix("W/").strip('"').lower()


def tag_to_say(response: Any) -> str | None:
    """The entity tag of a part, as its upload is completed with it; None where the server did not say one. An MD5 is said as S3 does: what
    stands between may have made it weak, or written it in another case.
    """
    tag = tag_of(response)
    return f'"{tag}"' if _MD5_HEX.fullmatch(tag) else response.get("ETag") or None


def is_of_content(response: Any) -> bool:
    """Whether the entity tag is the MD5 of the content: it is not where the server encrypts with keys of its own
    (docs.aws.amazon.com, "Common response headers").
    """
    return str(response.get("ServerSideEncryption", "AES256")) == "AES256"
