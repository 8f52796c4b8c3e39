"""What newer backups could not read: the last older ones that could stay."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.unit.test_manifest import DOCUMENT
from tests.unit.test_suspicion import BEGIN
from volferry.archive.index import group_bytes, unread_of
from volferry.archive.manifest import FindingPart, Manifest
from volferry.checked import value_of
from volferry.layout import manifest_key, needed_objects
from volferry.model import BackupRef
from volferry.operations.acceptance import READ, accept, accepted_ids, find_hold
from volferry.operations.prune import prune_volume
from volferry.operations.unread import last_readers, unread_paths
from volferry.repository import Repository
from volferry.retention import Keep, Within
from volferry.stores.base import put


def with_unread(night: int, paths: list[str], *, count: int = 0) -> tuple[BackupRef, Manifest]:
    """A manifest with these findings, of more if `count` is more."""
    time = BEGIN + timedelta(days=night)
    manifest = value_of(DOCUMENT, Manifest)
    findings = tuple(FindingPart(kind="unreadable", path=path, detail="an error") for path in paths)
    ref = BackupRef("host", "vol", f"{time:%Y%m%dT%H%M%SZ}-{night:06x}")
    (pack, *_) = manifest.packs
    return ref, msgspec.structs.replace(
        manifest,
        id=ref.id,
        host="host",
        volume=msgspec.structs.replace(manifest.volume, name="vol"),
        started_at=time,
        findings=findings,
        findings_total=max(count, len(findings)),
        counts=msgspec.structs.replace(manifest.counts, unreadable=max(count, len(findings))),
        packs=(msgspec.structs.replace(pack, name=f"{ref.id}.0000"),),
        base=None,
    )


def readers(*nights: list[str] | tuple[list[str], int]) -> list[int]:
    """Of nights, oldest first, given by what could not be read then: those that stay because of that."""
    found = [
        with_unread(number, night[0], count=night[1])
        if isinstance(night, tuple)
        else with_unread(number, night)
        for number, night in enumerate(nights)
    ]
    refs = [ref for ref, _ in reversed(found)]
    held = last_readers(dict(found), refs, accepted=(), hollow=(), damaged=())
    return sorted(int(ref.id[-6:], 16) for ref, _ in held)


@pytest.mark.parametrize(
    ("nights", "held"),
    [
        ([[], [], []], []),
        ([[], ["a"], ["a"]], [0]),
        ([["a"], ["a"], ["a"]], []),
        ([[], ["a"], []], []),
        ([[], ["a"], ["a"], ["a", "b"], ["a", "b"]], [0, 2]),
        ([[], ["a"], ["b"], ["a"]], [2]),
        ([["a"], [], ["a", "b"]], [1]),
        # Below a directory that could not be read, nothing could be.
        ([[], ["a"], ["a/b"]], [0]),
        ([[], [""], ["a/b"]], [0]),
        ([[], ["ab"], ["a/b"]], [1]),
        # More than there are names for.
        ([[], (["a"], 9), (["a"], 9)], [0]),
        ([(["a"], 9), (["a"], 9)], []),
        ([["b"], (["a"], 9), ["b"]], []),
        ([[], (["a"], 9), ["b"]], [0]),
        ([["a"], (["a"], 9)], [0]),
    ],
)  # fmt: skip
def test_the_last_that_could_read_each(nights: list[list[str]], held: list[int]) -> None:
    assert readers(*nights) == held


def test_of_a_manifest_that_has_no_count() -> None:
    _, manifest = with_unread(0, ["a"])
    old = msgspec.structs.replace(
        manifest, counts=msgspec.structs.replace(manifest.counts, unreadable=0), findings_total=5
    )
    assert unread_paths(manifest) == {"a"}
    assert unread_paths(old) > {"a"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(["a", "b", "c"])),
            st.sampled_from(["", "", "", "accepted"]),
            st.sampled_from(["sound", "sound", "sound", "damaged", "hollow"]),
        ),
        min_size=1,
        max_size=12,
    )
)
@example([(set(), "", "sound"), ({"b"}, "accepted", "damaged"), ({"a"}, "", "sound")])
def test_the_last_one_that_could_read_what_newer_ones_could_not_is_held(
    history: list[tuple[set[str], str, str]],
) -> None:
    repository, _ = Repository.open_or_create(MemoryStore(Contents("main", Clock(BEGIN))))
    assert isinstance(repository.store, MemoryStore)
    read: dict[str, BackupRef] = {}  # the last that could, by path
    made: dict[BackupRef, Manifest] = {}
    hollow: list[BackupRef] = []
    damaged: list[BackupRef] = []
    for night, (unread, said, state) in enumerate(history):
        ref, manifest = with_unread(night, sorted(unread))
        repository.store.contents.clock.now = BEGIN + timedelta(days=night)
        put(repository.store, manifest_key(ref), manifest.to_bytes())
        made[ref] = manifest
        if said and unread:
            accept(repository, ref, "host")
        if state != "sound":
            (hollow if state == "hollow" else damaged).append(ref)
            if said:
                read = {path: each for path, each in read.items() if path not in unread}
            continue
        read |= dict.fromkeys({"a", "b", "c"} - unread, ref)
        if said:
            read = {path: each for path, each in read.items() if path not in unread}
        hold = find_hold(repository, made, Within("30d"), hollow=hollow, damaged=damaged)
        reasons = hold.reasons if hold else {}
        for path in unread if not said else ():
            if path in read:
                assert reasons.get(read[path].id) == READ
        assert len([each for each in reasons.values() if each == READ]) <= 2 * len(unread)
        assert find_hold(repository, made, Within("0d"), hollow=hollow, damaged=damaged) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.sampled_from(["a", "b"])), min_size=1, max_size=14), st.integers(1, 3))
def test_prune_never_forgets_it(history: list[set[str]], last: int) -> None:
    repository, _ = Repository.open_or_create(MemoryStore(Contents("main", Clock(BEGIN))))
    assert isinstance(repository.store, MemoryStore)
    read: dict[str, BackupRef] = {}
    for night, unread in enumerate(history):
        ref, manifest = with_unread(night, sorted(unread))
        repository.store.contents.clock.now = BEGIN + timedelta(days=night)
        for key, content in needed_objects(ref, manifest).items():
            put(repository.store, key, bytes(content.stored_bytes))
        put(repository.store, manifest_key(ref), manifest.to_bytes())
        read |= dict.fromkeys({"a", "b"} - unread, ref)
        prune_volume(
            repository, "host", "vol", keep=lambda _: Keep(last=last), grace=Within("7d"), cache=None, dry_run=False,
        )  # fmt: skip
        there = set(repository.refs())
        assert {ref, *(read[path] for path in unread & read.keys())} <= there
        # The newest ones; of each path, the last that could read it and the first that could not.
        assert len(there) <= last + 2 * len(unread)
    assert accepted_ids(repository, "host", "vol") == set()


def record(path: str, size: int, inode: int, links: int = 1) -> bytes:
    return f"{path}//f 644 0 0 {size} 1.0000000000 1.0000000000 {inode} {links} ".encode()


def test_sums_of_what_could_not_be_read() -> None:
    records = [
        record("a", 100, 1),
        record("b", 100, 2),
        record("c", 100, 3),
        record("d", 100, 4, links=2),
        record("e", 100, 4, links=2),
        record("f", 100, 5),
    ]
    blocks = [group_bytes(0, records)]
    assert unread_of(blocks, {}) == (0, 0)
    zeros_from = {b"a": 0, b"b": 40, b"c": -30, b"d": 0, b"f": -200, b"gone": 0}
    assert unread_of(blocks, zeros_from) == (4, 100 + 60 + 30 + 200 + 100)
