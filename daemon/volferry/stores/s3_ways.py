"""In which ways a request can be made: with what not every server takes, and without it; and which answers refuse such a thing."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING

from volferry.stores.s3_answers import (
    MISSING,
    NOT_IMPLEMENTED,
    SERVER_FAULT,
    error_code,
    error_text,
    http_status,
    says_exists,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from botocore.exceptions import ClientError

Way = frozenset[str]

# What can be sent along, or asked for.
CRC32 = "CRC-32"
MD5 = "Content-MD5"
UNLESS_THERE = "If-None-Match"
UNCHANGED = "If-Match"
PAGES = "pages of ListObjectsV2"
ENCODED = "encoding-type"
SIZED = "max-keys"

PUT, BEGIN, PART, COMPLETE = "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"
# What a server says of a checksum, in these calls; as known of its entity tags (`Knowledge.has_foreign_tags`).
CRC32_OF_PUT, CRC32_OF_PART = f"{CRC32} of {PUT}", f"{CRC32} of {PART}"
HEAD, GET, LIST, RETAIN = "HeadObject", "GetObject", "ListObjectsV2", "PutObjectRetention"


def _ways(*ways: Iterable[str]) -> tuple[Way, ...]:
    return tuple(map(frozenset, ways))


# Of each call, the safest first. Some servers refuse one thing, some two at once, some all.
_WAYS: dict[str, tuple[Way, ...]] = {
    PUT: _ways(
        {CRC32, MD5, UNLESS_THERE},
        {CRC32, UNLESS_THERE},
        {MD5, UNLESS_THERE},
        {CRC32, MD5},
        {CRC32},
        {MD5},
        {UNLESS_THERE},
        (),
    ),
    BEGIN: _ways({CRC32}, ()),
    PART: _ways({CRC32}, {MD5}, ()),
    COMPLETE: _ways({CRC32, UNLESS_THERE}, {UNLESS_THERE}, {CRC32}, ()),
    HEAD: _ways({CRC32}, ()),
    GET: _ways({UNCHANGED}, ()),
    LIST: _ways(
        {PAGES, ENCODED, SIZED},
        {PAGES, ENCODED},
        {PAGES, SIZED},
        {PAGES},
        {ENCODED, SIZED},
        {ENCODED},
        {SIZED},
        (),
    ),
    # It is of no use without a checksum: S3 demands one.
    RETAIN: _ways({CRC32}, {MD5}),
}


def ways(call: str, offered: Way) -> list[Way]:
    """Those that send nothing but what is offered, the safest first."""
    return [way for way in _WAYS[call] if way <= offered]


class Refusal(Enum):
    """What an answer may mean, of a request that had something optional."""

    ANSWER = auto()  # it is about the object, and the request was understood
    FINAL = auto()  # no other way of asking helps
    DENIED = (
        auto()
    )  # so are wrong credentials, or missing permissions; some servers refuse a header like that
    REFUSED = auto()


_FINAL_CODES = {
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "EntityTooLarge",
    "ExpiredToken",
    "ExpiredTokenException",
    "IllegalLocationConstraintException",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "InvalidBucketState",
    "InvalidObjectState",
    "InvalidPayer",
    "InvalidStorageClass",
    "InvalidToken",
    "NoSuchBucket",
    "NotSignedUp",
    "PermanentRedirect",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "TokenRefreshRequired",
    "301",
    "302",
    "303",
    "307",
    "308",
}
# Of servers with codes of their own: the room is used up, the key of an encryption is not there.
_FINAL_WORDS = re.compile(
    r"quota|capacity|storage[_ ]?full|storage[_ ]?cap|\bkms|insufficient|encryption|object ?lock|storage ?class",
    re.IGNORECASE,
)
_FINAL_STATUSES = {402, 507}
_DENIED_CODES = {
    "AccessDenied",
    "AccessDeniedException",
    "Forbidden",
    "InvalidSecurity",
    "SignatureDoesNotMatch",
    "Unauthorized",
    "UnauthorizedAccess",
    "401",
    "403",
}
_OF_CONDITIONS = re.compile(r"if[-_ ]?(none[-_ ]?)?match|condition", re.IGNORECASE)
_OF_CHECKSUMS = re.compile(r"checksum|crc-?32|md5|digest", re.IGNORECASE)


def meaning(error: ClientError, call: str, *, is_there: bool = True) -> Refusal:
    """Of an answer to a request that had something optional. Without `is_there`, nobody believes that there is such an object."""
    code, status = error_code(error), http_status(error)
    if says_exists(error):  # of a GET: or it changed, which its entity tag tells without the condition
        return Refusal.ANSWER if call in {PUT, COMPLETE} and is_there else Refusal.REFUSED
    if code in {"NoSuchUpload", "InvalidRange", "416"}:
        return Refusal.ANSWER
    if code in MISSING and call not in {PUT, BEGIN}:
        return Refusal.ANSWER
    if code in _FINAL_CODES or status in _FINAL_STATUSES:
        return Refusal.FINAL
    if status >= SERVER_FAULT and status != NOT_IMPLEMENTED:
        return Refusal.FINAL
    if names(error):
        return Refusal.REFUSED
    if _FINAL_WORDS.search(error_text(error)):
        return Refusal.FINAL
    return Refusal.DENIED if code in _DENIED_CODES else Refusal.REFUSED


def names(error: ClientError) -> bool:
    """Whether it speaks of a condition or checksum: then it is about that, whatever its code."""
    text = error_text(error)
    return bool(_OF_CONDITIONS.search(text) or _OF_CHECKSUMS.search(text))


def others(call: str, offered: Way, refused: Way, error: ClientError) -> list[Way]:
    """All other ways; first those without the condition, where the answer speaks of that and not of checksums."""
    found = [way for way in ways(call, offered) if way != refused]
    text = error_text(error)
    if _OF_CONDITIONS.search(text) and not _OF_CHECKSUMS.search(text):
        found.sort(key=lambda way: bool(way & {UNLESS_THERE, UNCHANGED}))
    return found
