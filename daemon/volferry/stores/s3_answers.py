"""What an S3 server's answer means that is no success: which may pass, which says that something is missing or there, and what a user
is told of it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, responses
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError, ReadTimeoutError, SSLError
from botocore.exceptions import ConnectionError as ConnectionFailed
from botocore.parsers import ResponseParserError

# HTTP statuses
_CONFLICT, _PRECONDITION_FAILED, _TOO_MANY = 409, 412, 429
SERVER_FAULT, NOT_IMPLEMENTED, _GATEWAY_TIMEOUT, _NO_ROOM = 500, 501, 504, 507

_LONGEST_TEXT = 400  # of what a server says
_AT_WORK = re.compile(
    r"in.?progress|already|timeout|timed out|OperationAborted|being (completed|processed)", re.IGNORECASE
)
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
    "OperationAborted",
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
WHY = {
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
STRANGE = (KeyError, ValueError, TypeError, AttributeError, HTTPException)


class GarbledResponse(Exception):
    """What came back cannot be right: it is worth another attempt."""


def error_code(error: ClientError) -> str:
    """Such as `NoSuchKey`; the HTTP status where there is no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_text(error: ClientError) -> str:
    """Code, message and details, as the server has them."""
    return " ".join(" ".join(str(value).split()) for value in error.response.get("Error", {}).values())


def says_exists(error: ClientError) -> bool:
    """Whether a condition was not met: there is such an object."""
    code, status = error_code(error), http_status(error)
    if status == _CONFLICT:
        return "exist" in code.lower() or code in {"Conflict", str(_CONFLICT)}
    return code in EXISTS or status == _PRECONDITION_FAILED


def may_be_done(cause: BaseException | None) -> bool:
    """Whether the server may have done what it did not answer, or answered with a fault of its own."""
    return isinstance(cause, Exception) and may_pass(cause)


def is_at_work(cause: BaseException | None) -> bool:
    """Whether it seems to be doing still what it was asked for."""
    if isinstance(cause, ClientError):
        status = http_status(cause)
        return status == _GATEWAY_TIMEOUT or bool(_AT_WORK.search(error_text(cause)))
    return isinstance(cause, ReadTimeoutError)


def http_status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_answer(error: ClientError) -> bool:
    return says_exists(error) or error_code(error) in MISSING | NOT_KNOWN | {
        "NoSuchUpload",
        "InvalidRange",
        "416",
    }


def is_about_credentials(error: ClientError) -> bool:
    """Or about the place: no request of another kind fares better."""
    code = error_code(error)
    return code in WHY and code not in {"AccessDenied", "400", "403"}


def is_overloaded(error: ClientError) -> bool:
    """Or has a fault of its own, whatever was asked."""
    status = http_status(error)
    return (
        error_code(error) in _BUSY
        or status == _TOO_MANY
        or (status >= SERVER_FAULT and status not in {NOT_IMPLEMENTED, _NO_ROOM})
    )


def may_pass(error: Exception) -> bool:
    """Whether it is worth another attempt."""
    if isinstance(error, ClientError):
        code = error_code(error)
        if code in _GARBLED or is_overloaded(error):
            return True
        # A 400 that is no document, or one that says nothing of what we sent, is one of a server that we garbled.
        return code == "400" and not error.response["Error"].get("Message")
    if isinstance(error, SSLError):
        return "CERTIFICATE" not in str(error).upper()
    return isinstance(
        error, (ConnectionFailed, HTTPClientError, GarbledResponse, ResponseParserError, *STRANGE)
    )


def said(error: ClientError) -> str:
    """The server's own words, in one line; of an answer without a body, its status."""
    found = error.response.get("Error", {})
    code, status = error_code(error), http_status(error)
    message = " ".join(str(found.get("Message", "")).split())
    if code == str(status) and message == responses.get(status):  # botocore's words where there is no body
        return f"HTTP status {status}"
    return f"{code}: {message[:_LONGEST_TEXT]}" if message else code


def one_line_of(text: object) -> str:
    """What a server says, as a line of a message takes it."""
    line = " ".join(str(text).split())
    return "".join(each if each.isprintable() else "\ufffd" for each in line)[:_LONGEST_TEXT]


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def date_of(response: Any) -> datetime | None:
    """Of an answer; None where it has none."""
    text = str(response["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(ValueError, TypeError, IndexError):
            found = read(text)
            return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return None
