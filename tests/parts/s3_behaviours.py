"""What S3 servers are reported to refuse, and a family of such things that nobody has reported."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.parts.s3_proxy import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.parts.s3_proxy import Asked


CRC32, MD5, CONDITION, MODE, ALGORITHM, ELEMENTS, IF_MATCH = (
    "x-amz-checksum-crc32",
    "content-md5",
    "if-none-match",
    "x-amz-checksum-mode",
    "x-amz-checksum-algorithm",
    "ChecksumCRC32 in the document",
    "if-match",
)
BOTH = "two checksums at once"
FEATURES = (CRC32, MD5, CONDITION, MODE, ALGORITHM, ELEMENTS, IF_MATCH, BOTH)
_CALLS = {
    CRC32: ("PutObject", "UploadPart"),
    MD5: ("PutObject", "UploadPart"),
    CONDITION: ("PutObject", "CompleteMultipartUpload"),
    MODE: ("HeadObject",),
    ALGORITHM: ("CreateMultipartUpload",),
    ELEMENTS: ("CompleteMultipartUpload",),
    IF_MATCH: ("GetObject",),
    BOTH: ("PutObject",),
}


@dataclass(frozen=True, slots=True)
class Refused:
    """A feature, in one call of S3."""

    call: str
    feature: str

    def is_in(self, asked: Asked) -> bool:
        if asked.call != self.call:
            return False
        if self.feature == ELEMENTS:
            return b"<ChecksumCRC32>" in asked.body
        if self.feature == BOTH:
            return MD5 in asked.headers and CRC32 in asked.headers
        return self.feature in asked.headers


ALL = tuple(Refused(call, feature) for feature in FEATURES for call in _CALLS[feature])


def each_of(*features: str) -> frozenset[Refused]:
    """In every call."""
    return frozenset(each for each in ALL if each.feature in features)


@dataclass(frozen=True, slots=True)
class Words:
    """How a server says no."""

    status: int
    code: str = ""  # without one there is no document
    message: str = ""
    text: str = ""  # in place of a document

    def answer(self) -> Answer:
        if self.code:
            return Answer.error(self.status, self.code, self.message)
        return Answer(self.status, {"Content-Type": "text/html"}, self.text.encode())


WORDS = (
    Words(400, "InvalidArgument", "Unsupported header"),
    Words(400, "InvalidRequest", "You can only specify one non-default checksum at a time."),
    Words(501, "NotImplemented", "A header you provided implies functionality that is not implemented."),
    Words(400),
    Words(400, text="<html><body><h1>400 Bad Request</h1></body></html>"),
    Words(403, "AccessDenied", "Access Denied."),
    Words(403),
    Words(405, "MethodNotAllowed", "The specified method is not allowed against this resource."),
    Words(411, "MissingContentLength", "You must provide the Content-Length HTTP header."),
    Words(403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
    Words(422, text='{"error": "unprocessable"}'),
    Words(400, "XWhatever", "No."),
    Words(400, "BadDigest", "The digest you specified did not match."),
    Words(501),
    Words(409, "OperationNotPermitted", "Not here."),
)


@dataclass(frozen=True, slots=True)
class Refusing:
    """A behaviour: all that it does not know is refused, the rest is what the server behind it does."""

    refused: frozenset[Refused]
    words: Words

    def __call__(self, asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if any(each.is_in(asked) for each in self.refused):
            return self.words.answer()
        return pass_on(asked)


def ignoring(*names: str) -> Callable[[Asked, Callable[[Asked], Answer]], Answer]:
    """A server that takes headers, and does nothing with them."""

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        return pass_on(asked.without(*names))

    return behaviour


# As they are, or were, reported to behave (see docs/stores.md).
REPORTED: dict[str, Callable[[Asked, Callable[[Asked], Answer]], Answer]] = {
    "R2: one checksum at a time": Refusing(
        each_of(BOTH),
        Words(400, "InvalidRequest", "You can only specify one non-default checksum at a time."),
    ),
    "B2, old: no checksums": Refusing(
        each_of(CRC32, MODE, ALGORITHM),
        Words(400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc32'"),
    ),
    "B2: no conditions": Refusing(
        each_of(CONDITION),
        Words(501, "NotImplemented", "A header you provided implies functionality that is not implemented."),
    ),
    "B2, one region: neither": Refusing(each_of(CRC32, MODE, ALGORITHM, CONDITION), Words(400)),
    "GCS: no checksum headers": Refusing(
        each_of(CRC32, MODE, ALGORITHM), Words(403, "SignatureDoesNotMatch", "Access denied.")
    ),
    "Ceph RGW: no checksums in multipart uploads": Refusing(
        frozenset({Refused("CreateMultipartUpload", ALGORITHM), Refused("UploadPart", CRC32)}),
        Words(400, "InvalidRequest", "UnknownError"),
    ),
    "MinIO: checksum elements must not be there": Refusing(
        each_of(ELEMENTS), Words(400, "InvalidPart", "One or more of the specified parts could not be found.")
    ),
    "Wasabi: no If-None-Match on completion": Refusing(
        frozenset({Refused("CompleteMultipartUpload", CONDITION)}),
        Words(501, "NotImplemented", "If-None-Match is not implemented."),
    ),
    "Storj: MD5 alone": Refusing(
        each_of(CRC32, MODE, ALGORITHM, CONDITION), Words(501, "NotImplemented", "not implemented")
    ),
    "Garage: no MD5": Refusing(each_of(MD5), Words(400, "InvalidRequest", "Bad request: Content-MD5")),
    "an appliance: no checksum at all": Refusing(
        each_of(CRC32, MD5, MODE, ALGORITHM), Words(400, "InvalidRequest", "Invalid request")
    ),
    "an appliance: nothing at all": Refusing(frozenset(ALL), Words(405, "MethodNotAllowed", "Not allowed")),
}


def family(count: int, seed: int = 1) -> list[Refusing]:
    """Any subset of what may be refused, in any words: the same ones each time."""
    noise = random.Random(seed)
    single = [Refusing(frozenset({each}), words) for each, words in itertools.product(ALL, WORDS)]
    some = [
        Refusing(frozenset(noise.sample(ALL, noise.randint(2, len(ALL)))), noise.choice(WORDS))
        for _ in range(count)
    ]
    return [*noise.sample(single, min(count, len(single))), *some]
