"""What only a store in a bucket can be asked for, on the servers that can do it."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from volferry.errors import ConfigError, ObjectExists, ObjectLocked, StoreError, StoreUnreachable, UsageError
from volferry.sizes import Limit
from volferry.store_config import ObjectLock, Secret, StoreConfig
from volferry.stores import s3, s3_client
from volferry.stores.base import get, put, write_whole
from volferry.stores.s3 import S3Store
from volferry.stores.throttle import throttle_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.s3_servers import S3Server, Servers


@pytest.fixture(params=["seaweedfs", "rclone", "moto"])
def server(request: pytest.FixtureRequest, s3_server: Servers) -> S3Server:
    return s3_server(str(request.param))


@pytest.fixture(params=["seaweedfs", "rclone"])
def dating_server(request: pytest.FixtureRequest, s3_server: Servers) -> S3Server:
    """By moto, every upload began in 2010."""
    return s3_server(str(request.param))


@pytest.fixture(params=["seaweedfs", "moto"])
def locking_server(request: pytest.FixtureRequest, s3_server: Servers) -> S3Server:
    return s3_server(str(request.param))


def test_what_a_user_should_know_of_a_server_is_said_once(server: S3Server, tmp_path: Path) -> None:
    notes: list[str] = []
    url = f"s3://{server.bucket()}/x"
    for number in range(3):
        store = S3Store(server.settings(url), state=tmp_path, note=notes.append)
        put(store, f"object{number}", b"x")
        put(store, f"other{number}", b"x")
    assert len([note for note in notes if "without TLS" in note]) == 3, "once for each command"
    assert len([note for note in notes if "If-None-Match" in note]) == (0 if server.heeds_conditions else 1)


@pytest.mark.parametrize("size", [100, 6 << 20], ids=["small", "in parts"])
def test_the_server_itself_refuses_to_overwrite(locking_server: S3Server, tmp_path: Path, size: int) -> None:
    bucket = locking_server.bucket()
    stores = [S3Store(locking_server.settings(f"s3://{bucket}"), state=tmp_path / name) for name in "ab"]
    put(stores[0], "first", b"x")  # what the server knows is known from here on
    writer = stores[0].create("object")
    writer.write(bytes(size))
    locking_server.client().put_object(Bucket=bucket, Key="object", Body=b"theirs")
    with pytest.raises(ObjectExists, match=r"object is in the store .* already"):
        writer.commit()
    assert get(stores[1], "object") == b"theirs"
    assert locking_server.unfinished(bucket) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"secret_access_key": Secret("wrong")}, r"credentials|secret access key"),
        ({"access_key_id": "unknown"}, r"credentials|access key id"),
        ({"endpoint": "http://127.0.0.1:9"}, r"cannot reach the endpoint http://127\.0\.0\.1:9"),
    ],
    ids=["secret", "key id", "endpoint"],
)
def test_what_is_wrong_is_said_in_one_line(
    s3_server: Servers, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    monkeypatch.setattr(s3_client, "_FIRST_PAUSE_SECONDS", 0.0)
    server = s3_server("seaweedfs")
    store = S3Store(server.settings(f"s3://{server.bucket()}/x", **change))
    for use in (
        lambda: list(store.list("")),
        lambda: store.open("a"),
        lambda: store.size("a"),
        lambda: put(store, "a", b"x"),
    ):
        with pytest.raises(StoreUnreachable) as raised:
            use()
        assert re.search(words, str(raised.value)), str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 100 Con", b"HTTP/1.1 100 Continue\r\n"])
def test_an_answer_that_ends_too_early_is_an_error(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(s3_client, "_FIRST_PAUSE_SECONDS", 0.0)
    with answering(sent) as endpoint:
        settings = StoreConfig(
            url="s3://bucket/x", endpoint=endpoint, access_key_id="a", secret_access_key=Secret("b")
        )
        with pytest.raises(StoreError, match=r"bucket|endpoint"):
            put(S3Store(settings), "a", b"x")


@contextmanager
def answering(sent: bytes) -> Iterator[str]:
    """The endpoint of a server that has nothing, answers what is put with `sent`, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(1 << 16).startswith(b"HEAD"):
                        connection.sendall(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")
                    else:
                        connection.sendall(sent)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_bucket_that_is_not_there_is_said_to_be(server: S3Server) -> None:
    store = S3Store(server.settings("s3://no-such-bucket/x"))
    for use in (lambda: list(store.list("")), lambda: store.open("a"), lambda: store.size("a")):
        with pytest.raises(
            StoreUnreachable, match=r"there is no bucket no-such-bucket at http://\S+: make it"
        ):
            use()


def test_no_credentials_are_said_to_be_missing(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = S3Store(StoreConfig(url="s3://bucket/x", endpoint=server.endpoint))
    with pytest.raises(StoreUnreachable, match=r"no credentials for the bucket bucket"):
        list(store.list(""))


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://b?x=1", "s3://bucket/../x", "s3://bucket/a//b", "s3://bucket/#a"]
)
def test_a_url_that_names_no_place_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="store "):
        S3Store(StoreConfig(url=url))


def test_secrets_may_be_in_files(server: S3Server, tmp_path: Path) -> None:
    whole = server.settings(f"s3://{server.bucket()}/x")
    (tmp_path / "id").write_text(f"{whole.access_key_id}\n")
    assert whole.secret_access_key
    (tmp_path / "secret").write_text(f"{whole.secret_access_key.reveal()}\n")
    settings = StoreConfig(
        url=whole.url,
        endpoint=whole.endpoint,
        addressing="path",
        access_key_id_file=tmp_path / "id",
        secret_access_key_file=tmp_path / "secret",
    )
    put(S3Store(settings), "a", b"x")
    with pytest.raises(ConfigError, match=r"cannot read the credentials in .*none"):
        list(
            S3Store(
                StoreConfig(url="s3://bucket/x", access_key_id="a", secret_access_key_file=tmp_path / "none")
            ).list("")
        )
    assert "reveal" not in repr(whole)
    assert whole.secret_access_key.reveal() not in repr(whole)


def test_uploads_of_other_machines_are_ended_a_day_later(
    dating_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = dating_server.bucket()
    here, there = (
        S3Store(dating_server.settings(f"s3://{bucket}/x"), state=tmp_path / name) for name in "ab"
    )
    begun = there.create("object")
    begun.write(bytes(6 << 20))
    assert here.abort_uploads() == 0
    assert dating_server.unfinished(bucket) == 1
    monkeypatch.setattr(s3, "_FOREIGN_UPLOAD", timedelta(seconds=-5))
    assert there.abort_uploads() == 0, "its own, at which it is"
    assert here.abort_uploads() == 1
    assert dating_server.unfinished(bucket) == 0


def locked(server: S3Server, days: int, bucket: str) -> S3Store:
    return S3Store(server.settings(f"s3://{bucket}/x", object_lock=ObjectLock(mode="governance", days=days)))


def retained_until(server: S3Server, bucket: str, key: str) -> datetime:
    head = server.client().head_object(Bucket=bucket, Key=f"x/{key}")
    assert head["ObjectLockMode"] == "GOVERNANCE"
    found: datetime = head["ObjectLockRetainUntilDate"]
    return found


@pytest.mark.parametrize("size", [100, 6 << 20], ids=["small", "in parts"])
def test_object_lock_keeps_what_is_stored_and_is_extended(locking_server: S3Server, size: int) -> None:
    bucket = locking_server.bucket(locked=True)
    put(locked(locking_server, 1, bucket), "packs/object", bytes(size))
    if locking_server.name == "moto" and size > 100:  # it forgets the lock of an upload: `protect` sets it
        locked(locking_server, 1, bucket).protect(["packs/object"])
    now = datetime.now(UTC)
    first = retained_until(locking_server, bucket, "packs/object")
    assert timedelta(hours=23) < first - now < timedelta(hours=25)
    store = locked(locking_server, 10, bucket)
    store.protect(["packs/object"])
    assert retained_until(locking_server, bucket, "packs/object") - first > timedelta(days=8)
    with pytest.raises(ObjectLocked, match=r"packs/object in the store .* is locked until 20"):
        store.delete("packs/object")
    assert store.size("packs/object") == size


@pytest.mark.parametrize("size", [100, 6 << 20], ids=["small", "in parts"])
def test_what_is_locked_is_not_replaced_and_what_is_not_takes_up_no_room_afterwards(
    locking_server: S3Server, size: int
) -> None:
    bucket = locking_server.bucket(locked=True)
    store = locked(locking_server, 1, bucket)
    put(store, "object", b"locked")
    with pytest.raises(ObjectLocked, match=r"object in the store .* is locked until 20"):
        store.create("object", replaces=True)
    assert get(store, "object") == b"locked"
    client = locking_server.client()
    client.put_object(Bucket=bucket, Key="x/other", Body=b"x")  # without a lock
    write_whole(store.create("other", replaces=True), bytes(size))
    assert store.size("other") == size
    versions = client.list_object_versions(Bucket=bucket, Prefix="x/other")
    assert len(versions.get("Versions", [])) == 1
    assert versions.get("DeleteMarkers", []) == []


def test_a_lock_that_has_ended_lets_go_of_the_room(locking_server: S3Server) -> None:
    bucket = locking_server.bucket(locked=True)
    store = locked(locking_server, 1, bucket)
    client = locking_server.client()
    client.put_object(Bucket=bucket, Key="x/object", Body=b"x")  # without a lock
    store.delete("object")
    assert list(store.list("")) == []
    assert client.list_object_versions(Bucket=bucket).get("Versions", []) == []


def test_a_bucket_is_written_and_read_as_slowly_as_its_limits_say(s3_server: Servers) -> None:
    server = s3_server("seaweedfs")
    limits = {"limit": Limit("16M"), "limit_down": Limit("16M")}
    stores = [
        S3Store(settings, throttle=throttle_of(settings))
        for more in ({}, limits)
        for settings in [server.settings(f"s3://{server.bucket()}/x", **more)]
    ]
    data = os.urandom(12 << 20)
    seconds = []
    for store in stores:
        put(store, "small", b"x")
        began = time.monotonic()
        put(store, "large", data)
        written = time.monotonic()
        assert get(store, "large") == data
        seconds.append((written - began, time.monotonic() - written))
    (free_up, free_down), (up, down) = seconds
    assert up > 0.45, f"12 MiB at 16 MiB a second, and {free_up} s without"
    assert down > 0.45, f"and {free_down} s"
