"""Backups in a bucket with Object Lock: what they need is locked for as long as it should be, and goes afterwards."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.cli import Cli
from tests.parts.local_helper import LocalVolume
from tests.parts.s3_servers import KEY_ID, SECRET
from volferry.layout import files_key, frames_key, manifest_key, pack_key
from volferry.model import BackupRef
from volferry.observer import Silent
from volferry.operations.verify import Verifier
from volferry.repository import MARKER_KEY, Repository
from volferry.store_config import ObjectLock
from volferry.stores.base import put
from volferry.stores.s3 import S3Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.s3_servers import S3Server, Servers
    from volferry.model import BackupStats

_TICK_SECONDS = 30  # at most, until the server's clock shows another second


@pytest.fixture(params=["seaweedfs", "moto"])
def server(request: pytest.FixtureRequest, s3_server: Servers) -> S3Server:
    return s3_server(str(request.param))


@dataclass(slots=True)
class Place:
    """A volume, and a bucket for its backups."""

    server: S3Server
    directory: Path
    bucket: str
    volume: LocalVolume
    _stores: dict[int, S3Store] = field(default_factory=dict)

    @classmethod
    def on(cls, server: S3Server, directory: Path) -> Place:
        """With an empty volume and bucket."""
        (directory / "data").mkdir()
        volume = LocalVolume(directory / "data", directory / "state")
        return cls(server, directory, server.bucket(locked=True), volume)

    def store(self, days: int) -> S3Store:
        if days not in self._stores:  # a client takes longer to make than a backup
            settings = self.server.settings(
                f"s3://{self.bucket}", object_lock=ObjectLock(mode="governance", days=days)
            )
            self._stores[days] = S3Store(settings, state=self.volume.state)
        return self._stores[days]

    def back_up(self, days: int) -> BackupStats:
        repository, _ = Repository.open_or_create(self.store(days))
        return self.volume.back_up(repository)

    def needed(self, ref: BackupRef) -> set[str]:
        """Keys of all that a backup refers to, and of its manifest."""
        manifest = Repository.open(self.store(1)).manifest(ref)
        packs = {pack_key(ref, pack.name) for pack in manifest.packs}
        return {manifest_key(ref), frames_key(ref), files_key(ref)} | packs

    def locks(self) -> dict[str, timedelta]:
        """How long each object is locked from now on."""
        client = self.server.client()
        heads = {
            info.key: client.head_object(Bucket=self.bucket, Key=info.key) for info in self.store(1).list("")
        }
        assert {head["ObjectLockMode"] for head in heads.values()} == {"GOVERNANCE"}
        now = datetime.now(UTC)
        return {key: head["ObjectLockRetainUntilDate"] - now for key, head in heads.items()}

    def versions(self) -> tuple[set[str], int]:
        """Keys of all that takes up room, and how many versions and marks of deletion there are."""
        found = self.server.client().list_object_versions(Bucket=self.bucket)
        versions = found.get("Versions", [])
        return {each["Key"] for each in versions}, len(versions) + len(found.get("DeleteMarkers", []))

    def without_locks(self) -> Place:
        """The same objects when no lock is left."""
        client = self.server.client()
        bucket = self.server.bucket(locked=True)
        for info in self.store(1).list(""):
            body = client.get_object(Bucket=self.bucket, Key=info.key)["Body"].read()
            client.put_object(Bucket=bucket, Key=info.key, Body=body)
        return Place(self.server, self.directory, bucket, self.volume)

    def cli(self) -> Cli:
        """That keeps one backup. No engine is needed."""
        config = self.directory / f"{self.bucket}.toml"
        config.write_text(
            f"""
            host = "{self.volume.host}"
            [stores.main]
            url = "s3://{self.bucket}"
            endpoint = "{self.server.endpoint}"
            access_key_id = "{KEY_ID}"
            secret_access_key = "{SECRET}"
            object_lock = {{ mode = "governance", days = 1 }}
            [defaults]
            keep = {{ last = 1 }}
            [prune]
            grace = "0h"
            """
        )
        nowhere = f"unix://{self.directory / 'no-engine.sock'}"
        return Cli(nowhere, self.directory, self.volume.state, self.directory).having(
            VOLFERRY_CONFIG=str(config), VOLFERRY_STORE="main"
        )

    def prune(self) -> tuple[Any, list[str]]:
        """What it reports, and what it says to a person, but for the note on TLS."""
        store = self.store(1)
        newest = max(info.modified for info in store.list(""))
        deadline = time.monotonic() + _TICK_SECONDS
        while store.now() <= newest:  # only what is older than the grace period of no hours goes
            assert time.monotonic() < deadline
            time.sleep(0.02)
        outcome = self.cli()("prune", "--json").exits(0)
        return outcome.json, [line for line in outcome.stderr.splitlines() if "without TLS" not in line]

    def good(self) -> list[BackupRef]:
        """All backups, every byte of which is right."""
        repository = Repository.open(self.store(1))
        spool = self.directory / "spool"
        spool.mkdir(exist_ok=True)
        verifier = Verifier(repository, read=True, spool=spool, observer=Silent())
        return [ref for ref in repository.refs() if verifier.verify(ref).findings == ()]


@pytest.fixture
def place(server: S3Server, tmp_path: Path) -> Place:
    return Place.on(server, tmp_path)


def is_about(lock: timedelta, *, days: int) -> bool:
    return abs(lock - timedelta(days=days)) < timedelta(minutes=10)


def test_each_backup_locks_all_that_it_refers_to(place: Place) -> None:
    (place.volume.data / "noise").write_bytes(os.urandom(6 << 20))  # a pack in parts
    first = place.back_up(days=1).ref
    locks = place.locks()
    assert locks.keys() == place.needed(first) | {MARKER_KEY}
    assert all(is_about(lock, days=1) for lock in locks.values()), locks
    (place.volume.data / "more").write_bytes(b"more")
    second = place.back_up(days=10).ref
    shared = place.needed(first) & place.needed(second)
    assert [key.partition("/")[0] for key in shared] == ["packs"]
    locks = place.locks()
    assert locks.keys() == place.needed(first) | place.needed(second) | {MARKER_KEY}
    needed = place.needed(second)
    for key, lock in locks.items():
        assert is_about(lock, days=10 if key in needed else 1), key
    assert place.good() == [first, second]


def test_a_lock_is_never_made_shorter(s3_server: Servers, tmp_path: Path) -> None:
    # moto makes it shorter for everybody, which S3 does not.
    place = Place.on(s3_server("seaweedfs"), tmp_path)
    (place.volume.data / "noise").write_bytes(os.urandom(100_000))
    first = place.back_up(days=10).ref
    (place.volume.data / "more").write_bytes(b"more")
    second = place.back_up(days=1).ref
    locks = place.locks()
    needed = place.needed(first)
    for key in place.needed(second):
        assert is_about(locks[key], days=10 if key in needed else 1), key
    assert place.good() == [first, second]


def test_prune_leaves_what_is_locked_and_takes_it_once_it_is_not(place: Place) -> None:
    (place.volume.data / "noise").write_bytes(os.urandom(100_000))
    older = [place.back_up(days=1).ref]
    (place.volume.data / "more").write_bytes(os.urandom(1000))
    older.append(place.back_up(days=1).ref)
    (place.volume.data / "more").unlink()
    (place.volume.data / "noise").write_bytes(os.urandom(100_000))
    newest = place.back_up(days=1).ref
    dead = pack_key(BackupRef("host", "vol", ""), "20200101T000000Z-abcdef.0")  # of a run that died
    put(place.store(1), dead, b"x")
    before = place.versions()
    let_go = place.needed(older[0]) | place.needed(older[1]) | {dead}
    assert before[0] == let_go | place.needed(newest) | {MARKER_KEY}
    assert not let_go & place.needed(newest)

    report, lines = place.prune()
    assert [report["volumes"][0][key] for key in ("forgotten", "packs", "problems")] == [[], [], []]
    assert (report["freed_bytes"], report["failed"]) == (0, [])
    locked = [*(manifest_key(ref) for ref in older), dead]
    assert len(lines) == len(locked)
    for line, key in zip(lines, locked, strict=True):
        assert line.startswith(f"vol: {key} in the store s3://{place.bucket} is locked until 20"), line
    assert report["volumes"][0]["locked"] == [line.removeprefix("vol: ") for line in lines]
    assert place.versions() == before
    assert place.good() == [*older, newest]

    later = place.without_locks()
    assert later.versions()[0] == before[0]
    report, lines = later.prune()
    assert lines == []
    assert report["volumes"][0]["forgotten"] == [ref.id for ref in older]
    assert len(report["volumes"][0]["packs"]) == len([key for key in let_go if key.startswith("packs/")])
    kept = place.needed(newest) | {MARKER_KEY}
    assert later.versions() == (kept, len(kept)), "nor is a mark of deletion left"
    assert later.good() == [newest]
