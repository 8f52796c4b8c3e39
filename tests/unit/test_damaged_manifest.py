"""A manifest that the store has damaged is found, also where this machine has it in its cache; every machine knows, and nothing that it may
need goes.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_damage import Lab, flip, lab  # noqa: F401 -- a fixture
from volferry.damage import Condition, is_about_manifest, mark_key, marked_object
from volferry.errors import StoreError
from volferry.layout import manifest_key, needed_objects
from volferry.manifest_cache import ManifestCache
from volferry.model import ObjectInfo
from volferry.observer import Silent
from volferry.operations.prune import Pruning, prune_volume
from volferry.operations.verify_share import Share, verify_share
from volferry.retention import Keep, Within
from volferry.stores.base import put
from volferry.verification_log import VerificationLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from volferry.model import BackupRef
    from volferry.repository import Repository

DAY = timedelta(days=1)


def path_of(lab: Lab, ref: BackupRef) -> Path:  # noqa: F811
    return lab.store / manifest_key(ref)


def cache_of(lab: Lab) -> ManifestCache:  # noqa: F811
    """With all manifests, as after a `list`."""
    cache = ManifestCache(lab.directory / "manifests.sqlite")
    lab.repository.manifests(host="host", cache=cache)
    return cache


def share(lab: Lab, cache: ManifestCache | None, *, day: int = 0) -> Share:  # noqa: F811
    """All is due each day."""
    now = datetime.now(UTC) + day * DAY
    return verify_share(
        lab.repository,
        "host",
        log=VerificationLog(lab.directory / "log"),
        cache=cache,
        every=DAY,
        next_run=now + DAY,
        done_until=lambda last: last + DAY,
        clock=lambda: now,
        observer=Silent(),
    )


def prune(
    lab: Lab,  # noqa: F811
    keep: Keep | None = None,
    cache: ManifestCache | None = None,
    repository: Repository | None = None,
) -> Pruning:
    return prune_volume(
        repository or lab.repository,
        "host",
        "vol",
        keep=lambda _: keep or Keep(),
        grace=Within("0h"),
        cache=cache,
        dry_run=False,
    )


def all_is_there(lab: Lab, ref: BackupRef, needed: set[str]) -> bool:  # noqa: F811
    return all((lab.store / key).exists() for key in {manifest_key(ref), *needed})


@pytest.fixture
def made(lab: Lab) -> list[BackupRef]:  # noqa: F811
    found = []
    for number in range(3):
        (lab.volume.data / f"noise{number}").write_bytes(os.urandom(2 << 20))
        found.append(lab.back_up())
    return found


def test_a_mark_names_its_manifest() -> None:
    info = ObjectInfo("manifests/host/vol/20260101T000000Z-000000.json", 5, datetime.now(UTC))
    found = marked_object(mark_key(info))
    assert found == (info.key, int(info.modified.timestamp()))
    assert is_about_manifest(mark_key(info))
    assert not is_about_manifest(mark_key(ObjectInfo("packs/host/vol/name.tar.zst", 5, info.modified)))
    assert not is_about_manifest("damaged/host/vol/what is none")


@pytest.mark.parametrize("cached", [False, True])
def test_a_share_reads_manifests_though_they_are_in_the_cache(
    lab: Lab,  # noqa: F811
    made: list[BackupRef],
    cached: bool,
) -> None:
    cache = cache_of(lab) if cached else None
    flip(path_of(lab, made[1]))
    found = share(lab, cache)
    assert list(found.wrong) == [made[1]]
    assert found.problem == ""
    assert found.volumes["vol"].hurt == 1
    assert [name.partition(".json.")[0] for name in lab.marks()] == [made[1].id]
    assert list(share(lab, cache, day=1).wrong) == [made[1]]
    # Another machine knows by the mark, whatever it has in its cache.
    lines = lab.cli("list", "--host", "host").exits(1)
    assert manifest_key(made[1]) in lines.stderr


def test_every_machine_knows_by_the_mark(lab: Lab, made: list[BackupRef]) -> None:  # noqa: F811
    name = f"host/vol@{made[1].id}"
    lab.cli("list", "--host", "host").exits(0)  # now they are in its cache
    flip(path_of(lab, made[1]))
    assert "whole" not in lab.cli("list", "--host", "host").exits(0).stderr
    elsewhere = lab.cli.at(store=lab.store, state=lab.directory / "elsewhere")
    elsewhere("verify", name).fails_with(manifest_key(made[1]), "is damaged")
    assert len(lab.marks()) == 1
    listed = lab.cli("list", "--host", "host", "--json").exits(1).json["backups"]
    assert [(each["id"], each["damaged"]) for each in listed if not each["whole"]] == [
        (made[1].id, [manifest_key(made[1])])
    ]
    assert "1 damaged" in lab.cli("list", "--host", "host").exits(1).stdout
    status = lab.cli("status", "--host", "host")
    assert manifest_key(made[1]) in status.stdout + status.stderr


@pytest.mark.parametrize("by_share", [False, True])
def test_one_that_is_good_again_is_not_marked_any_longer(
    lab: Lab,  # noqa: F811
    made: list[BackupRef],
    by_share: bool,
) -> None:
    flip(path_of(lab, made[1]))
    assert lab.verify(made[1]).findings
    assert len(lab.marks()) == 1
    lab.verify(made[2])
    share(lab, None)
    assert len(lab.marks()) == 1
    flip(path_of(lab, made[1]))
    if by_share:
        assert share(lab, None, day=1).wrong == {}
    else:
        assert lab.verify(made[1]).findings == ()
    assert lab.marks() == []
    assert lab.problems == []


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("last", [0, 1])
def test_prune_deletes_nothing_that_a_damaged_manifest_may_need(
    lab: Lab,  # noqa: F811
    made: list[BackupRef],
    cached: bool,
    last: int,
) -> None:
    needed = {ref: set(needed_objects(ref, lab.repository.manifest(ref))) for ref in made}
    cache = cache_of(lab) if cached else None
    flip(path_of(lab, made[1]))
    lab.verify(made[1])
    for _ in range(2):
        found = prune(lab, Keep(last=last), cache)
        assert made[1] not in found.forgotten
        assert all_is_there(lab, made[1], needed[made[1]])
        assert all_is_there(lab, made[2], needed[made[2]])
        assert len(lab.marks()) == 1


def test_prune_counts_it_as_any_other_that_was_found_damaged(lab: Lab, made: list[BackupRef]) -> None:  # noqa: F811
    """Here the manifest is good again, and the mark still there: nothing goes in its favour."""
    flip(path_of(lab, made[2]))
    lab.verify(made[2])
    flip(path_of(lab, made[2]))
    found = prune(lab, Keep(last=1))
    assert found.damaged == [made[2]]
    assert found.forgotten == [made[0]]
    assert lab.verify(made[2]).findings == ()
    assert lab.marks() == []
    assert prune(lab, Keep(last=1)).forgotten == [made[1]]


def test_a_mark_goes_with_its_manifest(lab: Lab, made: list[BackupRef]) -> None:  # noqa: F811
    flip(path_of(lab, made[0]))
    lab.verify(made[0])
    flip(path_of(lab, made[0]))
    assert made[0] in prune(lab, Keep(last=1)).forgotten
    assert lab.marks() == []


class LeavesOneOut:
    """Of each listing of manifests but the first ones, as a share may do for a moment."""

    def __init__(self, store: object, key: str, after: int) -> None:
        self._store, self._key, self._left = store, key, after

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found: Iterator[ObjectInfo] = self._store.list(prefix)  # type: ignore[attr-defined]
        if not prefix.startswith("manifests/"):
            return found
        self._left -= 1
        return found if self._left >= 0 else (info for info in found if info.key != self._key)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_mark_stays_where_a_list_leaves_its_manifest_out(
    lab: Lab,  # noqa: F811
    made: list[BackupRef],
    after: int,
) -> None:
    needed = set(needed_objects(made[1], lab.repository.manifest(made[1])))
    flip(path_of(lab, made[1]))
    lab.verify(made[1])
    store = lab.repository.store
    lab.repository.store = LeavesOneOut(store, manifest_key(made[1]), after)  # type: ignore[assignment]
    prune(lab, Keep(last=2))
    lab.repository.store = store
    assert len(lab.marks()) == 1
    assert all_is_there(lab, made[1], needed)


def test_the_next_backup_does_not_build_upon_it(lab: Lab, made: list[BackupRef]) -> None:  # noqa: F811
    flip(path_of(lab, made[2]))
    lab.verify(made[2])
    newest = lab.back_up()
    assert lab.repository.manifest(newest).base is None
    assert lab.verify(newest).findings == ()


def test_a_store_that_takes_no_mark_is_told_of(lab: Lab, made: list[BackupRef]) -> None:  # noqa: F811
    cache = cache_of(lab)
    flip(path_of(lab, made[1]))

    class TakesNothing:
        def __init__(self, store: object) -> None:
            self._store = store

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

        def create(self, key: str) -> object:
            raise StoreError(f"cannot write {key}: read-only file system")

    lab.repository.store = TakesNothing(lab.repository.store)  # type: ignore[assignment]
    found = share(lab, cache)
    assert list(found.wrong) == [made[1]]
    assert "cannot be remembered" in found.problem
    # This machine knows all the same.
    known = dict(lab.repository.manifests(host="host", cache=cache))
    assert "is damaged" in str(known[made[1]])


def test_a_made_up_mark_is_believed_by_nobody(lab: Lab, made: list[BackupRef]) -> None:  # noqa: F811
    (info,) = (each for each in lab.repository.store.list("manifests/") if each.key == manifest_key(made[1]))
    put(lab.repository.store, mark_key(info), b"")
    assert Condition.of(lab.repository, "host", "vol").marks == {}
    lab.cli("list", "--host", "host").exits(0)
    share(lab, None)
    assert lab.marks() == []
