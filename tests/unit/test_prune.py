"""What prune deletes follows from manifests that are whole, and from backups that are."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.parts.recorded_store import RecordedStore
from volferry.archive.sealed import seal
from volferry.cli.prune import forget
from volferry.cli.prune import prune as prune_command
from volferry.cli.session import Session
from volferry.config import Config
from volferry.damage import Condition, mark
from volferry.errors import DamagedObject, StoreError, UsageError
from volferry.layout import files_key, frames_key, manifest_key, pack_key
from volferry.manifest_cache import ManifestCache
from volferry.model import BackupRef
from volferry.observer import Silent
from volferry.operations.acceptance import accept
from volferry.operations.copy import copy_volume
from volferry.operations.prune import Pruning, prune_volume
from volferry.operations.stored_volumes import is_stored, stored_volumes
from volferry.operations.verdicts import judged
from volferry.operations.verify import Verifier
from volferry.repository import Repository
from volferry.retention import Keep, Within
from volferry.stores.base import put
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from volferry.model import BackupStats, ObjectInfo


@pytest.fixture
def contents() -> Contents:
    return Contents("main", Clock())


@pytest.fixture
def repository(contents: Contents) -> Repository:
    return Repository.open_or_create(MemoryStore(contents))[0]


@pytest.fixture
def volume(tmp_path: Path) -> LocalVolume:
    (tmp_path / "data").mkdir()
    return LocalVolume(tmp_path / "data", tmp_path / "state")


def backups(volume: LocalVolume, repository: Repository, count: int) -> list[BackupStats]:
    found = []
    for number in range(count):
        (volume.data / f"file{number}").write_bytes(os.urandom(300_000))
        found.append(volume.back_up(repository))
    return found


def prune(repository: Repository, keep: Keep, cache: ManifestCache | None = None) -> Pruning:
    return prune_volume(
        repository, "host", "vol", keep=lambda _: keep, grace=Within("7d"), cache=cache, dry_run=False
    )


def test_a_flipped_bit_of_a_manifest_that_this_machine_keeps_deletes_no_pack(
    tmp_path: Path, contents: Contents, repository: Repository, volume: LocalVolume
) -> None:
    cache = ManifestCache(tmp_path / "manifests.sqlite")
    made = backups(volume, repository, 2)
    assert len(repository.manifests(host="host", volume="vol", cache=cache)) == 2
    with closing(sqlite3.connect(tmp_path / "manifests.sqlite")) as database, database:
        for key, data in database.execute("SELECT key, data FROM manifests").fetchall():
            flipped = data.replace(b'.0000"', b'.0001"')
            assert flipped != data
            database.execute("UPDATE manifests SET data = ? WHERE key = ?", (flipped, key))
    contents.clock.now += timedelta(days=10_000)
    assert prune(repository, Keep(last=10), cache).packs == []
    verifier = Verifier(repository, read=False, spool=tmp_path, observer=Silent())
    assert [verifier.verify(each.ref).findings for each in made] == [(), ()]


def test_nothing_goes_in_favour_of_a_manifest_that_the_store_has_damaged(
    repository: Repository, contents: Contents, volume: LocalVolume, tmp_path: Path
) -> None:
    good, newest = (stats.ref for stats in backups(volume, repository, 2))
    cache = ManifestCache(tmp_path / "manifests.sqlite")
    repository.manifests(host="host", volume="vol", cache=cache)
    key = manifest_key(newest)
    data, modified = contents.objects[key]
    contents.objects[key] = (data[:200] + bytes(64) + data[264:], modified)  # as long as before
    found = prune(repository, Keep(last=1), cache)
    assert (found.forgotten, found.packs) == ([], [])
    assert any(key in problem for problem in found.problems)
    repository.check_objects(good, repository.manifest(good))
    # From now on it is known.
    known = dict(repository.manifests(host="host", volume="vol", cache=cache))
    assert isinstance(known[newest], DamagedObject)


def test_a_backup_that_misses_objects_is_not_kept_in_place_of_a_good_one(
    contents: Contents, repository: Repository, volume: LocalVolume
) -> None:
    made = [each.ref for each in backups(volume, repository, 4)]
    (own,) = {pack.name for pack in repository.manifest(made[-1]).packs if pack.name.startswith(made[-1].id)}
    repository.store.delete(pack_key(made[-1], own))
    result = prune(repository, Keep(last=1))
    assert result.hollow == [made[-1]]
    assert set(repository.refs()) == {made[-2], made[-1]}  # the newest whole one, and the newest
    assert set(result.forgotten) == set(made[:2])


def marked(repository: Repository, backup: BackupRef) -> None:
    """Its own pack, as `verify` does."""
    condition = Condition.of(repository, "host", "vol")
    (key,) = (key for key in condition.objects if key.startswith(f"packs/host/vol/{backup.id}"))
    mark(repository, condition.objects[key], "a frame is damaged", by="host", now=datetime.now(UTC))


def test_a_backup_that_was_found_damaged_is_not_kept_in_place_of_a_good_one(
    repository: Repository, volume: LocalVolume
) -> None:
    made = [each.ref for each in backups(volume, repository, 4)]
    marked(repository, made[-1])
    result = prune(repository, Keep(last=1))
    assert result.damaged == [made[-1]]
    assert set(repository.refs()) == {made[-2], made[-1]}
    # The next one is sound, and the policy alone decides.
    made.append(backups(volume, repository, 1)[0].ref)
    prune(repository, Keep(last=1))
    assert set(repository.refs()) == {made[-1]}


def test_a_copy_takes_a_sound_backup_along_where_the_newest_was_found_damaged(
    repository: Repository, volume: LocalVolume
) -> None:
    made = [each.ref for each in backups(volume, repository, 3)]
    marked(repository, made[-1])
    target, _ = Repository.open_or_create(MemoryStore(Contents("target", Clock())))
    copied = copy_volume(
        repository, target, "host", "vol", keep=lambda _: Keep(last=1), source_cache=None, target_cache=None,
        observer=Silent(),
    )  # fmt: skip
    assert copied.copied == made[-2:]  # the mark is wrong, and the copy finds that out


@given(st.data(), st.lists(st.sampled_from(["sound", "hollow", "damaged"]), min_size=1, max_size=20))
def test_damage_that_somebody_made_up_lets_nothing_go_sooner(data: st.DataObject, states: list[str]) -> None:
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    times = {f"{number:03}": begin + timedelta(hours=7 * number) for number in range(len(states))}
    policy = Keep(
        last=data.draw(st.integers(0, 3)),
        daily=data.draw(st.integers(0, 3)),
        weekly=data.draw(st.integers(0, 2)),
        within=data.draw(st.sampled_from([None, Within("12h"), Within("2d")])),
    )
    of = {state: {each for each, its in zip(times, states, strict=True) if its == state} for state in states}

    def kept(hollow: set[str], damaged: set[str]) -> set[str]:
        return {each.id for each in judged(times, policy, hollow=hollow, damaged=damaged) if each.kept}

    hollow, damaged, sound = of.get("hollow", set()), of.get("damaged", set()), of.get("sound", set())
    found = kept(hollow, damaged)
    assert kept(hollow, set()) <= found
    alone = {name: time for name, time in times.items() if name in sound}
    assert {each.id for each in judged(alone, policy, hollow=(), damaged=()) if each.kept} <= found
    assert max(times) in found


@pytest.mark.parametrize("lost", ["a pack", "all packs"])
def test_a_copy_takes_a_good_backup_along_where_a_newer_one_misses_objects(
    contents: Contents, repository: Repository, volume: LocalVolume, lost: str, tmp_path: Path
) -> None:
    made = [each.ref for each in backups(volume, repository, 4)]
    if lost == "a pack":
        (own,) = {
            pack.name for pack in repository.manifest(made[-1]).packs if pack.name.startswith(made[-1].id)
        }
        repository.store.delete(pack_key(made[-1], own))
    else:
        manifest = repository.manifest(made[-1])
        repository.store.delete(manifest_key(made[-1]))
        repository.writer(made[-1]).put_manifest(replace(manifest, packs=()))
    target, _ = Repository.open_or_create(MemoryStore(Contents("target", Clock())))
    copied = copy_volume(
        repository, target, "host", "vol", keep=lambda _: Keep(last=1), source_cache=None, target_cache=None,
        observer=Silent(),
    )  # fmt: skip
    assert made[-2] in copied.copied
    assert made[-3] not in copied.copied
    assert (lost == "a pack") == (str(made[-1]) in copied.failed)


def test_nothing_of_what_a_volume_held_stays_once_no_backup_has_it(
    repository: Repository, contents: Contents, volume: LocalVolume, tmp_path: Path
) -> None:
    (first,) = backups(volume, repository, 1)
    for path in volume.data.iterdir():
        path.unlink()
    second, third = volume.back_up(repository), volume.back_up(repository)
    assert third.stored_bytes < second.stored_bytes  # nothing has changed: no pack
    accept(repository, second.ref, by="host")
    found = prune(repository, Keep(last=1))
    assert (found.packs, found.waiting_bytes > 300_000) == ([], True)
    contents.clock.now = datetime.now(UTC) + timedelta(days=8)
    assert prune(repository, Keep(last=1)).packs == [f"{first.ref.id}.0000"]
    assert Verifier(repository, read=True, spool=tmp_path, observer=Silent()).verify(third.ref).findings == ()


def test_hollow_backups_go_when_the_policy_lets_them_go(
    contents: Contents, repository: Repository, volume: LocalVolume
) -> None:
    made = [each.ref for each in backups(volume, repository, 3)]
    for pack in repository.manifest(made[0]).packs:
        repository.store.delete(pack_key(made[0], pack.name))
    volume.settings = {"full": True}
    made.append(backups(volume, repository, 1)[0].ref)
    found = prune(repository, Keep(last=1))
    assert (found.forgotten, found.hollow) == (made[:3], [])


@pytest.mark.parametrize(
    "name",
    [
        "20261399T999999Z-abcdef",
        "00010101T000000Z-abcdef",
        "99991231T235959Z-abcdef",
        "20260230T000000Z-abcdef",
    ],
)
def test_a_manifest_whose_id_is_no_date_harms_neither_backup_nor_prune(
    repository: Repository, volume: LocalVolume, name: str
) -> None:
    put(repository.store, f"manifests/host/vol/{name}.json", b"{}")
    put(repository.store, f"packs/host/vol/{name}.0000.tar.zst", b"")
    put(repository.store, f"indexes/host/vol/{name}.files.zst", b"")
    made = backups(volume, repository, 2)
    assert list(repository.refs()) == [each.ref for each in made]
    result = prune(repository, Keep(last=1))
    assert result.packs == []
    assert result.problems == [f"manifests/host/vol/{name}.json is not a manifest that this volferry knows"]
    assert len(volume.back_up(repository).ref.id) == len(name)


@pytest.mark.parametrize("segment", ["%76ol", "vol%2", "%ff", "%2e", "vo%6C"])
def test_a_name_that_is_encoded_otherwise_is_no_backup(
    repository: Repository, volume: LocalVolume, segment: str
) -> None:
    (made,) = backups(volume, repository, 1)
    put(repository.store, f"manifests/host/{segment}/20260101T000000Z-abcdef.json", b"{}")
    put(repository.store, f"manifests/{segment}/vol/20260101T000000Z-abcdef.json", b"{}")
    assert list(repository.refs()) == [made.ref]
    assert stored_volumes(repository) == [("host", "vol")]


class Made:
    """Backups of a test's own, of which hypothesis does not print each byte."""

    def __init__(self, contents: Contents, refs: list[BackupRef]) -> None:
        self.contents = contents
        self.refs = refs


class ShortLists(MemoryStore):
    """Its LISTs leave manifests out, as those of a share may for a moment: the first one those of `left_out[0]`, and so on."""

    def __init__(self, contents: Contents, left_out: Sequence[set[str]]) -> None:
        super().__init__(contents)
        self.left_out = list(left_out)
        self.seen: set[str] = set()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        left_out = self.left_out.pop(0) if prefix.startswith("manifests/") and self.left_out else set[str]()
        for info in MemoryStore.list(self, prefix):
            if info.key not in left_out:
                self.seen.add(info.key)
                yield info


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(short=st.lists(st.sets(st.integers(0, 3)), max_size=3), last=st.integers(1, 4))
def test_prune_deletes_nothing_of_a_backup_that_any_of_its_lists_had(
    short: list[set[int]], last: int, tmp_path_factory: pytest.TempPathFactory, made: Made
) -> None:
    before, refs = made.contents, made.refs
    contents = Contents("main", Clock(datetime.now(UTC) + timedelta(days=30)), dict(before.objects))
    store = ShortLists(contents, [{manifest_key(refs[number]) for number in each} for each in short])
    repository = Repository.open(store)
    result = prune(repository, Keep(last=last))
    seen = set(store.seen)
    spool = tmp_path_factory.mktemp("spool")
    for ref in repository.refs():
        if manifest_key(ref) in seen:
            verifier = Verifier(repository, read=False, spool=spool, observer=Silent())
            assert verifier.verify(ref).findings == (), (ref, result)
    # With a store that lists everything, what is left has its way.
    store.left_out = []
    assert prune(repository, Keep(last=1)).problems == []
    if seen >= {manifest_key(ref) for ref in refs}:  # or something may be lost
        assert list(repository.refs()) == refs[-1:]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Four backups, each with packs that only some of the others need."""
    place = tmp_path_factory.mktemp("made")
    (place / "data").mkdir()
    contents = Contents("main", Clock())
    volume = LocalVolume(place / "data", place / "state")
    repository = Repository.open_or_create(MemoryStore(contents))[0]
    refs = []
    for number in range(4):
        volume.settings = {"full": number == 2}
        refs += [each.ref for each in backups(volume, repository, 1)]
    return Made(contents, refs)


def test_a_manifest_that_the_last_list_leaves_out_is_not_gone(made: Made) -> None:
    before, refs = made.contents, made.refs
    contents = Contents("main", Clock(datetime.now(UTC) + timedelta(days=30)), dict(before.objects))
    # The newest, and all of them.
    for left_out in ({manifest_key(refs[-1])}, {manifest_key(ref) for ref in refs}):
        repository = Repository.open(ShortLists(contents, [set(), set(), left_out]))
        result = prune(repository, Keep(last=4))
        assert (result.packs, result.problems) == ([], [])
        assert contents.objects.keys() == before.objects.keys()


@pytest.mark.parametrize("number", range(4))
def test_a_manifest_that_only_the_first_list_has_is_not_gone(made: Made, tmp_path: Path, number: int) -> None:
    """Where something is to go, prune looks once more, past what this machine has kept of manifests: at fewer of them here."""
    before, refs = made.contents, made.refs
    contents = Contents("main", Clock(datetime.now(UTC) + timedelta(days=30)), dict(before.objects))
    left_out = {manifest_key(refs[number])}
    repository = Repository.open(ShortLists(contents, [set(), *[left_out] * 9]))
    result = prune(repository, Keep(last=2), ManifestCache(tmp_path / "manifests.sqlite"))
    assert refs[number] not in result.forgotten
    assert result.packs == []
    whole = Repository.open(MemoryStore(contents))
    whole.check_objects(refs[number], whole.manifest(refs[number]))


@pytest.mark.parametrize("days", [0, 6, 30])
def test_without_any_manifest_nothing_of_backups_is_deleted(made: Made, days: int) -> None:
    before, refs = made.contents, made.refs
    objects = {key: each for key, each in before.objects.items() if not key.startswith("manifests/")}
    contents = Contents("main", Clock(datetime.now(UTC) + timedelta(days=days)), dict(objects))
    result = prune(Repository.open(MemoryStore(contents)), Keep(last=1))
    assert contents.objects == objects
    assert (result.packs, result.freed_bytes) == ([], 0)
    if days < 7:
        assert result.problems == []  # it may be a first backup that is about to end
    else:
        (problem,) = result.problems
        assert problem.startswith(
            f"no manifest of it is there, but {frames_key(refs[-1])} is: put manifests/host/vol back"
        )


def test_packs_count_as_lost_with_their_manifests_while_the_index_is_young(made: Made) -> None:
    before = made.contents
    now = datetime.now(UTC) + timedelta(days=30)
    contents = Contents(
        "main",
        Clock(now),
        {key: each for key, each in before.objects.items() if key.startswith(("packs/", "volferry"))},
    )
    young = BackupRef("host", "vol", f"{now:%Y%m%dT%H%M%SZ}-abcdef")
    for key in (frames_key(young), files_key(young)):
        contents.objects[key] = (b"", now)
    result = prune(Repository.open(MemoryStore(contents)), Keep(last=1))
    assert result.packs == []
    assert len(result.problems) == 1
    assert frames_key(young) in result.problems[0]


def test_packs_of_first_runs_that_died_go_after_the_grace_period(
    contents: Contents, repository: Repository
) -> None:
    names = ["20260201T000000Z-abcdef.0000", "20260201T000000Z-abcdef.0001", "20260203T000000Z-abcdef.0000"]
    for name in names:
        put(repository.store, f"packs/host/vol/{name}.tar.zst", b"of a run that died")
    assert prune(repository, Keep(last=1)).packs == []
    contents.clock.now += timedelta(days=8)
    result = prune(repository, Keep(last=1))
    assert (result.packs, result.problems) == (names, [])


@pytest.mark.parametrize("listed", range(4))
@pytest.mark.parametrize("short", [("manifests/",), ("manifests/", "indexes/")])
def test_backups_that_every_list_leaves_out_because_it_ends_too_soon_lose_nothing(
    made: Made, listed: int, short: tuple[str, ...]
) -> None:
    """All that is newer than some backup is gone from each list, as where a server's second page is empty."""

    class Shortened(MemoryStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            for info in MemoryStore.list(self, prefix):
                if not prefix.startswith(short) or all(ref.id not in info.key for ref in made.refs[listed:]):
                    yield info

    contents = Contents("main", Clock(datetime.now(UTC) + timedelta(days=30)), dict(made.contents.objects))
    result = prune(Repository.open(Shortened(contents)), Keep(last=10))
    assert contents.objects == made.contents.objects
    assert len(result.problems) == 1
    whole = Repository.open(MemoryStore(contents))
    assert prune(whole, Keep(last=10)).problems == []
    for ref in made.refs:
        whole.check_objects(ref, whole.manifest(ref))


@pytest.mark.parametrize("left", ["manifest", "manifest and half of the index"])
def test_a_whole_index_that_is_newer_than_all_manifests_may_have_lost_its_own(made: Made, left: str) -> None:
    last = made.refs[-1]
    gone = {manifest_key(last), *((files_key(last),) if "half" in left else ())}
    objects = {key: each for key, each in made.contents.objects.items() if key not in gone}
    contents = Contents("main", Clock(datetime.now(UTC) + timedelta(days=30)), dict(objects))
    result = prune(Repository.open(MemoryStore(contents)), Keep(last=10))
    if "half" in left:  # a run that died: it goes
        assert result.problems == []
        assert not any(last.id in key for key in contents.objects)
        return
    (problem,) = result.problems
    assert problem.startswith(f"{manifest_key(last)} is missing, and its index is there")
    assert contents.objects == objects
    ours = prune_volume(
        Repository.open(MemoryStore(contents)),
        "host",
        "vol",
        keep=lambda _: Keep(last=10),
        grace=Within("7d"),
        cache=None,
        dry_run=False,
        unfinished=lambda ref: ref == last,
    )
    assert ours.problems == []
    assert not any(last.id in key for key in contents.objects)


@pytest.mark.parametrize("part", ["manifests", "manifests/host", "manifests/host/vol"])
@pytest.mark.parametrize("how", ["gone", "a file"])
def test_prune_deletes_nothing_where_the_directory_of_manifests_is_gone(
    tmp_path: Path, volume: LocalVolume, part: str, how: str
) -> None:
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    refs = [each.ref for each in backups(volume, repository, 2)]
    for path in [*(tmp_path / "store").rglob("*.zst"), *(tmp_path / "store").rglob("*.json")]:
        os.utime(path, (0, 0))
    objects = {info.key for info in repository.store.list("")}
    (tmp_path / "store" / part).rename(tmp_path / "aside")

    def prune_at_once() -> Pruning:
        return prune_volume(
            repository,
            "host",
            "vol",
            keep=lambda _: Keep(last=1),
            grace=Within("0h"),
            cache=None,
            dry_run=False,
        )

    if how == "gone":
        assert len(prune_at_once().problems) == 1
    else:
        (tmp_path / "store" / part).touch()
        with pytest.raises(
            StoreError, match=r"^cannot list manifests/host/vol in the store .*: not a directory$"
        ):
            prune_at_once()
        with pytest.raises(StoreError, match=r"^cannot list manifests/host/vol "):
            volume.back_up(repository)
        (tmp_path / "store" / part).unlink()
    (tmp_path / "aside").rename(tmp_path / "store" / part)
    assert {info.key for info in repository.store.list("")} == objects
    assert list(repository.refs()) == refs


def test_a_copy_deletes_nothing_that_a_backup_there_needs_which_one_list_leaves_out(
    made: Made, repository: Repository
) -> None:
    source, refs = made.contents, made.refs
    there = Contents("replica", Clock(datetime.now(UTC) + timedelta(days=30)), dict(source.objects))
    deleted = []
    store = ShortLists(there, [{manifest_key(ref) for ref in refs}])
    store.step = lambda what: deleted.append(what) if what.startswith("delete") else None
    result = copy_volume(
        Repository.open(MemoryStore(source)), Repository.open(store), "host", "vol", keep=lambda _: Keep(last=4),
        source_cache=None, target_cache=None, observer=Silent(),
    )  # fmt: skip
    assert (result.there, result.copied, result.sent_bytes, deleted) == (4, [], 0, [])


@pytest.mark.parametrize("short", [1, 2])
def test_forget_lets_the_newest_stay_also_where_a_list_leaves_it_out(
    tmp_path: Path, volume: LocalVolume, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    config = Config(store=str(tmp_path / "store"), state_dir=tmp_path / "machine", host="host")
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    older, newest = (each.ref for each in backups(volume, repository, 2))
    monkeypatch.setattr(Session, "load", lambda **_: Session(config))
    list_all = LocalStore.list
    calls = 0

    def listed(store: LocalStore, prefix: str) -> Iterator[ObjectInfo]:
        nonlocal calls
        calls += prefix.startswith("manifests/")
        for info in list_all(store, prefix):
            if calls != short + 1 or info.key not in {manifest_key(newest), manifest_key(older)}:
                yield info

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "list", listed)
        with pytest.raises(UsageError, match="is the newest backup of its volume, which always stays"):
            forget([f"vol@{newest.id}"])
        calls = 0
        if short == 1:  # nothing newer is seen
            with pytest.raises(UsageError, match="is the newest backup of its volume"):
                forget([f"vol@{older.id}"])
        else:
            with pytest.raises(StoreError, match=r"comes and goes in .*: nothing is forgotten; run it again"):
                forget([f"vol@{older.id}"])
    assert list(repository.refs()) == [older, newest]
    assert forget([f"vol@{older.id}"]) == 0
    assert list(repository.refs()) == [newest]


def test_manifests_that_somebody_made_up_for_days_to_come_let_no_backup_go(
    repository: Repository, volume: LocalVolume
) -> None:
    made = [each.ref for each in backups(volume, repository, 3)]
    now = datetime.now(UTC)
    for days in range(1, 4):
        backup_id = f"{now + timedelta(seconds=10 + days):%Y%m%dT%H%M%SZ}-abcde{days}"
        document = repository.manifest(made[0]).document
        document |= {"id": backup_id, "started_at": (now + timedelta(days=days)).isoformat()}
        put(repository.store, manifest_key(BackupRef("host", "vol", backup_id)), seal(document))
    result = prune(repository, Keep(daily=3))
    assert made[-1] in set(repository.refs())
    assert len(result.problems) == 3
    assert all(problem.endswith("it began after the time of its id") for problem in result.problems)
    assert result.packs == []


def test_labels_that_keep_less_than_at_the_last_prune_are_told_a_day_before(
    tmp_path: Path, volume: LocalVolume, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(store=str(tmp_path / "store"), state_dir=volume.state, host="host")
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    monkeypatch.setattr(Session, "load", lambda **_: Session(config))
    volume.labels = {"volferry.keep.last": "3"}
    made = [each.ref for each in backups(volume, repository, 2)]
    assert prune_command([]) == 0
    assert "labels keep less" not in capsys.readouterr().err

    volume.labels = {"volferry.keep.last": "1"}
    made += [each.ref for each in backups(volume, repository, 1)]
    for _ in range(2):
        assert prune_command([], json=True) == 0
        said = capsys.readouterr()
        assert (
            "vol: labels keep less than before (last 3 is now 1): what the older policy keeps stays until"
            in said.err
        )
        assert "labels keep less" in json.loads(said.out)["volumes"][0]["less"]
        assert list(repository.refs()) == made

    policy = volume.place(repository) / "policy.json"
    noted = json.loads(policy.read_text())
    a_day_ago = datetime.fromisoformat(noted["since"]) - timedelta(days=1)
    policy.write_text(json.dumps({**noted, "since": a_day_ago.isoformat()}))
    assert prune_command([], dry_run=True) == 0
    assert list(repository.refs()) == made
    assert prune_command([]) == 0
    assert list(repository.refs()) == made[-1:]
    assert "labels keep less" not in capsys.readouterr().err


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RecordedStore:
    """The store of all commands, with something of a thousand volumes."""
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    for kind in ("packs", "indexes", "manifests", "damaged"):
        put(repository.store, f"{kind}/host/only {kind}/x".replace(" ", "%20"), b"x")
    store = RecordedStore(repository.store)
    found = Repository(store, repository.id)
    monkeypatch.setattr(Session, "repository", found)
    monkeypatch.setattr(Session, "store", store)
    return store


@pytest.mark.parametrize("kind", ["packs", "indexes", "manifests", "damaged"])
def test_prune_of_a_volume_lists_nothing_of_others(
    recorded: RecordedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("VOLFERRY_STATE_DIR", str(tmp_path / "state"))
    prune_command([f"only {kind}"], host="host", json=True)
    listed = {call.key for call in recorded.of("list")}
    assert listed
    assert all(key.endswith(f"/host/only%20{kind}/") for key in listed)
    with pytest.raises(UsageError, match="did you mean 'only packs'"):
        prune_command(["only pack"], host="host")


def test_a_volume_is_stored_if_there_is_anything_of_it(recorded: RecordedStore) -> None:
    repository = Repository(recorded, "id")
    there = stored_volumes(repository, "host")
    assert there == stored_volumes(repository)
    assert [volume for _, volume in there] == ["only damaged", "only indexes", "only manifests", "only packs"]
    assert all(is_stored(repository, *each) for each in there)
    assert not is_stored(repository, "host", "only")
    assert not is_stored(repository, "other", "only packs")
