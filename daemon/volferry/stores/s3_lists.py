"""What a bucket holds below a prefix: objects and unfinished uploads, page by page, in whatever form the server says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from botocore.exceptions import ClientError

from volferry.errors import StoreError
from volferry.model import ObjectInfo
from volferry.stores.base import is_valid_key
from volferry.stores.s3_answers import GarbledResponse, error_code, is_about_credentials
from volferry.stores.s3_documents import NOT_ENCODED
from volferry.stores.s3_ways import ENCODED, LIST, PAGES, SIZED, Way

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from volferry.stores.s3_transfer import Transfers

_KEYS_A_REQUEST = 1000
UPLOADS_STAY = (
    "unfinished uploads of other machines stay there, and take up room, until a rule of the bucket ends them"
)
# Of servers that have no list of uploads.
_NO_LIST = {"NotImplemented", "501", "MethodNotAllowed", "405"}


class _Page(NamedTuple):
    names: list[tuple[str, ObjectInfo]]  # in the bucket, and what a store calls it
    next: dict[str, str] | None  # arguments for the page after this one
    may_be_last: bool  # also where there is a next one
    way: Way  # in which it was asked for


class UploadsNotListed(StoreError):
    """The server does not tell, or not these credentials, which uploads are unfinished."""


class Unfinished(NamedTuple):
    """A multipart upload."""

    name: str
    id: str
    begun: datetime


def objects(transfers: Transfers, place: str, prefix: str) -> Iterator[ObjectInfo]:
    """Those below `prefix` of the store at `place` in the bucket, sorted by key. Raises StoreError."""
    found: dict[str, ObjectInfo] = {}
    marker: dict[str, str] | None = {}
    way: Way | None = None
    while marker is not None:
        page = _page(transfers, place, prefix, marker, way)
        way = page.way
        new = dict(page.names)
        if page.next is not None and (page.next == marker or (new and new.keys() <= found.keys())):
            if page.may_be_last:
                break
            error = GarbledResponse("its list does not come to an end")
            raise transfers.server.error("list objects", error)
        found |= new
        marker = page.next
    # Not every server lists in the order of keys.
    yield from sorted(found.values(), key=lambda info: info.key)


def _page(transfers: Transfers, place: str, prefix: str, marker: dict[str, str], taken: Way | None) -> _Page:
    """The first one, or one after it, in the way that was `taken` for that."""
    wanted = place + prefix

    def page(client: Any, way: Way) -> _Page:
        by_pages = PAGES in way and "Marker" not in marker
        ask = client.list_objects_v2 if by_pages else client.list_objects
        response = ask(
            Bucket=transfers.server.bucket,
            Prefix=wanted,
            **({"MaxKeys": _KEYS_A_REQUEST} if SIZED in way else {}),
            # boto3 asks for it where nothing is said.
            **({} if ENCODED in way else {"EncodingType": NOT_ENCODED}),
            **marker,
        )
        entries = [
            (_name(each["Key"], wanted), each) for each in response.get("Contents", ()) if each.get("Key")
        ]
        names = [
            (name, ObjectInfo(key, int(each["Size"]), each["LastModified"]))
            for name, each in entries
            # Others are none of ours, such as the "directories" that some tools make.
            if name.startswith(wanted) and is_valid_key(key := name.removeprefix(place))
        ]
        told = response.get("IsTruncated")  # None where the server does not say it
        may_be_last = told is False or (told is None and len(entries) < _KEYS_A_REQUEST)
        return _Page(names, _next(response, told, [name for name, _ in entries]), may_be_last, way)

    try:
        if "ContinuationToken" in marker and taken is not None:
            return transfers.server.call("list objects", lambda client: page(client, taken))
        offered = {PAGES, ENCODED, SIZED} if taken is None else taken - {PAGES}
        return transfers.ask(LIST, "list objects", frozenset(offered), page)
    except ClientError as error:
        raise transfers.server.error("list objects", error) from error


def _next(response: Any, is_truncated: bool | None, names: list[str]) -> dict[str, str] | None:  # noqa: FBT001
    """How to ask for what comes after a page: there is more wherever there is a way to ask for it, for a list that ends too soon costs
    backups. Raises GarbledResponse.
    """
    if is_truncated is False and not names:
        return None
    if token := response.get("NextContinuationToken"):
        return {"ContinuationToken": token}
    if is_truncated is False and not response.get("NextMarker"):
        return None
    # A server that knows only the first version of the call: it goes on after a name.
    if marker := names[-1] if names else response.get("NextMarker"):
        return {"Marker": marker}
    if is_truncated:
        raise GarbledResponse("a page of a list has no next one")
    return None


def _name(text: str, wanted: str) -> str:
    """Some servers encode names though nothing says that they do."""
    if text.startswith(wanted):
        return text
    decoded = unquote(text)
    return decoded if decoded.startswith(wanted) else text


def unfinished_uploads(transfers: Transfers, prefix: str) -> Iterator[Unfinished]:
    """Those below `prefix` in the bucket; none where the server has no list of them. Raises UploadsNotListed, StoreError."""
    marker: dict[str, str] | None = {}
    while marker is not None:
        uploads, marker = _uploads_page(transfers, prefix, marker)
        yield from uploads


def _uploads_page(
    transfers: Transfers, prefix: str, marker: dict[str, str]
) -> tuple[list[Unfinished], dict[str, str] | None]:
    def page(client: Any) -> tuple[list[Unfinished], dict[str, str] | None]:
        response = client.list_multipart_uploads(Bucket=transfers.server.bucket, Prefix=prefix, **marker)
        uploads = [
            Unfinished(_name(each["Key"], prefix), each["UploadId"], each["Initiated"])
            for each in response.get("Uploads", ())
            if each.get("Key")
        ]
        after = {
            name: response[f"Next{name}"]
            for name in ("KeyMarker", "UploadIdMarker")
            if response.get(f"Next{name}")
        }
        if response.get("IsTruncated") is False or not uploads or after in ({}, marker):
            return uploads, None
        return uploads, after

    try:
        found, after = transfers.server.call("list uploads", page, refusable=True)
        return [each for each in found if each.name.startswith(prefix)], after
    except ClientError as error:
        # How rclone says that there are none, and how others say that they do not tell.
        if error_code(error) in _NO_LIST | {"NoSuchUpload"}:
            return [], None
        told = transfers.server.error("list uploads", error)
        if is_about_credentials(error) or not transfers.server.knows_us():
            raise told from error
        raise UploadsNotListed(str(told)) from error
