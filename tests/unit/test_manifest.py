from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from volferry.archive.manifest import (
    FORMAT_VERSION,
    Manifest,
    PackPart,
    check_format,
    read_manifest,
    reread_manifest,
)
from volferry.archive.sealed import seal, unseal
from volferry.checked import value_of
from volferry.errors import DamagedObject, NewerFormat
from volferry.model import new_backup_id

KEY = "manifests/host/vol/20260102T030405Z-0a1b2c.json"
DIGEST = "0123456789abcdef" * 4
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC).isoformat()

DOCUMENT: dict[str, Any] = {
    "format": FORMAT_VERSION,
    "id": "20260102T030405Z-0a1b2c",
    "host": "hôst",
    "volume": {
        "name": "vol",
        "driver": "local",
        "options": {"type": "tmpfs", "o": 'size="1m"'},
        "labels": {"com.docker.compose.project": "shop", "": "\n"},
        "scope": "local",
        "created_at": "2026-01-01T00:00:00Z",
        "anonymous": False,
    },
    "store_id": "11111111-2222-3333-4444-555555555555",
    "base": None,
    "written_by": "volferry 0.1.0",
    "engine": "engine 24.0.0",
    "started_at": NOW,
    "listed_at": NOW,
    "finished_at": NOW,
    "seconds": 1.25,
    "downtime_seconds": 0.0,
    "consistency": "none",
    "containers": [
        {
            "name": "db",
            "id": "a" * 64,
            "image": "postgres:16",
            "state": "running",
            "destination": "/var/lib",
            "read_write": True,
            "project": None,
        }
    ],
    "counts": {
        "entries": 4,
        "files": 1,
        "directories": 1,
        "symlinks": 1,
        "others": 1,
        "sockets_left_out": 0,
        "frames": 2,
        "source_bytes": 2**53 + 1,
        "tar_bytes": 4096,
        "read_bytes": 10240,
        "stored_bytes": 1000,
    },
    "findings": [{"kind": "vanished", "path": "a\\x00\\\\", "detail": "gone"}],
    "findings_total": 1,
    "packs": [
        {
            "name": "20260102T030405Z-0a1b2c.0000",
            "stored_bytes": 900,
            "live_bytes": 900,
            "xxh128": DIGEST[:32],
        }
    ],
    "index": {
        "frames": {"stored_bytes": 50, "blake3": DIGEST},
        "files": {"stored_bytes": 50, "blake3": DIGEST},
    },
}


def with_change(path: str, value: object) -> dict[str, Any]:
    """The document with one value replaced, or removed where `value` is `...`."""
    changed: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner: Any = changed
    for parent in parents:
        inner = inner[parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return changed


def test_a_manifest_is_the_same_after_it_was_written_and_read() -> None:
    manifest = value_of(DOCUMENT, Manifest)
    again = read_manifest(manifest.to_bytes(), key=KEY)
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes()
    assert again.counts.source_bytes == 2**53 + 1
    assert again.started_at == datetime.fromisoformat(NOW)


def test_a_manifest_is_json_that_a_person_can_read() -> None:
    data = value_of(DOCUMENT, Manifest).to_bytes()
    assert set(json.loads(data)) >= {*DOCUMENT, "blake3"}
    assert '"host": "hôst"' in data.decode()
    assert unseal(data)["volume"] == DOCUMENT["volume"]


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_a_manifest_of_a_later_format_is_said_to_be_one(version: int) -> None:
    # Also if nothing else of it can be understood.
    for data in (
        seal(with_change("format", version)),
        json.dumps(with_change("format", version)).encode(),
        b'{"format": %d, "sealed": "otherwise"}' % version,
    ):
        with pytest.raises(NewerFormat, match=rf"^{KEY} has format version {version}.*use a newer volferry"):
            read_manifest(data, key=KEY)


@pytest.mark.parametrize("path", ["added", "volume.added", "counts.added", "packs.0.added", "index.added"])
def test_fields_of_later_versions_are_passed_over(path: str) -> None:
    manifest = read_manifest(seal(with_change(path, {"any": ["thing"]})), key=KEY)
    assert manifest == value_of(DOCUMENT, Manifest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "../../etc"),
        ("id", "20260102T030405Z-0a1b2c\n"),
        ("host", None),
        ("volume", []),
        ("volume.name", ...),
        ("counts.entries", -1),
        ("counts.tar_bytes", "many"),
        ("findings_total", ...),
        ("packs.0.name", "../../../etc/passwd"),
        ("packs.0.name", "20260102T030405Z-0a1b2c.0000/x"),
        ("packs.0.xxh128", "x"),
        ("packs.0.blake3", "x"),
        ("packs.0.stored_bytes", -1),
        ("index.files", None),
        ("started_at", "yesterday"),
    ],
)
def test_a_wrong_value_is_damage_that_names_the_field(path: str, value: object) -> None:
    with pytest.raises(DamagedObject) as raised:
        read_manifest(seal(with_change(path, value)), key=KEY)
    message = str(raised.value)
    assert message.startswith(f"{KEY} is damaged: {path}")
    assert "\n" not in message


@pytest.mark.parametrize(
    "started_at",
    ["2026-01-02T03:04:06.1Z", "2026-01-03T00:00:00Z", "2026-01-02T01:04:06.1-02:00", "9998-12-31T23:59:59Z"],
)
def test_a_backup_that_began_after_the_time_of_its_id_is_damage(started_at: str) -> None:
    with pytest.raises(DamagedObject, match=rf"^{KEY} is damaged: it began after the time of its id$"):
        read_manifest(seal(with_change("started_at", started_at)), key=KEY)


MOMENTS = st.datetimes(
    datetime(1970, 1, 2),  # noqa: DTZ001 -- `timezones` adds it
    datetime(9998, 12, 31, 23, 59, 59, 999_999),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(now=MOMENTS, newest=st.none() | MOMENTS)
def test_what_a_backup_writes_is_read_whatever_its_clock_and_the_newest_id(
    now: datetime, newest: datetime | None
) -> None:
    last = None if newest is None else new_backup_id(newest)
    written = replace(value_of(DOCUMENT, Manifest), id=new_backup_id(now, newest=last), started_at=now)
    data = written.to_bytes()
    assert read_manifest(data, key=KEY) == reread_manifest(data) == written


@pytest.mark.parametrize(("path", "value"), [("packs.0.xxh128", ...), ("packs.0.blake3", DIGEST)])
def test_a_pack_has_one_digest(path: str, value: object) -> None:
    with pytest.raises(DamagedObject, match=r"packs\.0: a pack has one of xxh128 and blake3"):
        read_manifest(seal(with_change(path, value)), key=KEY)


def test_packs_of_format_1_have_blake3_digests() -> None:
    document = with_change("packs.0.xxh128", ...)
    document["packs"][0]["blake3"] = DIGEST
    manifest = read_manifest(seal({**document, "format": 1}), key=KEY)
    (pack,) = manifest.packs
    assert pack.info.digest == f"blake3:{DIGEST}"
    assert PackPart.of(pack.info) == pack
    assert read_manifest(manifest.to_bytes(), key=KEY) == manifest


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"\xff", b"{" * 200, json.dumps(DOCUMENT).encode()]
)
def test_what_is_no_manifest_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedObject, match=rf"^{KEY} is damaged: "):
        read_manifest(data, key=KEY)


def test_json_nested_beyond_all_measure_is_damage() -> None:
    with pytest.raises(DamagedObject, match=rf"^{KEY} is damaged: "):
        read_manifest(b"[" * 100_000, key=KEY)


@pytest.mark.parametrize(
    "data", [b"", b"[1]", b"{}", b'{"format": 1}', b'{"format": "2"}', b'{"format": null}']
)
def test_only_a_later_version_is_refused_for_its_version(data: bytes) -> None:
    check_format(data, key=KEY)
