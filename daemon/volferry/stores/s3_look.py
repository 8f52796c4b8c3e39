"""Whether there is an object, how large it is, and what else the server says of it: by HEAD, or by what else it allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from volferry.errors import ObjectExists, StoreError
from volferry.stores.s3_answers import MISSING, error_code, http_status
from volferry.stores.s3_lists import objects
from volferry.stores.s3_ways import CRC32, HEAD, Way

if TYPE_CHECKING:
    from volferry.stores.s3_transfer import Transfers

# HTTP statuses
_WHOLE, _FORBIDDEN, _NO_METHOD, _NOT_IMPLEMENTED = 200, 403, 405, 501
_EMPTY = {"InvalidRange", "416"}  # an empty object has no first byte


def head(transfers: Transfers, name: str, key: str, action: str = "read") -> Any:
    """What the server says of an object, with its checksum where it can; None if there is none. `ContentLength` is always there.
    Raises StoreError.
    """

    def request(client: Any, way: Way) -> Any:
        return client.head_object(
            Bucket=transfers.server.bucket, Key=name, **({"ChecksumMode": "ENABLED"} if CRC32 in way else {})
        )

    what = f"{action} {key}"
    return _seen(transfers, name, key, what, lambda: transfers.ask(HEAD, what, frozenset({CRC32}), request))


def plain_head(transfers: Transfers, name: str, key: str, action: str = "read") -> Any:
    """As `head`, without a checksum: one request, whatever the server knows."""
    what = f"{action} {key}"
    bucket = transfers.server.bucket
    return _seen(
        transfers,
        name,
        key,
        what,
        lambda: transfers.server.call(
            what, lambda client: client.head_object(Bucket=bucket, Key=name), refusable=True
        ),
    )


def _seen(transfers: Transfers, name: str, key: str, what: str, ask: Any) -> Any:
    """The answer to `ask`, a HEAD, or what stands in for it. Raises StoreError."""
    try:
        found = ask()
    except ClientError as error:
        if error_code(error) in MISSING:
            return None
        told = transfers.server.error(what, error)
        # Some servers say so of what is not there, and some have no HEAD at all.
        odd = http_status(error) in {_FORBIDDEN, _NO_METHOD, _NOT_IMPLEMENTED}
        if not odd or not transfers.server.knows_us():
            raise told from error
        try:
            return _without_head(transfers, name, key, what)
        except (ClientError, StoreError):
            raise told from error
    if "ContentLength" not in found:
        try:
            other = _without_head(transfers, name, key, what)
        except ClientError as error:
            raise transfers.server.error(what, error) from error
        return None if other is None else {**found, "ContentLength": other["ContentLength"]}
    return found


def _without_head(transfers: Transfers, name: str, key: str, what: str) -> dict[str, Any] | None:
    """By its first byte, else by the list. None if there is no such object. Raises ClientError, StoreError."""

    def first_byte(client: Any) -> dict[str, Any]:
        response = client.get_object(Bucket=transfers.server.bucket, Key=name, Range="bytes=0-0")
        response["Body"].close()
        return dict(response)

    try:
        found = transfers.server.call(what, first_byte, refusable=True)
    except ClientError as error:
        if error_code(error) in MISSING:
            return None
        if error_code(error) in _EMPTY:
            return {"ContentLength": 0}
    except StoreError:
        pass
    else:
        size = str(found.get("ContentRange", "")).rpartition("/")[2]
        is_whole = found["ResponseMetadata"]["HTTPStatusCode"] == _WHOLE and not found.get("ContentRange")
        if not size.isdigit() and is_whole and "ContentLength" in found:
            size = str(found["ContentLength"])
        if size.isdigit():
            return {**found, "ContentLength": int(size)}
    for info in objects(transfers, name.removesuffix(key), key):
        if info.key == key:
            return {"ContentLength": info.size}
    return None


def refuse_if_there(transfers: Transfers, name: str, key: str) -> None:
    """For servers that do not do it: nobody else writes the same key on purpose, for ids are random. Raises ObjectExists, StoreError."""
    if head(transfers, name, key) is not None:
        raise exists(transfers, key)


def exists(transfers: Transfers, key: str) -> ObjectExists:
    return ObjectExists(f"{key} is in the store {transfers.url} already")
