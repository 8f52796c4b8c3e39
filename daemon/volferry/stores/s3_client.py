"""Talks to an S3 server: which client, what is tried again, and what an error means, in one line."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
import zlib
from base64 import b64encode
from datetime import UTC, datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.session
import botocore.utils
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as ConnectionFailed
from botocore.parsers import ResponseParserError

from volferry import __version__
from volferry.errors import ConfigError, NoSuchObject, StoreError, StoreUnreachable, reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3.client import S3Client

    from volferry.store_config import StoreConfig

_CONNECT_SECONDS = 10
_READ_SECONDS = 30  # without a byte
# Of one request, with up to 0.5, 1, 2 … 20 s in between: some 40 s. botocore's own attempts share a quota, and end after
# seconds, or at once where a few requests have failed before (1.44, `NEW_RETRIES_ENABLED`).
_ATTEMPTS = 8
_FIRST_ATTEMPTS = 4  # as long as the server has never answered: it may be mistyped
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20

T = TypeVar("T")

CRC32_BYTES = 4
_TOO_MANY, _SERVER_FAULT = 429, 500  # HTTP statuses

MISSING = {"404", "NoSuchKey", "NotFound"}
EXISTS = {"PreconditionFailed", "412"}
NOT_KNOWN = {"NotImplemented", "501"}
# What arrived at the server is not what was sent, or may be another thing in a moment.
_GARBLED = {
    "BadDigest",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "IncompleteBody",
    # Somebody else is at the same key: to be tried again (docs.aws.amazon.com, "Conditional requests").
    "ConditionalRequestConflict",
}
# The server has too much to do, or a fault of its own.
_BUSY = {
    "BandwidthLimitExceeded",
    "InternalError",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_EXPIRED = "the credentials have expired"
_CLOCK = "the clock of this machine is wrong, by what the server says"
_REGION = "it is in another region, or behind another endpoint"
# Nothing can be done about these by trying again.
_WHY = {
    "InvalidAccessKeyId": "the access key id is not known there: check the credentials",
    "SignatureDoesNotMatch": "the secret access key is not the one of the access key id: check the credentials",
    "InvalidToken": "the session token is not valid: check the credentials",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    # Without a body, as a HEAD is answered.
    "400": "the server does not say why: the credentials may have expired, or the bucket is in another region",
    "AccessDenied": "access is denied: check what the credentials may do with the bucket",
    "AllAccessDisabled": "access is denied: the account has no access to the bucket",
    "403": "access is denied: check the credentials, and what they may do with the bucket",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
}


# What botocore, or a look at its result, makes of an answer that is not one of S3.
_STRANGE = (KeyError, ValueError, TypeError, AttributeError, HTTPException)


class GarbledResponse(Exception):
    """What came back cannot be right: it is worth another attempt."""


def make_client(settings: StoreConfig) -> S3Client:
    """Raises ConfigError for a profile, file or endpoint that cannot be used. Nothing is sent."""
    key_id, secret, token = settings.credentials or (None, None, None)
    if settings.ca_bundle:
        try:
            settings.ca_bundle.open().close()
        except OSError as error:
            raise ConfigError(
                f"store {settings.url}: cannot read ca_bundle {settings.ca_bundle}: {reason(error)}"
            ) from error
    try:
        session = boto3.Session(
            botocore_session=_botocore_session(),
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            aws_session_token=token,
            region_name=settings.region,
            profile_name=settings.profile,
        )
        client = session.client(
            "s3",
            endpoint_url=settings.endpoint,
            # A server of one's own has no regions, but a request is signed for one.
            region_name=session.region_name or "us-east-1",
            verify=str(settings.ca_bundle) if settings.ca_bundle else None,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 1},
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                tcp_keepalive=True,
                max_pool_connections=2 * settings.parallel_parts + 10,
                # Checksums are sent as the server can take them (`Knowledge`): what boto3 adds by itself breaks many of them.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                user_agent_extra=f"volferry/{__version__}",
                s3={"payload_signing_enabled": False, "addressing_style": _addressing(settings)},
            ),
        )
        client.meta.events.register("before-send.s3", _expect_nothing)
        return client
    except (ProfileNotFound, PartialCredentialsError, BotoCoreError, ValueError, OSError) as error:
        raise ConfigError(f"store {settings.url}: {_text(error)}") from error


def _botocore_session() -> Any:
    """One that reads times quickly: by default, dateutil takes half of the time of a long list."""
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
    return session


def _time(value: Any) -> datetime:
    """As lists have it, ISO 8601; else as botocore finds out, for servers that write it in their own way."""
    try:
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return botocore.utils.parse_timestamp(value)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _expect_nothing(request: Any, **_: object) -> None:
    """Sends a body at once, without `Expect: 100-continue`.

    botocore asks before each body, waits a second for a server that does not answer that, and for ever, at full speed,
    where the connection ends in the middle of the answer (botocore 1.44, `AWSConnection._consume_headers`).
    The header is not signed.
    """
    request.headers.pop("Expect", None)


def _addressing(settings: StoreConfig) -> Literal["auto", "path", "virtual"]:
    """By default the bucket is in the path where the endpoint is not one of AWS: few servers have a name for each bucket."""
    endpoint = (
        settings.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    if settings.addressing == "auto" and endpoint and "amazonaws." not in endpoint:
        return "path"
    return settings.addressing


def base64_text(digest: bytes) -> str:
    """As headers have it."""
    return b64encode(digest).decode()


def crc32(data: bytes | bytearray | memoryview) -> bytes:
    """As S3 has it: big-endian. Against bytes that change on their way, as `md5`."""
    return zlib.crc32(data).to_bytes(CRC32_BYTES, "big")


def md5(data: bytes | bytearray | memoryview) -> bytes:
    """Against bytes that change on their way, not against anybody."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def error_code(error: ClientError) -> str:
    """Such as `NoSuchKey`; the HTTP status where there is no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


class Server:
    """One bucket: requests to it, tried again where that may help, with errors that a user can act on."""

    def __init__(self, settings: StoreConfig, bucket: str) -> None:
        self.bucket = bucket
        self._settings = settings
        self._client: S3Client | None = None
        self._has_answered = False
        self._lock = threading.Lock()

    @property
    def client(self) -> S3Client:
        """Made when it is first needed. Raises ConfigError."""
        with self._lock:
            if self._client is None:
                self._client = make_client(self._settings)
            return self._client

    @property
    def endpoint(self) -> str:
        return str(self.client.meta.endpoint_url)

    def call(self, what: str, request: Callable[[Any], T]) -> T:
        """The response to `request`, which is tried again where that may help, with pauses that grow.

        `request` should take from the response what is needed: one without it is tried again too.
        `what` completes "cannot …", such as `write KEY`. Raises ClientError for an answer that is one of the
        server's own (`MISSING`, `EXISTS`, `NOT_KNOWN`, a NoSuchUpload), else StoreError.
        """
        for attempt in range(_ATTEMPTS):
            try:
                result = request(self.client)
            except (ClientError, BotoCoreError, GarbledResponse, *_STRANGE) as error:
                if isinstance(error, ClientError):
                    self._has_answered = True
                    if _is_answer(error):
                        raise
                last = (_ATTEMPTS if self._has_answered else _FIRST_ATTEMPTS) - 1
                if attempt >= last or not _may_pass(error):
                    raise self.error(what, error) from error
            else:
                self._has_answered = True
                return result
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt)
            time.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 -- jitter
        raise AssertionError("unreachable")

    def error(self, what: str, error: Exception) -> StoreError:
        """What a user is told of an error that stays."""
        where = f"the bucket {self.bucket} at {self._endpoint_text()}"
        if isinstance(error, ClientError):
            return self._refusal(f"cannot {what} in {where}", error)
        if isinstance(error, NoCredentialsError):
            return StoreUnreachable(
                f"no credentials for {where}: set them in the config, in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "in a profile"
            )
        if isinstance(error, SSLError):
            return StoreUnreachable(
                f"cannot trust the endpoint {self._endpoint_text()}: {_text(error)} (ca_bundle names certificates)"
            )
        if isinstance(error, EndpointConnectionError | ConnectionFailed):
            return StoreUnreachable(f"cannot reach the endpoint {self._endpoint_text()}: {_text(error)}")
        if isinstance(error, _STRANGE):
            return StoreError(f"cannot {what} in {where}: what it answers is not S3")
        return StoreError(f"cannot {what} in {where}: {_text(error)}")

    def _refusal(self, message: str, error: ClientError) -> StoreError:
        """What the server said."""
        code = error_code(error)
        if code == "NoSuchBucket":
            return StoreUnreachable(f"there is no bucket {self.bucket} at {self._endpoint_text()}")
        if code in _WHY:
            return StoreUnreachable(f"{message}: {_WHY[code]} ({code})")
        said = str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
        return StoreError(f"{message}: {code}{': ' if said else ''}{said}")

    def missing(self, key: str, url: str) -> StoreError:
        """What a 404 without a body means."""
        try:
            self.call("find it", lambda client: client.head_bucket(Bucket=self.bucket))
        except ClientError as error:
            if error_code(error) in MISSING:
                return StoreUnreachable(f"there is no bucket {self.bucket} at {self._endpoint_text()}")
        return NoSuchObject(f"{key} is missing from the store {url}")

    def _endpoint_text(self) -> str:
        endpoint = self._settings.endpoint or self.endpoint
        parts = urlsplit(endpoint)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _is_answer(error: ClientError) -> bool:
    return error_code(error) in MISSING | EXISTS | NOT_KNOWN | {"NoSuchUpload", "InvalidRange", "416"}


def _may_pass(error: Exception) -> bool:
    """Whether it is worth another attempt."""
    if isinstance(error, ClientError):
        code = error_code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _GARBLED | _BUSY or status == _TOO_MANY or status >= _SERVER_FAULT:
            return True
        # A 400 that is no document, or one that says nothing of what we sent, is one of a server that we garbled.
        return code == "400" and not error.response["Error"].get("Message")
    if isinstance(error, SSLError):
        return "CERTIFICATE" not in str(error).upper()
    return isinstance(
        error, (ConnectionFailed, HTTPClientError, GarbledResponse, ResponseParserError, *_STRANGE)
    )


def _text(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
