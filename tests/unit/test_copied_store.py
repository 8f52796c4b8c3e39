"""A store that was copied with other tools has the same id in another place: each mends the other, and nothing that was read of one
counts as read of the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.unit.test_damage import Lab, flip, lab  # noqa: F401 -- a fixture
from volferry.errors import StoreError
from volferry.known_stores import are_one_place
from volferry.layout import manifest_key
from volferry.manifest_cache import ManifestCache
from volferry.observer import Silent
from volferry.operations.verify_share import Share, verify_share
from volferry.repository import Repository
from volferry.store_config import ObjectLock
from volferry.stores import local
from volferry.stores.base import get
from volferry.stores.local import LocalStore
from volferry.stores.s3 import S3Store
from volferry.verification_log import VerificationLog

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.cli import Outcome
    from tests.parts.s3_servers import Servers

OF_HOST = ("--host", "host")


def copied(lab: Lab, name: str = "copy") -> Path:  # noqa: F811
    """As docs/operations.md has it done."""
    subprocess.run(["cp", "-a", lab.store, lab.directory / name], check=True)
    return lab.directory / name


def mend(lab: Lab, source: Path, target: Path | None = None) -> Outcome:  # noqa: F811
    return lab.cli("copy", *OF_HOST, "--store", str(source), "--to", str(target or lab.store))


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and ".tmp" not in path.parts
    }


def test_a_store_is_mended_from_a_copy_of_it(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    copy = copied(lab)
    before = content(lab.store)
    missing, hurt = lab.packs(first)[:2]
    missing.unlink()
    flip(hurt)
    lab.cli("verify", "--read", *OF_HOST).exits(1)
    assert "2 objects mended" in mend(lab, copy).exits(0).stdout
    assert content(lab.store) == before
    lab.cli("verify", "--read", *OF_HOST).exits(0)
    assert " mended" not in mend(lab, copy).exits(0).stdout


def test_what_was_backed_up_since_goes_to_the_copy(lab: Lab) -> None:  # noqa: F811
    lab.back_up()
    copy = copied(lab)
    (lab.volume.data / "more").write_text("more")
    lab.back_up()
    assert "1 backup copied" in mend(lab, lab.store, copy).exits(0).stdout
    assert content(copy) == content(lab.store)


@pytest.mark.parametrize("way", ["link", "mount", "mounted packs", "mounted with another device"])
def test_the_same_place_is_no_copy_however_it_is_reached(
    lab: Lab,  # noqa: F811
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = lab.back_up()
    other = lab.directory / "other"
    if way == "link":
        other.symlink_to(lab.store)
    elif way == "mounted packs":
        shutil.copytree(lab.store, other)
    else:
        other.mkdir()
    # What would be mended: it would be taken away before it is read.
    mounted = [(lab.store / "packs", other / "packs")] if way == "mounted packs" else []
    mounted += [(lab.store, other)] if "mount" in way and not mounted else []
    for what, where in mounted:
        subprocess.run(["mount", "--bind", what, where], check=True)
    try:
        if way.endswith("device"):  # as two mounts of a share have
            monkeypatch.setattr(local, "_is_one_directory", lambda *_: False)
            source, target = (Repository.open(LocalStore(path)) for path in (lab.store, other))
            assert are_one_place(source, target)
        else:
            mend(lab, lab.store, other).fails_with("is the store that backups are copied from")
            mend(lab, other).fails_with("is the store that backups are copied from")
        assert lab.verify(first).findings == ()
        assert list((lab.store / ".tmp").iterdir()) == []
    finally:
        for _, where in mounted:
            subprocess.run(["umount", where], check=True)


def test_a_copy_is_another_place_though_its_files_are_the_same(lab: Lab) -> None:  # noqa: F811
    """As snapshots by hard links have it."""
    lab.back_up()
    subprocess.run(["cp", "-al", lab.store, lab.directory / "copy"], check=True)
    copy = Repository.open(LocalStore(lab.directory / "copy"))
    assert copy.id == lab.repository.id
    assert not are_one_place(lab.repository, copy)
    assert not are_one_place(copy, lab.repository)


def test_a_bucket_of_two_names_is_one_place_and_a_copy_is_another_also_with_the_same_times() -> None:
    clock = Clock()
    contents = Contents("bucket", clock)
    one, _ = Repository.open_or_create(MemoryStore(contents))
    same = Repository(MemoryStore(Contents("alias", clock, contents.objects)), one.id)
    copy = Contents("copy", clock, {key: (data, clock.look()) for key, (data, _) in contents.objects.items()})
    with_times = Contents("replicated", clock, dict(contents.objects))
    before = dict(contents.objects)
    assert are_one_place(one, same)
    assert are_one_place(one, Repository.open(MemoryStore(contents)))
    for each in (copy, with_times):
        other = Repository.open(MemoryStore(each))
        assert not are_one_place(one, other)
        assert not are_one_place(other, one)
    assert (contents.objects, with_times.objects) == (before, before), "no probe is left"


def test_what_a_killed_run_has_left_of_its_probe_goes_a_day_later() -> None:
    clock = Clock()
    contents = Contents("bucket", clock)
    one, _ = Repository.open_or_create(MemoryStore(contents))
    copy = Repository.open(MemoryStore(Contents("copy", clock, dict(contents.objects))))
    before = dict(contents.objects)
    one.store.put_unlocked("probes/left", b"")
    assert not are_one_place(copy, one)
    assert "probes/left" in contents.objects
    clock.now += timedelta(days=2)
    assert not are_one_place(copy, one)
    assert contents.objects == before


def test_whoever_may_not_delete_can_copy_all_the_same(lab: Lab) -> None:  # noqa: F811
    lab.back_up()
    bucket = Contents("bucket", Clock())
    for name, data in content(lab.store).items():
        bucket.objects[name] = (data, bucket.clock.look())

    def refuse(what: str) -> None:
        if what.startswith("delete"):
            raise StoreError("permission denied")

    append_only = Repository.open(MemoryStore(bucket, refuse))
    assert not are_one_place(lab.repository, append_only)
    assert are_one_place(append_only, Repository(MemoryStore(bucket), append_only.id))


@pytest.mark.parametrize("locked", [False, True], ids=["bucket", "with Object Lock"])
def test_a_copy_of_a_bucket_that_has_its_times_is_no_bucket(
    tmp_path: Path, s3_server: Servers, *, locked: bool
) -> None:
    """As `aws s3 sync` and `rclone` make one."""
    server = s3_server("moto")
    bucket = server.bucket(locked=locked)
    lock = ObjectLock(mode="governance", days=1) if locked else None
    store = S3Store(server.settings(f"s3://{bucket}", object_lock=lock))
    there, _ = Repository.open_or_create(store)
    copy = tmp_path / "copy"
    for info in store.list(""):
        (copy / info.key).parent.mkdir(parents=True, exist_ok=True)
        (copy / info.key).write_bytes(get(store, info.key))
        os.utime(copy / info.key, (info.modified.timestamp(), info.modified.timestamp()))
    here = Repository.open(LocalStore(copy))
    before = content(copy), [info.key for info in store.list("")]
    assert not are_one_place(here, there)
    assert not are_one_place(there, here)
    assert (content(copy), [info.key for info in store.list("")]) == before
    versions = server.client().list_object_versions(Bucket=bucket)
    assert len(versions["Versions"]) == len(before[1]), "nor does a locked one take up room"
    # By another name of the endpoint it is the same bucket.
    other = server.endpoint.replace("127.0.0.1", "localhost")
    alias = S3Store(server.settings(f"s3://{bucket}", object_lock=lock, endpoint=other))
    assert store.place != alias.place
    assert are_one_place(Repository.open(alias), there)


def test_manifests_of_one_place_are_not_taken_for_those_of_its_copy(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    copy = copied(lab)
    lab.cli("list", *OF_HOST).exits(0)  # now it is in the cache
    flip(copy / manifest_key(first))
    lab.cli("list", *OF_HOST, "--store", str(copy)).fails_with(manifest_key(first), "is damaged")
    lab.cli("list", *OF_HOST).exits(0)
    # What one place lacks is not forgotten of the other.
    shutil.rmtree(copy / "manifests")
    cache = ManifestCache(lab.directory / "cache", lab.repository.store.place)
    lab.repository.manifests(host="host", cache=cache)
    elsewhere = Repository.open(LocalStore(copy))
    found = elsewhere.manifests(
        host="host", cache=ManifestCache(lab.directory / "cache", elsewhere.store.place)
    )
    assert found == []
    assert list(cache.all("manifests/")) == [manifest_key(first)]


def test_what_was_read_in_one_place_was_not_read_in_its_copy(lab: Lab) -> None:  # noqa: F811
    lab.back_up()
    copy = Repository.open(LocalStore(copied(lab)))

    def share(repository: Repository, hours: int) -> Share:
        now = datetime.now(UTC) + timedelta(hours=hours)
        return verify_share(
            repository,
            "host",
            log=VerificationLog(lab.directory / "log"),
            cache=None,
            every=timedelta(days=1),
            next_run=now + timedelta(days=1),
            done_until=lambda last: last + timedelta(days=1),
            clock=lambda: now,
            observer=Silent(),
        )

    everything = share(lab.repository, 0).read
    assert everything > 0
    assert share(lab.repository, 1).read == 0
    assert share(copy, 1).read == everything
