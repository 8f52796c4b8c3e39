"""Servers that refuse, or ignore, what others take: each is asked in the safest way that it takes, and nothing is lost by that."""

from __future__ import annotations

import os
import re
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.parts.s3_behaviours import (
    ALGORITHM,
    ALL,
    CONDITION,
    CRC32,
    ELEMENTS,
    IF_MATCH,
    MD5,
    MODE,
    REPORTED,
    WORDS,
    Refusing,
    Words,
    each_of,
    family,
    ignoring,
)
from tests.parts.s3_proxy import Answer, s3_proxy
from volferry.errors import DeletionDenied, NoSuchObject, ObjectExists, StoreError, StoreUnreachable
from volferry.repository import Repository
from volferry.store_config import ObjectLock
from volferry.stores import s3_client, s3_completion, s3_knowledge, s3_lists, s3_reader
from volferry.stores.base import get, put
from volferry.stores.s3 import S3Store
from volferry.stores.s3_client import make_client as _make_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.parts.s3_proxy import Asked, S3Proxy
    from tests.parts.s3_servers import S3Server, Servers
    from volferry.store_config import StoreConfig

FAMILY = int(os.environ.get("S3_FAMILY", "30"))
LARGE = (5 << 20) + 1000

_clients: dict[str, Any] = {}


@pytest.fixture(scope="module")
def server(s3_server: Servers) -> S3Server:
    return s3_server("seaweedfs")


@pytest.fixture(scope="module")
def shared_proxy(server: S3Server) -> Iterator[S3Proxy]:
    with s3_proxy(server.endpoint) as found:
        yield found


@pytest.fixture
def proxy(shared_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> S3Proxy:
    """Whose server knows all."""

    def make_client(settings: StoreConfig, **more: Any) -> Any:
        """A client takes longer to make than all else here."""
        name = f"{settings.endpoint} {settings.access_key_id} {more}"
        if name not in _clients:
            _clients[name] = _make_client(settings, **more)
        return _clients[name]

    monkeypatch.setattr(s3_client, "make_client", make_client)
    monkeypatch.setattr(s3_client, "_FIRST_PAUSE_SECONDS", 0.001)
    shared_proxy.behaviour = lambda asked, pass_on: pass_on(asked)
    shared_proxy.forget()
    return shared_proxy


class Place:
    """A bucket behind the proxy, and a machine that uses it."""

    def __init__(self, server: S3Server, proxy: S3Proxy, state: Path) -> None:
        self.server = server
        self.proxy = proxy
        self.state = state
        self.bucket = server.bucket()
        self.notes: list[str] = []

    def store(self, **more: Any) -> S3Store:
        """As a new process opens it."""
        settings = self.server.settings(f"s3://{self.bucket}/x", endpoint=self.proxy.endpoint, **more)
        return S3Store(settings, state=self.state, note=self._told)

    def _told(self, line: str) -> None:
        if "without TLS" not in line:
            self.notes.append(line)

    def written(self, key: str) -> bytes:
        """As the server has it."""
        found: bytes = self.server.client().get_object(Bucket=self.bucket, Key=f"x/{key}")["Body"].read()
        return found


@pytest.fixture
def place(server: S3Server, proxy: S3Proxy, tmp_path: Path) -> Place:
    return Place(server, proxy, tmp_path)


def serves(place: Place, *, counts_errors: bool = True) -> None:
    """All that a store is used for, with what the server refuses; and the next process knows how to ask."""
    store = place.store()
    objects = {
        "small": b"small",
        "other": os.urandom(1000),
        "large": os.urandom(LARGE),
        "again": os.urandom(LARGE),
    }
    for key, data in objects.items():
        put(store, key, data)
    for key, data in objects.items():
        assert place.written(key) == data
        assert get(store, key) == data
        with pytest.raises(ObjectExists):
            put(store, key, b"something else")
    store.replace("small", b"replaced")
    store.put_unlocked("trial", b"x")
    store.delete("trial")
    assert [info.key for info in store.list("")] == sorted(objects)
    assert place.server.unfinished(place.bucket) == 0

    place.proxy.forget()
    said = list(place.notes)
    assert len(said) == len(set(said))
    store = place.store()
    put(store, "next", os.urandom(1000))
    put(store, "large-next", os.urandom(LARGE))
    with pytest.raises(ObjectExists):
        put(store, "next", b"y")
    assert place.proxy.errors() == [] or not counts_errors, "what is refused is known by now"
    assert place.notes == said, "and was said"


@pytest.mark.parametrize("name", REPORTED)
def test_a_server_that_is_reported_to_be_like_this_can_be_used(place: Place, name: str) -> None:
    place.proxy.behaviour = REPORTED[name]
    serves(place)
    assert place.notes or "R2" in name or "no MD5" in name, "what it lacks is said"


@pytest.mark.parametrize("number", range(2 * FAMILY))
def test_a_server_that_refuses_anything_in_any_words_can_be_used(place: Place, number: int) -> None:
    place.proxy.behaviour = family(FAMILY)[number]
    serves(place)


def test_what_a_server_learns_to_take_is_used_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.proxy.behaviour = Refusing(each_of(CRC32, MODE, ALGORITHM), WORDS[0])
    put(place.store(), "old", b"x")
    assert any("CRC-32" in note for note in place.notes)
    place.proxy.behaviour = lambda asked, pass_on: pass_on(asked)
    monkeypatch.setattr(s3_knowledge, "_KNOWN_FOR", timedelta())
    put(place.store(), "new", b"x")
    assert CRC32 in place.proxy.calls("PutObject")[-1].headers


@pytest.mark.parametrize("refused", [each_of(CRC32, MODE), each_of(CONDITION), each_of(MD5), frozenset(ALL)])
def test_a_server_that_begins_to_refuse_is_asked_in_another_way(place: Place, refused: Any) -> None:
    store = place.store()
    put(store, "first", b"x")
    put(store, "second", b"x")
    place.proxy.behaviour = Refusing(refused, WORDS[0])
    for each in (store, place.store()):
        put(each, f"later{id(each)}", b"y")
        with pytest.raises(ObjectExists):
            put(each, "first", b"z")
    assert place.notes or refused == each_of(MD5), "nothing is lost without MD5 where CRC-32 is checked"


@pytest.mark.parametrize("feature", [CRC32, ALGORITHM, ELEMENTS])
def test_a_server_that_begins_to_refuse_it_in_uploads_fails_once_at_most(place: Place, feature: str) -> None:
    put(place.store(), "first", b"x")
    put(place.store(), "large", bytes(LARGE))
    place.proxy.behaviour = Refusing(each_of(feature), WORDS[0])
    with suppress(StoreError):
        put(place.store(), "another", bytes(LARGE))
    assert place.server.unfinished(place.bucket) == 0
    put(place.store(), "next", bytes(LARGE))
    assert place.written("next") == bytes(LARGE)


@pytest.mark.parametrize(
    "words",
    [
        Words(403, "AccessDenied", "You may not put this."),
        Words(403, "QuotaExceeded", "The bucket is full."),
        Words(404, "NoSuchBucket", "The bucket does not exist."),
        Words(403, "InvalidAccessKeyId", "Nobody has this key."),
        Words(400, "InvalidStorageClass", "There is no such class."),
        Words(507, "XMinioStorageFull", "Out of room."),
    ],
    ids=lambda words: words.code,
)
def test_a_refusal_in_earnest_is_told_at_once_and_as_it_is(place: Place, words: Words) -> None:
    place.proxy.behaviour = lambda asked, pass_on: (
        words.answer() if asked.call in {"PutObject", "CreateMultipartUpload"} else pass_on(asked)
    )
    for size in (10, LARGE):
        place.proxy.forget()
        with pytest.raises(StoreError) as raised:
            put(place.store(), "object", bytes(size))
        assert words.message in str(raised.value) or words.code == "NoSuchBucket", str(raised.value)
        assert words.code in str(raised.value) or "there is no bucket" in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1
        assert len(place.proxy.calls("PutObject", "CreateMultipartUpload")) <= 2
    assert place.notes == []


def test_where_nothing_helps_the_first_refusal_is_told(place: Place) -> None:
    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.call != "PutObject":
            return pass_on(asked)
        is_first = CRC32 in asked.headers and MD5 in asked.headers and CONDITION in asked.headers
        return Answer.error(
            400, "InvalidRequest" if is_first else "Other", "First." if is_first else "Other."
        )

    place.proxy.behaviour = behaviour
    with pytest.raises(StoreError, match=r"InvalidRequest: First\."):
        put(place.store(), "object", b"x")
    assert place.notes == []


def test_what_the_user_wants_of_objects_is_never_left_out(place: Place) -> None:
    wanted = {"x-amz-storage-class": "ODD", "x-amz-server-side-encryption": "AES256"}

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.call in {"PutObject", "CreateMultipartUpload"}:
            assert {name: asked.headers.get(name) for name in wanted} == wanted
            return Answer.error(400, "InvalidRequest", "What is ODD?")
        return pass_on(asked)

    place.proxy.behaviour = behaviour
    for size in (10, LARGE):
        with pytest.raises(StoreError, match=r"InvalidRequest: What is ODD\?"):
            put(place.store(storage_class="ODD", encryption="AES256"), "object", bytes(size))


def test_a_condition_that_is_taken_and_not_heeded_is_found(place: Place, s3_server: Servers) -> None:
    moto = s3_server("moto")  # it does not look at signatures, so that headers may be taken away
    with s3_proxy(moto.endpoint) as proxy:
        other = Place(moto, proxy, place.state)
        proxy.behaviour = ignoring(CONDITION)
        serves(other)
        assert len([note for note in other.notes if "If-None-Match" in note]) == 1


def tagged(change: Callable[[str], str | None], *calls: str) -> Callable[..., Answer]:
    """A server that says its entity tags in another way."""

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        answer = pass_on(asked)
        if asked.call in (calls or ("PutObject", "UploadPart", "HeadObject", "GetObject")) and answer.get(
            "ETag"
        ):
            answer.set("ETag", change(answer.get("ETag").strip('"')))
        if asked.call in {"PutObject", "UploadPart", "HeadObject"}:
            answer.set("x-amz-checksum-crc32", None)
        return answer

    return behaviour


TAGS: dict[str, Callable[[str], str | None]] = {
    "bare": lambda tag: tag,
    "quoted": lambda tag: f'"{tag}"',
    "weak": lambda tag: f'W/"{tag}"',
    "upper case": lambda tag: f'"{tag.upper()}"',
    "no MD5": lambda tag: f'"v1.{tag[:9]}"',
    "another MD5": lambda tag: f'"{tag[::-1]}"',
    "missing": lambda _: None,
}


@pytest.mark.parametrize("form", TAGS)
@pytest.mark.parametrize("refused", [frozenset(), each_of(MD5, CRC32)], ids=["", "no checksums"])
def test_entity_tags_come_in_any_form(place: Place, form: str, refused: Any) -> None:
    tags = tagged(TAGS[form])

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if form in {"no MD5", "another MD5"} and asked.call == "CompleteMultipartUpload":
            asked = with_own_tags(asked)
        return Refusing(refused, WORDS[0])(asked, lambda each: tags(each, pass_on))

    def with_own_tags(asked: Asked) -> Asked:
        """As such a server knows its parts."""
        parts = re.findall(rb"<PartNumber>(\d+)</PartNumber>", asked.body)
        known = {
            str(each["PartNumber"]).encode(): each["ETag"].encode()
            for each in place.server.client().list_parts(
                Bucket=place.bucket, Key=asked.key, UploadId=asked.query["uploadId"][0]
            )["Parts"]
        }
        body = b"".join(
            b"<Part><PartNumber>%b</PartNumber><ETag>%b</ETag></Part>" % (n, known[n]) for n in parts
        )
        head, tail = asked.body.split(b"<Part>", 1)[0], b"</CompleteMultipartUpload>"
        body = head + body + tail
        headers = {**asked.headers, "content-length": str(len(body))}
        return replace(asked, body=body, headers=headers)

    place.proxy.behaviour = behaviour
    serves(place)


def test_what_arrives_as_something_else_is_found_without_any_checksum(place: Place) -> None:
    """Nothing but reading it back tells."""
    tags = tagged(TAGS["no MD5"], "PutObject", "UploadPart")

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.call == "GetObject":
            answer = pass_on(asked)
            answer.body = (
                bytes([answer.body[0] ^ 1]) + answer.body[1:] if answer.status < 300 else answer.body
            )
            return answer
        return Refusing(each_of(MD5, CRC32), WORDS[0])(asked, lambda each: tags(each, pass_on))

    place.proxy.behaviour = behaviour
    with pytest.raises(StoreError, match="the server has other bytes than were sent"):
        put(place.store(), "object", b"content")


@pytest.mark.parametrize(
    "form", ["white space before it", "an error with 200, then gone", "in progress for long"]
)
def test_an_upload_may_take_long_to_complete(
    place: Place, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(s3_completion, "_PAUSE_SECONDS", 0.01)
    asked_to = 0

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        nonlocal asked_to
        if asked.call != "CompleteMultipartUpload" or b"probes/" in asked.target.encode():
            return pass_on(asked)
        asked_to += 1
        if form == "white space before it":
            answer = pass_on(asked)
            answer.body = b" \n \n" + answer.body
            return answer
        if asked_to == 1 and "200" in form:
            pass_on(asked)
            return Answer.error(200, "InternalError", "We encountered an internal error.")
        if asked_to < 20 and "long" in form:
            return Answer.error(500, "InternalError", "This upload is already in progress.")
        return pass_on(asked)

    place.proxy.behaviour = behaviour
    data = os.urandom(LARGE)
    put(place.store(), "object", data)
    assert place.written("object") == data


@pytest.mark.parametrize("form", ["nothing", "nothing, and not done", "a page", "a page, and not done"])
def test_an_upload_whose_end_is_answered_by_something_else_is_looked_at(place: Place, form: str) -> None:
    put(place.store(), "first", bytes(LARGE))

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.call != "CompleteMultipartUpload":
            return pass_on(asked)
        if "not done" not in form:
            pass_on(asked)
        return Answer(200, {}, LOGIN if "page" in form else b" ")

    place.proxy.behaviour = behaviour
    data = os.urandom(LARGE)
    if "not done" in form:
        with pytest.raises(StoreError, match="cannot write object"):
            put(place.store(), "object", data)
        assert place.server.unfinished(place.bucket) == 0
        assert "object" not in [info.key for info in place.store().list("")]
        return
    put(place.store(), "object", data)
    assert place.written("object") == data


@pytest.mark.parametrize("call", ["PutObject", "DeleteObject"])
def test_a_success_in_html_is_not_believed(place: Place, call: str) -> None:
    put(place.store(), "object", b"x")
    place.proxy.behaviour = lambda asked, pass_on: (
        Answer(200, {"Content-Type": "text/html"}, LOGIN) if asked.call == call else pass_on(asked)
    )
    with pytest.raises(StoreError, match="what it answers is a web page"):
        put(place.store(), "other", b"x") if call == "PutObject" else place.store().delete("object")


@pytest.mark.parametrize(
    "form",
    ["no version 2", "no token", "encoded", "without fractions", "an empty entry", "all of the bucket"],
)
def test_lists_come_in_any_form(place: Place, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(s3_lists, "_KEYS_A_REQUEST", 3)
    store = place.store()
    keys = [f"packs/a%2Fb/{number}" for number in range(8)]
    for key in keys:
        put(store, key, b"x")
    place.server.client().put_object(Bucket=place.bucket, Key="elsewhere", Body=b"x")

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.call == "ListObjectsV2" and form == "no version 2":
            return WORDS[0].answer()
        answer = pass_on(asked)
        if asked.call not in {"ListObjects", "ListObjectsV2"}:
            return answer
        text = answer.body.decode()
        if form == "no token":
            text = re.sub("<Next(ContinuationToken|Marker)>.*?</Next(ContinuationToken|Marker)>", "", text)
        if form == "encoded":  # and it does not say so
            text = re.sub("<EncodingType>.*?</EncodingType>", "", text)
            text = re.sub("<Key>(.*?)</Key>", lambda found: f"<Key>{quote(found[1], safe='%')}</Key>", text)
        if form == "without fractions":
            text = re.sub(
                r"<LastModified>(.*?)(\.\d+)?Z?</LastModified>", r"<LastModified>\1</LastModified>", text
            )
        if form == "an empty entry":
            text = text.replace("<Contents>", "<Contents></Contents><Contents>", 1)
        if form == "all of the bucket":
            text = text.replace(
                "<Contents>",
                "<Contents><Key>elsewhere</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents><Contents>",
                1,
            )
        answer.body = text.encode()
        return answer

    place.proxy.behaviour = behaviour
    found = [info.key for info in place.store().list("packs/")]
    assert found == keys


@pytest.mark.parametrize(
    "form",
    [
        "not said",
        "not said, version 1",
        "True",
        "padded",
        "false, with a token",
        "false, with a marker",
        "once an empty page",
        "once a page to log in at",
    ],
)
def test_a_list_goes_on_wherever_there_is_more(
    place: Place, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(s3_lists, "_KEYS_A_REQUEST", 3)
    keys = [f"packs/{number}" for number in range(8)]
    for key in keys:
        put(place.store(), key, b"x")
    odd = iter({"once an empty page": [b""], "once a page to log in at": [LOGIN]}.get(form, ()))

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.call == "ListObjectsV2" and form in {"not said, version 1", "false, with a marker"}:
            return WORDS[2].answer()
        answer = pass_on(asked)
        if asked.call not in {"ListObjects", "ListObjectsV2"}:
            return answer
        if "continuation-token" in asked.query:
            answer.body = next(odd, answer.body)
        said, other = (
            b"<IsTruncated>true</IsTruncated>",
            {
                "True": b"<IsTruncated>True</IsTruncated>",
                "padded": b"<IsTruncated>\n true\n</IsTruncated>",
                "false, with a token": b"<IsTruncated>false</IsTruncated>",
                "false, with a marker": b"<IsTruncated>false</IsTruncated>",
            },
        )
        if form.startswith("not said"):
            answer.body = re.sub(b"<IsTruncated>.*?</IsTruncated>", b"", answer.body)
        answer.body = answer.body.replace(said, other.get(form, said))
        return answer

    place.proxy.behaviour = behaviour
    assert [info.key for info in place.store().list("packs/")] == keys


LOGIN = b"<html><body><p>Please log in</p></body></html>"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        LOGIN,
        b"<!DOCTYPE html>\n" + LOGIN,
        b'{"ok": true}',
        b"<ok/>",
        b"<ListBucketResult>",
        bytes(range(256)),
    ],
)
def test_a_success_that_is_no_list_is_no_empty_list(place: Place, body: bytes) -> None:
    put(place.store(), "object", b"x")
    place.proxy.behaviour = lambda asked, pass_on: (
        Answer(200, {"Content-Type": "text/html"}, body) if asked.call.startswith("List") else pass_on(asked)
    )
    for ask in (lambda: list(place.store().list("")), lambda: place.store().abort_uploads()):
        with pytest.raises(StoreError, match=r"^cannot list .*: what it answers is ") as raised:
            ask()
        assert str(raised.value).isprintable()
        assert "\ufffd" not in str(raised.value)
        assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<head" * 400_000, "400: <head"),
        (b"<" * 2_000_000, "400: <"),
        (b"<head><title>No</title></head><body>Blocked.</body>" + b" " * 3_000_000, "400: Blocked."),
        (Answer.error(400, "Odd", "y" * 50_000_000).body, "Odd: yyyy"),
        (b'{"m": "<Error: no"}', '400: {"m": "<Error: no"}'),
    ],
    ids=["heads", "signs", "a page", "a message", "JSON"],
)
def test_an_error_is_read_soon_however_long_it_is(place: Place, body: bytes, told: str) -> None:
    put(place.store(), "object", b"x")
    place.proxy.behaviour = lambda asked, pass_on: (
        Answer(400, {}, body) if asked.call == "DeleteObject" else pass_on(asked)
    )
    began = time.process_time()
    with pytest.raises(StoreError) as raised:
        place.store().delete("object")
    assert told in str(raised.value)
    assert len(str(raised.value)) < 700
    assert time.process_time() - began < 10, "it was minutes"


@pytest.mark.parametrize(
    "form",
    ["no range said", "its total not said", "ignored", "ignored, no length", "less at once", "one more"],
)
def test_ranges_come_in_any_form(place: Place, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(s3_reader, "_RANGE_BYTES", 1000)
    objects = {"small": b"small", "empty": b"", "several": os.urandom(4500)}
    for key, data in objects.items():
        put(place.store(), key, data)

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.call != "GetObject":
            return pass_on(asked)
        answer = pass_on(asked)
        if answer.status >= 300:
            return answer
        whole = place.written(asked.key.removeprefix("x/"))
        first, last = map(int, asked.headers["range"].removeprefix("bytes=").split("-"))
        if form.startswith("ignored"):
            answer.status, answer.body = 200, whole
            answer.set("Content-Range", None)
            answer.is_without_length = "no length" in form
        if form in {"less at once", "one more"}:
            end = min(last + 1, first + 300, len(whole)) if "less" in form else min(last + 2, len(whole))
            answer.body = whole[first:end]
            answer.set("Content-Range", f"bytes {first}-{end - 1}/{len(whole)}")
        if form == "no range said":
            answer.set("Content-Range", None)
        if form == "its total not said" and answer.get("Content-Range"):
            answer.set("Content-Range", answer.get("Content-Range").rpartition("/")[0] + "/*")
        return answer

    place.proxy.behaviour = behaviour
    store = place.store()
    for key, data in objects.items():
        assert get(store, key) == data
    for start, length in ((0, 5), (10, 20), (990, 2000), (4000, 500), (4499, 1)):
        with store.open("several", offset=start, length=length) as reader:
            found = b"".join(iter(lambda: reader.read(700), b""))
        assert found == objects["several"][start : start + length], (start, length)


@pytest.mark.parametrize("status", [403, 405, 501])
@pytest.mark.parametrize("denied", [("HeadObject",), ("HeadObject", "GetObject")])
def test_without_head_it_is_found_whether_an_object_is_there(
    place: Place, status: int, denied: tuple[str, ...]
) -> None:
    put(place.store(), "object", b"content")
    put(place.store(), "empty", b"")
    place.proxy.behaviour = lambda asked, pass_on: Answer(status) if asked.call in denied else pass_on(asked)
    store = place.store()
    assert (store.size("object"), store.size("empty")) == (7, 0)
    with pytest.raises(NoSuchObject):
        store.size("missing")
    with pytest.raises(ObjectExists):
        put(store, "object", b"other")
    put(store, "new", b"other")
    assert place.written("new") == b"other"


def test_a_head_that_is_denied_to_everybody_is_an_error(place: Place) -> None:
    place.proxy.behaviour = lambda *_: Answer(403)
    with pytest.raises(StoreUnreachable, match="access is denied"):
        place.store().size("object")


@pytest.mark.parametrize("lost", [None, "PutObject", "CompleteMultipartUpload"])
def test_a_head_may_say_no_length(place: Place, lost: str | None) -> None:
    put(place.store(), "first", bytes(LARGE))
    done: set[str] = set()

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        answer = pass_on(asked)
        if asked.call == "HeadObject":
            answer.set("Content-Length", None)
            answer.is_without_length = True
        if asked.call == lost and asked.target not in done:
            done.add(asked.target)
            return Answer.error(500, "InternalError", "The answer is lost.")
        return answer

    place.proxy.behaviour = behaviour
    for key, data in {"small": b"small", "large": os.urandom(LARGE)}.items():
        put(place.store(), key, data)
        assert place.written(key) == data
        assert place.store().size(key) == len(data)


@pytest.mark.parametrize("status", [400, 403])
def test_bodies_are_signed_where_the_server_wants_it(place: Place, status: int) -> None:
    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.headers.get("x-amz-content-sha256") == "UNSIGNED-PAYLOAD":
            return Answer(status) if status == 403 else WORDS[0].answer()
        return pass_on(asked)

    place.proxy.behaviour = behaviour
    serves(place, counts_errors=False)


@pytest.mark.parametrize("refused", ["encoding-type", "max-keys", "both", "large pages"])
@pytest.mark.parametrize("words", [WORDS[0], WORDS[2], Words(403, "AccessDenied", "Access Denied.")])
def test_a_list_is_asked_for_without_what_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, refused: str, words: Words
) -> None:
    monkeypatch.setattr(s3_lists, "_KEYS_A_REQUEST", 3)
    keys = [f"packs/{number}" for number in range(8)]
    for key in keys:
        put(place.store(), key, b"x")

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        parameters = {"encoding-type", "max-keys"} if refused == "both" else {refused}
        if asked.call.startswith("ListObjects") and (
            parameters & asked.query.keys()
            or (refused == "large pages" and asked.query.get("max-keys") == ["3"])
        ):
            return words.answer()
        return pass_on(asked)

    place.proxy.behaviour = behaviour
    for _ in range(2):
        assert [info.key for info in place.store().list("packs/")] == keys


@pytest.mark.parametrize("feature", [CONDITION, CRC32, IF_MATCH])
def test_a_fault_of_the_server_may_be_its_answer_to_something_optional(
    place: Place, monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    monkeypatch.setattr(s3_reader, "_RANGE_BYTES", 1000)
    place.proxy.behaviour = Refusing(each_of(feature), Words(500, "InternalError", "An odd header."))
    for number in range(2):
        store = place.store()
        for key, data in {"small": b"small", "several": os.urandom(2500), "large": os.urandom(LARGE)}.items():
            put(store, f"{key}{number}", data)
            assert place.written(f"{key}{number}") == data
            if len(data) < LARGE:
                assert get(store, f"{key}{number}") == data
        with pytest.raises(ObjectExists):
            put(store, f"small{number}", b"other")
        if number == 0:
            place.proxy.forget()
    assert (500 not in {status for _, status in place.proxy.errors()}) or feature == IF_MATCH


def test_a_server_that_is_down_is_no_reason_to_ask_in_another_way(place: Place) -> None:
    put(place.store(), "first", b"x")
    store = place.store()
    put(store, "second", b"x")
    place.proxy.behaviour = lambda *_: Answer.error(503, "SlowDown", "Please reduce your request rate.")
    with pytest.raises(StoreError, match="SlowDown"):
        put(store, "third", b"x")
    assert all(CONDITION in each.headers for each in place.proxy.calls("PutObject"))


@pytest.mark.parametrize("tag", ["said", "no MD5"])
@pytest.mark.parametrize("calls", [("PutObject",), ("UploadPart",), ("PutObject", "UploadPart")])
def test_a_server_that_says_another_crc32_is_not_believed_but_looked_at(
    place: Place, tag: str, calls: tuple[str, ...]
) -> None:
    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        answer = pass_on(asked)
        if asked.call in calls and "probes/" not in asked.key:
            answer.set("x-amz-checksum-crc32", "AAAAAA==")
            if tag != "said" and asked.call == "PutObject":
                answer.set("ETag", '"v1.abc"')
        return answer

    place.proxy.behaviour = behaviour
    serves(place)


@pytest.mark.parametrize("date", [None, "Sun, 29 Nov 2026 10:40:31 -0000", "2026-11-29T10:40:31Z", "soon"])
@pytest.mark.parametrize("may_write", [True, False])
def test_the_time_is_found_where_answers_do_not_say_it(
    place: Place, date: str | None, may_write: bool
) -> None:
    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        answer = pass_on(asked) if may_write or asked.method != "PUT" else Answer(403)
        answer.set("Date", date)
        answer.is_without_date = True
        return answer

    place.proxy.behaviour = behaviour
    found = place.store().now()
    if date is not None and date[0] in "S2":
        assert found == datetime(2026, 11, 29, 10, 40, 31, tzinfo=UTC)
    else:
        assert abs(found - datetime.now(UTC)) < timedelta(minutes=5)
        assert len([note for note in place.notes if "clock of this machine" in note]) == (not may_write)
    place.proxy.behaviour = lambda asked, pass_on: pass_on(asked)
    assert list(place.store().list("")) == []


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_told_and_not_followed(place: Place, status: int) -> None:
    place.proxy.behaviour = lambda *_: Answer(status, {"Location": "https://login.example/"})
    for ask in (lambda: place.store().size("object"), lambda: list(place.store().list(""))):
        place.proxy.forget()
        with pytest.raises(StoreError, match=r"it redirects to https://login\.example/: check endpoint"):
            ask()
        assert len(place.proxy.asked) < 10


@pytest.mark.parametrize("words", [Words(403, "AccessDenied", "Access Denied."), WORDS[0]])
def test_uploads_that_may_not_be_listed_stay_and_are_told(place: Place, words: Words) -> None:
    place.proxy.behaviour = lambda asked, pass_on: (
        words.answer() if asked.call == "ListMultipartUploads" else pass_on(asked)
    )
    assert place.store().abort_uploads() == 0
    (note,) = place.notes
    assert words.message in note
    assert "take up room" in note
    (lack,) = place.store().probe().lacks
    assert lack == note


def test_a_store_that_loses_answers_is_not_called_one_that_overwrites(place: Place) -> None:
    lost: set[str] = set()

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        """Each request is answered the second time."""
        name = f"{asked.method} {asked.target} {md5(asked.body, usedforsecurity=False).hexdigest()}"
        if asked.method != "PUT" or name in lost:
            return pass_on(asked)
        lost.add(name)
        pass_on(asked)
        return Answer.error(503, "SlowDown", "Please reduce your request rate.")

    place.proxy.behaviour = behaviour
    assert place.store().probe().lacks == ()


def test_what_the_server_says_is_in_the_message(place: Place) -> None:
    everything = {"ListObjects", "ListObjectsV2"}
    for words, told in (
        (Words(400, "InvalidArgument", "Too odd."), "InvalidArgument: Too odd."),
        (Words(403, "AccessDenied", "Transaction cap exceeded."), "AccessDenied: Transaction cap exceeded."),
        (Words(400, text="<html><body>Blocked by a <b>wall</b></body></html>"), "400: Blocked by a wall"),
        (Words(403), "HTTP status 403"),
    ):

        def behaviour(asked: Asked, _: Any, words: Words = words) -> Answer:
            assert asked.call in everything
            return words.answer()

        place.proxy.behaviour = behaviour
        with pytest.raises(StoreError) as raised:
            list(place.store().list(""))
        assert told in str(raised.value)
        assert "expired" not in str(raised.value)
    with pytest.raises(StoreUnreachable, match="access is denied"):
        list(place.store().list(""))


def test_it_costs_no_more_requests_than_it_must(place: Place) -> None:
    """Of a server that takes all: one a small object, three and one a part for a large one."""
    put(place.store(), "first", b"x")
    put(place.store(), "first-large", os.urandom(LARGE))
    place.proxy.forget()
    store = place.store()
    for number in range(5):
        put(store, f"small{number}", b"x")
    assert [each.call for each in place.proxy.asked] == ["PutObject"] * 5
    place.proxy.forget()
    put(store, "large", os.urandom(LARGE))
    assert sorted(each.call for each in place.proxy.asked) == [
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        "UploadPart",
        "UploadPart",
    ]
    place.proxy.forget()
    get(store, "large")
    store.delete("large")
    assert [each.call for each in place.proxy.asked] == ["GetObject", "DeleteObject"]


def test_what_an_earlier_version_remembered_is_still_known(place: Place) -> None:
    put(place.store(), "first", b"x")
    (memory,) = place.state.rglob("server.json")
    memory.write_text('{"heeds_if_none_match": true, "checks_crc32": true}')
    place.proxy.forget()
    put(place.store(), "second", b"x")
    assert [each.call for each in place.proxy.asked] == ["PutObject"]


def test_a_bucket_is_tried_before_the_first_backup(place: Place) -> None:
    assert place.store().probe().lacks == ()
    assert [info.key for info in place.store().list("")] == []
    assert place.server.unfinished(place.bucket) == 0


def test_a_bucket_that_lacks_something_is_told_to(place: Place) -> None:
    put(place.store(), "known", b"x")
    place.proxy.behaviour = Refusing(each_of(CONDITION, CRC32, MODE, ALGORITHM), WORDS[0])
    lacks = place.store().probe().lacks
    assert any("If-None-Match" in line for line in lacks)
    assert any("CRC-32" in line for line in lacks)


def test_who_may_only_add_may_back_up(place: Place) -> None:
    place.proxy.behaviour = lambda asked, pass_on: (
        Words(403, "AccessDenied", "No deletion.").answer()
        if asked.call == "DeleteObject"
        else pass_on(asked)
    )
    (line,) = place.store().probe().lacks
    assert "AccessDenied: No deletion." in line
    assert "prune" in line
    repository, _ = Repository.open_or_create(place.store())
    repository.try_to_write("host", "volume")
    repository.try_to_write("host", "volume")
    with pytest.raises(DeletionDenied):
        repository.store.delete("trials/host/volume")


def test_rules_that_would_take_packs_are_named(s3_server: Servers, tmp_path: Path) -> None:
    moto = s3_server("moto")
    bucket = moto.bucket()
    moto.client().put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}},
                {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}},
                {"ID": "other", "Status": "Enabled", "Filter": {"Prefix": "y/"}, "Expiration": {"Days": 30}},
                {
                    "ID": "cold",
                    "Status": "Enabled",
                    "Filter": {"Prefix": "x/"},
                    "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}],
                },
                {
                    "ID": "safe",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                },
            ]
        },
    )
    lacks = S3Store(moto.settings(f"s3://{bucket}/x"), state=tmp_path).probe().lacks
    assert [re.findall("rule '(.*?)'", line)[0] for line in lacks if "rule '" in line] == ["old", "cold"], (
        lacks
    )


@pytest.mark.parametrize("name", ["seaweedfs", "moto"])
def test_room_that_is_not_free_is_not_called_free(s3_server: Servers, tmp_path: Path, name: str) -> None:
    server = s3_server(name)
    bucket = server.bucket()
    client = server.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    url = f"s3://{bucket}/x"
    keeping = S3Store(server.settings(url), state=tmp_path)
    for key in ("kept", "gone"):
        put(keeping, key, b"x")
    client.put_object(Bucket=bucket, Key="x/gone", Body=b"another attempt")
    assert keeping.keeps_versions()
    assert any("keeps versions" in line for line in keeping.probe().lacks)
    assert keeping.delete("kept") is True
    deleting = S3Store(server.settings(url, delete_versions=True), state=tmp_path)
    assert not deleting.keeps_versions()
    assert deleting.delete("gone") is False
    assert [info.key for info in deleting.list("")] == []
    versions = client.list_object_versions(Bucket=bucket, Prefix="x/").get("Versions", [])
    assert [each["Key"] for each in versions if not each["Key"].startswith("x/probes")] == ["x/kept"]
    unversioned = S3Store(server.settings(f"s3://{server.bucket()}/x"), state=tmp_path)
    put(unversioned, "a", b"x")
    assert not unversioned.keeps_versions()
    assert unversioned.delete("a") is False


def test_locks_are_extended_with_the_checksum_that_the_server_takes(place: Place) -> None:
    place.bucket = place.server.bucket(locked=True)

    def behaviour(asked: Asked, pass_on: Callable[[Asked], Answer]) -> Answer:
        if asked.call == "PutObjectRetention":
            if CRC32 in asked.headers or "x-amz-sdk-checksum-algorithm" in asked.headers:
                return Answer.error(400, "InvalidRequest", "Missing required header: Content-MD5")
            assert asked.headers[MD5] == b64encode(md5(asked.body, usedforsecurity=False).digest()).decode()
        return pass_on(asked)

    place.proxy.behaviour = behaviour
    put(place.store(object_lock=ObjectLock(mode="governance", days=1)), "object", b"x")
    store = place.store(object_lock=ObjectLock(mode="governance", days=9))
    store.protect(["object"])
    place.proxy.forget()
    store.protect(["object"])
    assert [each.call for each in place.proxy.asked] == ["PutObjectRetention"]
    head = place.server.client().head_object(Bucket=place.bucket, Key="x/object")
    assert head["ObjectLockRetainUntilDate"] - datetime.now(UTC) > timedelta(days=8)
