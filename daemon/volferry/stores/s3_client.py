"""Talks to an S3 server: which client, what is tried again, and what a user is told of an error, in one line."""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
import zlib
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
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
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as ConnectionFailed

from volferry import __version__
from volferry.errors import ConfigError, NoSuchObject, StoreError, StoreUnreachable, reason
from volferry.stores.places import making_of
from volferry.stores.s3_answers import (
    MISSING,
    STRANGE,
    WHY,
    GarbledResponse,
    error_code,
    error_text,
    http_status,
    is_about_credentials,
    is_answer,
    is_overloaded,
    may_pass,
    one_line,
    one_line_of,
    said,
)
from volferry.stores.s3_documents import look_at_documents

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
# Of a request that has another way of being made, when what arrives seems to be something else than was sent.
_IMPATIENT_ATTEMPTS = 3
# HTTP statuses
_FIRST_REDIRECT, _FIRST_ERROR = 300, 400
_REFUSALS = {400, 401, 403}
# Of a server that takes no body whose digest is not signed along: UNSIGNED-PAYLOAD.
_OF_BODIES = re.compile(r"unsigned|payload|content-?sha-?256", re.IGNORECASE)


def make_client(settings: StoreConfig, *, signs_bodies: bool = False) -> S3Client:
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
                s3={"payload_signing_enabled": signs_bodies, "addressing_style": _addressing(settings)},
            ),
        )
        client.meta.events.register("before-send.s3", _expect_nothing)
        look_at_documents(client)
        if "amazonaws." not in client.meta.endpoint_url:
            client.meta.events.register_first("needs-retry.s3", _redirect_to_regions_alone)
        client.meta.events.register("before-call.s3.PutObjectRetention", _md5_of_body)
        return client
    except (ProfileNotFound, PartialCredentialsError, BotoCoreError, ValueError, OSError) as error:
        raise ConfigError(f"store {settings.url}: {one_line(error)}") from error


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


def _redirect_to_regions_alone(request_dict: Any, response: Any, **_: object) -> None:
    """A server that redirects whatever is asked would be asked for its region without end: that is what botocore does then."""
    if response is None:
        return
    parsed = response[1]
    headers = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if "x-amz-bucket-region" not in headers and "Region" not in parsed.get("Error", {}):
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


def _expect_nothing(request: Any, **_: object) -> None:
    """Sends a body at once, without `Expect: 100-continue`.

    botocore asks before each body, waits a second for a server that does not answer that, and for ever, at full speed,
    where the connection ends in the middle of the answer (botocore 1.44, `AWSConnection._consume_headers`).
    The header is not signed.
    """
    request.headers.pop("Expect", None)


def _md5_of_body(params: Any, **_: object) -> None:
    """In place of a checksum, where `ContentMD5` was asked for: boto3 makes the body, so nobody can say it before."""
    if "Content-MD5" in params["headers"]:
        body = params["body"]
        params["headers"]["Content-MD5"] = base64_text(md5(body.encode() if isinstance(body, str) else body))
        params["context"].pop("checksum", None)


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


class Server:
    """One bucket: requests to it, tried again where that may help, with errors that a user can act on."""

    def __init__(self, settings: StoreConfig, bucket: str) -> None:
        self.bucket = bucket
        self._settings = settings
        self._client: S3Client | None = None
        self._has_answered = False
        self._has_tried_to_sign = False
        self._is_unknown = False  # the bucket was asked for, and refused
        self.has_served = False  # it knows the credentials, and lets them do something
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

    def call(
        self, what: str, request: Callable[[Any], T], *, refusable: bool = False, patient: bool = True
    ) -> T:
        """The response to `request`, which is tried again where that may help, with pauses that grow.

        `request` should take from the response what is needed: one without it is tried again too.
        `what` completes "cannot …", such as `write KEY`. Raises ClientError for an answer that is one of the
        server's own (`MISSING`, `EXISTS`, `NOT_KNOWN`, a NoSuchUpload), else StoreError. What is `refusable` has another way
        of being asked: all that the server refuses is a ClientError then, without patience also what it says to have arrived
        as something else.
        """
        for attempt in range(_ATTEMPTS):
            try:
                result = request(self.client)
            except (ClientError, BotoCoreError, GarbledResponse, *STRANGE) as error:
                passes = may_pass(error)
                last = (_ATTEMPTS if self._has_answered else _FIRST_ATTEMPTS) - 1
                if isinstance(error, ClientError):
                    self._has_answered = True
                    if self._signs_from_now_on(error):
                        continue
                    self.has_served |= error_code(error) == "NoSuchKey"
                    is_garbled = passes and not is_overloaded(error)
                    if (
                        is_answer(error)
                        or (refusable and not passes)
                        or (is_garbled and not patient and attempt >= _IMPATIENT_ATTEMPTS - 1)
                    ):
                        raise
                if attempt >= last or not passes:
                    raise self.error(what, error) from error
            else:
                self._has_answered = self.has_served = True
                return result
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt)
            time.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 -- jitter
        raise AssertionError("unreachable")

    def _signs_from_now_on(self, error: ClientError) -> bool:
        """Whether the server may take bodies only that are signed: it says so, or refuses all else. Then the client does it."""
        if self.has_served or is_about_credentials(error) or http_status(error) not in _REFUSALS:
            return False
        with self._lock:
            if self._has_tried_to_sign:
                return False
            self._has_tried_to_sign = True
        signing = make_client(self._settings, signs_bodies=True)
        if not _OF_BODIES.search(error_text(error)):
            self._is_unknown = not self._finds_bucket(signing)
            if self._is_unknown or self._finds_bucket(self.client):
                return False
        with self._lock:
            self._client = signing
        return True

    def _finds_bucket(self, client: S3Client) -> bool:
        try:
            client.head_bucket(Bucket=self.bucket)
        except (ClientError, BotoCoreError, *STRANGE):
            return False
        self.has_served = True
        return True

    def knows_us(self) -> bool:
        """Whether the credentials are right, and may do something with the bucket: then what is denied is this request."""
        if not self.has_served and not self._is_unknown:
            with suppress(ClientError, StoreError):
                self.call("find it", lambda client: client.head_bucket(Bucket=self.bucket))
        return self.has_served

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
                f"cannot trust the endpoint {self._endpoint_text()}: {one_line(error)} (ca_bundle names certificates)"
            )
        if isinstance(error, EndpointConnectionError | ConnectionFailed):
            return StoreUnreachable(f"cannot reach the endpoint {self._endpoint_text()}: {one_line(error)}")
        if isinstance(error, STRANGE):
            return StoreError(f"cannot {what} in {where}: what it answers is not S3")
        return StoreError(f"cannot {what} in {where}: {one_line(error)}")

    def _refusal(self, message: str, error: ClientError) -> StoreError:
        """What the server said."""
        code = error_code(error)
        if code == "NoSuchBucket":
            return self._no_bucket()
        words = said(error)
        if _FIRST_REDIRECT <= http_status(error) < _FIRST_ERROR:
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            where = headers.get("location") or error.response.get("Error", {}).get("Endpoint")
            to = f" to {one_line_of(where)}" if where else ""
            return StoreUnreachable(f"{message}: it redirects{to}: check endpoint and region ({words})")
        if code in WHY and not (code == "400" and words.startswith("400: ")):
            return StoreUnreachable(f"{message}: {WHY[code]} ({words})")
        return StoreError(f"{message}: {words}")

    def _no_bucket(self) -> StoreError:
        return StoreUnreachable(
            f"there is no bucket {self.bucket} at {self._endpoint_text()}: {making_of(self.bucket)}"
        )

    def missing(self, key: str, url: str) -> StoreError:
        """What a 404 without a body means."""
        try:
            self.call("find it", lambda client: client.head_bucket(Bucket=self.bucket))
        except ClientError as error:
            if error_code(error) in MISSING:
                return self._no_bucket()
        return NoSuchObject(f"{key} is missing from the store {url}")

    def _endpoint_text(self) -> str:
        endpoint = self._settings.endpoint or self.endpoint
        parts = urlsplit(endpoint)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
