"""A source that somebody has broken into, with digests and seals that are right: a copy of it costs the target nothing that it has."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.parts.cli import Cli
from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.archive.digests import digested
from volferry.archive.manifest import PackPart
from volferry.layout import files_key, frames_key, manifest_key, pack_key
from volferry.model import BackupRef, PackInfo, new_backup_id
from volferry.observer import Silent
from volferry.operations.copy import Copying, copy_volume
from volferry.repository import Repository
from volferry.retention import Keep
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Objects(dict[str, bytes]):
    """By key, too many bytes to be shown where a test fails."""

    def __repr__(self) -> str:
        return f"{len(self)} objects"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """Of a store with two backups, of two packs each at least, one of which both need."""
    directory = tmp_path_factory.mktemp("lab")
    (directory / "data").mkdir()
    volume = LocalVolume(directory / "data", directory / "state", pack_bytes=1 << 20)
    store = MemoryStore(Contents("store", Clock()))
    repository, _ = Repository.open_or_create(store)
    for number in range(2):
        (directory / "data" / f"noise{number}").write_bytes(os.urandom(3 << 19))
        volume.back_up(repository)
    return Objects({key: data for key, (data, _) in store.contents.objects.items()})


def repository_of(objects: dict[str, bytes], name: str, modified: datetime | None = None) -> Repository:
    clock = Clock()
    times = {key: (data, modified or clock.look()) for key, data in objects.items()}
    return Repository.open(MemoryStore(Contents(name, clock, times)))


def contents_of(repository: Repository) -> dict[str, bytes]:
    return {info.key: b"".join(repository.blocks(info.key)) for info in repository.store.list("")}


def part(name: str, data: bytes) -> PackPart:
    return PackPart.of(PackInfo(name, len(data), len(data), digested([data], algorithm="xxh128").digest))


def copy(source: Repository, target: Repository) -> Copying:
    return copy_volume(
        source, target, "host", "vol", keep=lambda _: Keep(last=50), source_cache=None, target_cache=None,
        observer=Silent(),
    )  # fmt: skip


def forge(
    objects: dict[str, bytes], ref: BackupRef, number: int, junk: dict[str, bytes], *, hours: int
) -> tuple[BackupRef, dict[str, bytes]]:
    """A new backup, made of an old one, with other bytes in some of its packs: the source's objects with it."""
    source = repository_of(objects, "forged")
    manifest = source.manifest(ref)
    time = (datetime.now(UTC) + timedelta(hours=hours)).replace(microsecond=0)
    new = BackupRef("host", "vol", f"{time:%Y%m%dT%H%M%SZ}-{number:06x}")
    packs = tuple(part(each.name, junk[each.name]) if each.name in junk else each for each in manifest.packs)
    made = {
        **objects,
        **{pack_key(ref, name): data for name, data in junk.items()},
        frames_key(new): objects[frames_key(ref)],
        files_key(new): objects[files_key(ref)],
    }
    document = replace(manifest, id=new.id, packs=packs, started_at=time, listed_at=time, finished_at=time)
    return new, {**made, manifest_key(new): document.to_bytes()}


# Which backup a forged one is made of, whether it is older than all, and in which of its packs it has other bytes: of the same size or not.
FORGED = st.tuples(
    st.integers(0, 1), st.booleans(), st.dictionaries(st.integers(0, 2), st.booleans(), max_size=3)
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.sampled_from([slice(0, 2), slice(0, 1), slice(1, 2)]),
    modified=st.sampled_from([None, LONG_AGO]),
    made_up=st.lists(FORGED, min_size=1, max_size=2),
)
def test_nothing_that_is_whole_in_the_target_is_changed_whatever_a_source_says(
    objects: Objects,
    which: slice,
    modified: datetime | None,
    made_up: list[tuple[int, bool, dict[int, bool]]],
) -> None:
    refs = sorted(repository_of(objects, "store").refs(), key=lambda ref: ref.id)
    there = refs[which]
    left_out = {manifest_key(ref) for ref in refs} - {manifest_key(ref) for ref in there}
    target = repository_of(
        {key: value for key, value in objects.items() if key not in left_out}, "target", modified
    )
    needed = {
        pack_key(ref, pack.name): objects[pack_key(ref, pack.name)]
        for ref in there
        for pack in target.manifest(ref).packs
    }
    in_source = dict(objects)
    wrong: list[BackupRef] = []
    for number, (of, is_older, packs) in enumerate(made_up):
        ref = refs[of]
        names = [pack.name for pack in repository_of(objects, "store").manifest(ref).packs]
        junk = {
            names[index]: bytes(len(objects[pack_key(ref, names[index])])) if same_size else b"junk"
            for index, same_size in packs.items()
            if index < len(names)
        }
        forged, in_source = forge(in_source, ref, number, junk, hours=-100_000 if is_older else 1)
        if any(pack_key(ref, name) in needed for name in junk):
            wrong.append(forged)
    result = copy(repository_of(in_source, "source"), target)
    after = contents_of(target)
    assert {key: after[key] for key in needed} == needed
    for ref in there:
        assert after[manifest_key(ref)] == objects[manifest_key(ref)]
    for ref in wrong:
        assert "its manifest says of packs/" in result.failed[str(ref)]
        assert manifest_key(ref) not in after
        assert frames_key(ref) not in after


@pytest.mark.parametrize("way", ["to a replica", "back from a copy"])
@pytest.mark.parametrize("size", ["another", "the same"])
def test_whoever_breaks_into_the_source_of_a_copy_destroys_no_backup_of_its_target(
    tmp_path: Path, way: str, size: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "noise").write_bytes(os.urandom(100_000))
    volume = LocalVolume(tmp_path / "data", tmp_path / "state")
    store = Repository.open_or_create(LocalStore(tmp_path / "store"))[0]
    ref = volume.back_up(store).ref
    cli = Cli("unix:///nowhere", tmp_path / "store", tmp_path / "state", tmp_path)
    cli("copy", "--host", "host", "--to", str(tmp_path / "replica")).exits(0)
    source, target = ("store", "replica") if way == "to a replica" else ("replica", "store")
    broken_into = Repository.open(LocalStore(tmp_path / source))
    manifest = broken_into.manifest(ref)
    pack = manifest.packs[0]
    whole = (tmp_path / target / pack_key(ref, pack.name)).read_bytes()
    junk = os.urandom(len(whole)) if size == "the same" else b"junk"
    (tmp_path / source / pack_key(ref, pack.name)).write_bytes(junk)
    new = BackupRef("host", "vol", new_backup_id(datetime.now(UTC), newest=ref.id))
    for key in (frames_key, files_key):
        (tmp_path / source / key(new)).write_bytes((tmp_path / source / key(ref)).read_bytes())
    broken_into.writer(new).put_manifest(
        replace(manifest, id=new.id, packs=(part(pack.name, junk), *manifest.packs[1:]))
    )
    options = ("--host", "host", "--store", str(tmp_path / source), "--to", str(tmp_path / target))
    done = cli("copy", *options)
    done.fails_with(
        f"{new}: its manifest says of {pack_key(ref, pack.name)} otherwise than that of {ref} in "
    )
    assert done.stderr.count("\n") == 1
    assert (tmp_path / target / pack_key(ref, pack.name)).read_bytes() == whole
    cli("verify", "--all", "--read", "--host", "host", "--store", str(tmp_path / target)).exits(0)
