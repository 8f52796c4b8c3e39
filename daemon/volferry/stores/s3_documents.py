"""What a server answers, before botocore reads it: no document of S3 is taken for one, and of an error as much as a line can say."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from volferry.stores.s3_answers import GarbledResponse

_SUCCESS, _FIRST_REDIRECT, _FIRST_ERROR, _MADE_UP = 200, 300, 400, 500  # HTTP statuses
# More than any message has; a proxy's page, or somebody who means harm, may send megabytes.
_LONGEST_ERROR = 4096
_LONGEST_QUOTE = 100

# Of a list, by call: without them an answer would be an empty list, in favour of which `prune` deletes.
_LISTS = {
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListParts": "ListPartsResult",
}
_ROOT = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:[^-]|-(?!->))*-->\s*)*<(?:[\w.-]+:)?([\w.-]+)[\s/>]"
)
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+)?html[\s>]", re.IGNORECASE)
_EMPTY_ENTRY = re.compile(rb"<Contents\s*/>|<Contents>\s*</Contents>")
_TRUNCATED = re.compile(rb"(<(?:[\w.-]+:)?IsTruncated>)\s*(true|false)\s*(</)", re.IGNORECASE)
_CODE = re.compile(rb"<Code>([^<]*)")
_MESSAGE = re.compile(rb"<Message>([^<]*)")
# No tag holds another one's beginning: each is looked at once, however many there are.
_TAG = re.compile(r"<([^<>]*)>")
_UNSEEN = {"head", "script", "style"}  # a browser shows nothing of these

# As `EncodingType`: names as they are. boto3 would ask for encoded ones where nothing is said.
NOT_ENCODED = ""
# What an answer has in place of what botocore knows nothing of.
ROOT = "Root"


def look_at_documents(client: Any) -> None:
    """Has `client` look first at what it is answered. What cannot be right is a GarbledResponse."""
    events = client.meta.events
    events.register_first("before-parse.s3", _readable)
    events.register_first("before-parse.s3", _no_page)
    for call in _LISTS:
        events.register_first(f"before-parse.s3.{call}", _list)
    for call in ("ListObjects", "ListObjectsV2"):
        events.register_last(f"before-parameter-build.s3.{call}", _without_encoding)
    events.register_first("before-parse.s3.CompleteMultipartUpload", _completion)


def _without_encoding(params: Any, **_: object) -> None:
    if params.get("EncodingType") == NOT_ENCODED:
        del params["EncodingType"]


def _no_page(response_dict: Any, **_: object) -> None:
    """A success in HTML is one of something between here and there, such as a page to log in at."""
    status, body = response_dict["status_code"], response_dict.get("body")
    if status < _FIRST_REDIRECT and isinstance(body, bytes) and _PAGE.match(body):
        raise GarbledResponse("what it answers is a web page, not S3")


def _list(response_dict: Any, **context: Any) -> None:
    status, body = response_dict["status_code"], response_dict["body"]
    root = _root(body)
    # What is no XML has come with 200, too: botocore, whose turn was before, says 500 then.
    if root == "Error" or status not in {_SUCCESS, _MADE_UP}:
        return
    if root.lower() == _LISTS[context["operation_model"].name].lower() and _is_xml(body):
        # Some servers say so that there is nothing; botocore looks for a name in each.
        body = _EMPTY_ENTRY.sub(b"", body)
        # botocore knows `true` alone.
        response_dict["body"] = _TRUNCATED.sub(lambda found: found[1] + found[2].lower() + found[3], body)
    elif status == _SUCCESS or not _is_xml(body[:_LONGEST_ERROR]):
        text = _text(body[:_LONGEST_ERROR].decode(errors="replace"))[:_LONGEST_QUOTE]
        if "\ufffd" in text:  # compressed, or encrypted: nobody can read it
            text = f"{len(body)} bytes that are no text"
        raise GarbledResponse(f"what it answers is no list, or the list broke off: {text}".rstrip(": "))


def _completion(response_dict: Any, customized_response_dict: Any, **_: object) -> None:
    # White space that a server sends while it is still at it: before an XML declaration it is no XML.
    response_dict["body"] = response_dict["body"].lstrip()
    customized_response_dict[ROOT] = _root(response_dict["body"])


def _readable(response_dict: Any, **_: object) -> None:
    """An error that is too long, or whose body is none of S3: botocore would drop what it says, as a proxy's page or a JSON document."""
    status, body = response_dict["status_code"], response_dict.get("body")
    if not isinstance(body, bytes) or (status < _FIRST_REDIRECT and _root(body[:_LONGEST_ERROR]) != "Error"):
        return
    is_cut = len(body) > _LONGEST_ERROR
    body = response_dict["body"] = body[:_LONGEST_ERROR]
    if b"<Error" in body:
        if not is_cut and _is_xml(body):
            return
        if code := _CODE.search(body):
            message = _MESSAGE.search(body)
            response_dict["body"] = _error(_plain(code[1]), _plain(message[1] if message else b""))
            return
    if status >= _FIRST_ERROR and (text := _text(body.decode(errors="replace"))):
        response_dict["body"] = _error(str(status), text)


def _error(code: str, message: str) -> bytes:
    return f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>".encode()


def _is_xml(body: bytes) -> bool:
    try:
        ET.fromstring(body)  # noqa: S314 -- so does botocore
    except ET.ParseError:
        return False
    return True


def _root(body: bytes) -> str:
    """The name of the outermost element; empty where there is none."""
    found = _ROOT.match(body)
    return found[1].decode(errors="replace") if found else ""


def _text(page: str) -> str:
    """What a browser would show of it, in one line."""
    pieces, unseen = [], ""
    for number, piece in enumerate(_TAG.split(page)):
        if number % 2 == 0:
            if not unseen:
                pieces.append(piece)
            continue
        name = piece.split(maxsplit=1)[0].lower() if piece.strip() else ""
        if unseen:
            unseen = "" if name == f"/{unseen}" else unseen
        elif name in _UNSEEN:
            unseen = name
    return _one_line(" ".join(pieces))


def _plain(text: bytes) -> str:
    return _one_line(text.decode(errors="replace"))


def _one_line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
