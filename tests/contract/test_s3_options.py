"""How objects are kept, and over what they are sent: what a user says of a bucket reaches the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.certificates import certificates
from tests.parts.s3_servers import moto_with_tls
from volferry.errors import ConfigError, StoreUnreachable
from volferry.store_config import StoreConfig
from volferry.stores.base import get, put
from volferry.stores.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.s3_servers import S3Server, Servers

KEY = "arn:aws:kms:us-east-1:123456789012:key/0b6f1c9e-8a51-4f7a-9f5d-2d8c0c6f2a11"
REPORTED = ("ServerSideEncryption", "SSEKMSKeyId", "StorageClass")


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with moto_with_tls(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({}, {}),
        ({"encryption": "AES256"}, {"ServerSideEncryption": "AES256"}),
        (
            {"encryption": "aws:kms", "kms_key_id": KEY},
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KEY},
        ),
        ({"encryption": "aws:kms"}, {"ServerSideEncryption": "aws:kms"}),
        ({"storage_class": "STANDARD_IA"}, {"StorageClass": "STANDARD_IA"}),
    ],
    ids=["nothing", "SSE-S3", "SSE-KMS", "SSE-KMS, default key", "storage class"],
)
def test_objects_are_kept_as_they_should_be(
    s3_server: Servers, tmp_path: Path, options: dict[str, Any], reported: dict[str, str]
) -> None:
    server = s3_server("moto")
    bucket = server.bucket()
    client = server.client()
    store = S3Store(server.settings(f"s3://{bucket}/x", **options), state=tmp_path)
    # What the server can is found out with the first; the last is sent in parts.
    for key, size in (("first", 100), ("second", 100), ("large", 6 << 20)):
        data = os.urandom(size)
        put(store, key, data)
        head = client.head_object(Bucket=bucket, Key=f"x/{key}")
        assert {name: head[name] for name in REPORTED if name in head} == reported, key
        assert get(store, key) == data


def test_a_server_with_tls_is_trusted_by_its_ca_bundle(tls_server: S3Server, tmp_path: Path) -> None:
    notes: list[str] = []
    store = S3Store(tls_server.settings(f"s3://{tls_server.bucket()}/x"), state=tmp_path, note=notes.append)
    for size in (100, 6 << 20):
        put(store, f"object{size}", bytes(size))
        assert get(store, f"object{size}") == bytes(size)
    assert notes == []


@pytest.mark.parametrize("bundle", [None, "another"])
def test_a_server_that_cannot_be_trusted_is_not(
    tls_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: str | None
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    path = certificates(tmp_path).authority if bundle else None
    notes: list[str] = []
    store = S3Store(tls_server.settings("s3://bucket/x", ca_bundle=path), note=notes.append)
    with pytest.raises(StoreUnreachable) as raised:
        list(store.list(""))
    assert waits == [], "it will not be another one in a moment"
    message = str(raised.value)
    assert f"cannot trust the endpoint {tls_server.endpoint}: " in message
    assert "ca_bundle" in message
    assert len(message.splitlines()) == 1
    assert notes == []


def test_a_ca_bundle_that_cannot_be_read_is_a_wrong_configuration(tmp_path: Path) -> None:
    path = tmp_path / "none.pem"
    store = S3Store(StoreConfig(url="s3://bucket/x", endpoint="https://127.0.0.1:9", ca_bundle=path))
    with pytest.raises(
        ConfigError, match=rf"^store s3://bucket/x: cannot read ca_bundle {path}: no such file"
    ):
        list(store.list(""))
