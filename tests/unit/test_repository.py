from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_manifest import DOCUMENT
from volferry.archive.manifest import FORMAT_VERSION, Manifest
from volferry.archive.sealed import seal, unseal
from volferry.checked import value_of
from volferry.errors import (
    AmbiguousBackup,
    DamagedObject,
    NewerFormat,
    NoSuchBackup,
    NoSuchObject,
    NoSuchStore,
    ObjectExists,
    StoreError,
    UsageError,
)
from volferry.layout import (
    BackupName,
    encode_name,
    files_key,
    frames_key,
    manifest_key,
    pack_key,
    parse_backup_name,
)
from volferry.model import BackupRef
from volferry.repository import MARKER_KEY, Repository
from volferry.stores.base import get, put, validate_key
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.stores.base import Store

IDS = [
    "20260101T000000Z-aaaaaa",
    "20260102T000000Z-bbbbbb",
    "20260102T030405Z-bbbbbc",
    "20270101T000000Z-0a1b2c",
]

some_names = st.text(min_size=1, max_size=40)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def repository(store: LocalStore) -> Repository:
    return Repository.open_or_create(store)[0]


def manifest_of(ref: BackupRef) -> Manifest:
    document = {
        **DOCUMENT,
        "id": ref.id,
        "started_at": ref.time.isoformat(),
        "host": ref.host,
        "volume": {**DOCUMENT["volume"], "name": ref.volume},
    }
    return value_of(document, Manifest)


def with_backups(repository: Repository, *backups: tuple[str, str, str]) -> list[BackupRef]:
    refs = [BackupRef(*backup) for backup in backups]
    for ref in refs:
        repository.writer(ref).put_manifest(manifest_of(ref))
    return refs


@given(some_names.filter(lambda name: len(quote(name, safe="")) <= 218))
def test_a_name_is_one_valid_segment_of_a_key_that_gives_it_back(name: str) -> None:
    encoded = encode_name(name)
    assert validate_key(encoded) == encoded
    assert "/" not in encoded
    assert unquote(encoded) == name


@pytest.mark.parametrize(
    "name", [".", "..", "...", ".hidden", "a/b", "/", "é", "%2E", "%", " ", "a b", "\n", "~", "tmp"]
)
def test_odd_names_get_keys_within_the_store(name: str) -> None:
    ref = BackupRef(name, name, IDS[0])
    for key in (manifest_key(ref), frames_key(ref), files_key(ref), pack_key(ref, f"{IDS[0]}.0000")):
        assert validate_key(key) == key
        assert key.count("/") == 3
        assert ".." not in key.split("/")
        assert unquote(key.split("/")[1]) == unquote(key.split("/")[2]) == name


@pytest.mark.parametrize("name", [".", "..", "a/b", "é", "%2E", "tmp", "two words"])
def test_backups_of_odd_names_are_found_again(repository: Repository, name: str) -> None:
    (ref,) = with_backups(repository, (name, name, IDS[0]))
    assert list(repository.refs()) == list(repository.refs(host=name, volume=name)) == [ref]
    assert repository.hosts() == [name]
    assert repository.resolve(BackupName(None, name, None), host=name) == ref
    assert repository.manifest(ref) == manifest_of(ref)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vol", BackupName(None, "vol", None)),
        ("vol@2026", BackupName(None, "vol", "2026")),
        (f"vol@{IDS[0]}", BackupName(None, "vol", IDS[0])),
        ("host/vol", BackupName("host", "vol", None)),
        ("host/vol@aaaaaa", BackupName("host", "vol", "aaaaaa")),
        ("me@home/vol@2026", BackupName("me@home", "vol", "2026")),
        ("me@home/vol", BackupName("me@home", "vol", None)),
        ("rack/host/vol", BackupName("rack/host", "vol", None)),
        ("host.example.org/my_vol.1", BackupName("host.example.org", "my_vol.1", None)),
    ],
)
def test_the_name_of_a_backup_is_understood(text: str, name: BackupName) -> None:
    assert parse_backup_name(text) == name


@pytest.mark.parametrize("text", ["", "@", "/", "vol@", "@2026", "/vol", "host/", "host/@2026", "host/vol@"])
def test_what_names_no_backup_is_refused_with_how_to_name_one(text: str) -> None:
    with pytest.raises(UsageError, match=r"use VOLUME, VOLUME@ID or HOST/VOLUME@ID$"):
        parse_backup_name(text)


@given(some_names, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]+", fullmatch=True), st.sampled_from(IDS))
def test_a_backup_can_be_named_as_it_is_printed(host: str, volume: str, backup_id: str) -> None:
    assert parse_backup_name(str(BackupRef(host, volume, backup_id))) == BackupName(host, volume, backup_id)


@pytest.mark.parametrize(
    ("id_start", "found"),
    [
        (None, IDS[3]),
        ("2027", IDS[3]),
        ("20260101", IDS[0]),
        ("20260102T03", IDS[2]),
        (IDS[1], IDS[1]),
        ("bbbbbb", IDS[1]),
        ("0a1b2c", IDS[3]),
    ],
)
def test_a_name_means_the_newest_or_the_one_with_that_beginning_or_end(
    repository: Repository, id_start: str | None, found: str
) -> None:
    with_backups(
        repository,
        *(("here", "vol", each) for each in reversed(IDS)),
        ("here", "other", "20280101T000000Z-ffffff"),
    )
    assert repository.resolve(BackupName(None, "vol", id_start), host="here") == BackupRef(
        "here", "vol", found
    )


@pytest.mark.parametrize("id_start", ["2026", "20260102", "2"])
def test_a_name_that_fits_several_is_ambiguous(repository: Repository, id_start: str) -> None:
    with_backups(repository, *(("here", "vol", each) for each in IDS))
    with pytest.raises(
        AmbiguousBackup,
        match=rf"'{id_start}' fits \d backups of 'vol': give more of it; `volferry list vol` shows",
    ):
        repository.resolve(BackupName(None, "vol", id_start), host="here")


@pytest.mark.parametrize("id_start", ["2025", "bbbbb", "cccccc", "20260101T000000Z-aaaaaa-", "Z"])
def test_a_name_that_fits_none_says_which_is_the_newest(repository: Repository, id_start: str) -> None:
    with_backups(repository, *(("here", "vol", each) for each in IDS))
    with pytest.raises(NoSuchBackup, match=f"has no backup '{id_start}' .*its newest is {IDS[3]}"):
        repository.resolve(BackupName(None, "vol", id_start), host="here")


def test_a_mistyped_volume_is_told_which_one_was_meant(repository: Repository) -> None:
    with_backups(repository, ("here", "pgdata", IDS[0]), ("there", "pgdat", IDS[1]))
    with pytest.raises(NoSuchBackup, match=r"no backup of volume 'pgdta' .*: did you mean 'pgdata'[?]"):
        repository.resolve(BackupName(None, "pgdta", None), host="here")
    with pytest.raises(NoSuchBackup, match="`volferry list` shows what there is"):
        repository.resolve(BackupName(None, "mail", None), host="here")


def test_backups_of_other_hosts_are_pointed_at_but_never_taken(repository: Repository) -> None:
    with_backups(repository, ("there", "vol", IDS[0]), ("yonder", "vol", IDS[1]), ("here", "volume", IDS[2]))
    with pytest.raises(
        NoSuchBackup, match=r"from host 'here' .*there are some from there, yonder: use there/vol$"
    ):
        repository.resolve(BackupName(None, "vol", None), host="here")
    assert repository.resolve(BackupName("yonder", "vol", None), host="here").host == "yonder"


def test_a_volume_without_any_backup_is_said_to_have_none(repository: Repository) -> None:
    with pytest.raises(NoSuchBackup, match=r"no backup of volume 'vol' from host 'here' in .*volferry list"):
        repository.resolve(BackupName(None, "vol", None), host="here")


def test_backups_are_in_the_order_of_host_volume_and_time(repository: Repository) -> None:
    hosts, volumes = ["a", "a-b", "a.b", "ab", ".a"], ["v", "v-1", "v.1", "v1"]
    refs = with_backups(repository, *itertools.product(reversed(hosts), reversed(volumes), reversed(IDS[:2])))
    assert list(repository.refs()) == sorted(refs, key=lambda ref: (ref.host, ref.volume, ref.id))
    assert list(repository.refs(host="a")) == [ref for ref in repository.refs() if ref.host == "a"]
    assert list(repository.refs(volume="v")) == [ref for ref in repository.refs() if ref.volume == "v"]


def test_what_is_no_manifest_by_its_key_is_no_backup(repository: Repository) -> None:
    for key in (
        "manifests/here/vol/readme.json",
        f"manifests/here/{IDS[0]}.json",
        f"manifests/here/vol/{IDS[0]}.txt",
    ):
        put(repository.store, key, b"x")
    assert list(repository.refs()) == []


def test_a_manifest_in_the_place_of_another_is_damage(repository: Repository) -> None:
    (ref,) = with_backups(repository, ("here", "vol", IDS[0]))
    elsewhere = BackupRef("here", "other", IDS[0])
    put(repository.store, manifest_key(elsewhere), get(repository.store, manifest_key(ref)))
    with pytest.raises(DamagedObject, match=f"it is the manifest of here/vol@{IDS[0]}"):
        repository.manifest(elsewhere)


def test_a_new_store_is_made_once_and_opened_after_that(store: LocalStore) -> None:
    first, made = Repository.open_or_create(store)
    again, made_again = Repository.open_or_create(store)
    assert (made, made_again) == (True, False)
    assert first.id == again.id == Repository.open(store).id
    assert unseal(get(store, MARKER_KEY)) == {"format": FORMAT_VERSION, "store_id": first.id}


def test_opening_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoSuchStore, match=rf"^there is no volferry store at {tmp_path}/store: "):
        Repository.open(LocalStore(tmp_path / "store"))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_other_things_is_no_place_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(
        StoreError, match=r"not a volferry store \(it holds 'holiday.jpg'\): choose another place"
    ):
        Repository.open_or_create(LocalStore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        (b"", DamagedObject),
        (b"{}", DamagedObject),
        (seal({"format": FORMAT_VERSION}), DamagedObject),
        (seal({"format": FORMAT_VERSION, "store_id": "x"}).replace(b"x", b"y"), DamagedObject),
        (seal({"format": FORMAT_VERSION, "store_id": "../../../etc"}), DamagedObject),
        (seal({"format": FORMAT_VERSION, "store_id": "/etc"}), DamagedObject),
        (seal({"format": FORMAT_VERSION, "store_id": 5}), DamagedObject),
        (seal({"format": FORMAT_VERSION + 1, "anything": "else"}), NewerFormat),
    ],
)
def test_a_store_whose_marker_cannot_be_used_is_refused(
    store: LocalStore, marker: bytes, error: type[Exception]
) -> None:
    put(store, MARKER_KEY, marker)
    with pytest.raises(error, match=rf"^{MARKER_KEY} "):
        Repository.open(store)
    with pytest.raises(error, match=rf"^{MARKER_KEY} "):
        Repository.open_or_create(store)


class Racing:
    """A store into which another process puts a marker just before we do."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        if name == "create":
            put(
                self._store,
                MARKER_KEY,
                seal({"format": FORMAT_VERSION, "store_id": "12345678-1234-1234-1234-123456789abc"}),
            )
        return getattr(self._store, name)


def test_of_two_that_make_a_store_at_once_both_use_the_same(store: LocalStore) -> None:
    repository, made = Repository.open_or_create(Racing(store))  # type: ignore[arg-type]
    assert (repository.id, made) == ("12345678-1234-1234-1234-123456789abc", False)


def written(repository: Repository, ref: BackupRef, spool: Path) -> Manifest:
    """A backup of one pack of 900 bytes and two index objects of 50, as the manifest says."""
    writer = repository.writer(ref)
    pack = writer.open_pack(DOCUMENT["packs"][0]["name"])
    pack.write(bytes(900))
    pack.commit()
    for name in ("frames", "files"):
        (spool / name).write_bytes(bytes(50))
    writer.put_index(spool / "frames", spool / "files")
    manifest = manifest_of(ref)
    writer.put_manifest(manifest)
    return manifest


def test_a_backup_whose_objects_are_all_there_is_whole(repository: Repository, tmp_path: Path) -> None:
    ref = BackupRef("here", "vol", IDS[0])
    repository.check_objects(ref, written(repository, ref, tmp_path))
    assert b"".join(repository.blocks(frames_key(ref))) == bytes(50)


@pytest.mark.parametrize(
    "which", [frames_key, files_key, lambda ref: pack_key(ref, DOCUMENT["packs"][0]["name"])]
)
def test_an_object_that_is_missing_or_has_another_size_is_named(
    repository: Repository, tmp_path: Path, which: object
) -> None:
    assert callable(which)
    ref = BackupRef("here", "vol", IDS[0])
    manifest = written(repository, ref, tmp_path)
    key = which(ref)
    repository.store.delete(key)
    with pytest.raises(NoSuchObject, match=key):
        repository.check_objects(ref, manifest)
    put(repository.store, key, b"short")
    with pytest.raises(DamagedObject, match=rf"^{key} is damaged: it has 5 bytes instead of "):
        repository.check_objects(ref, manifest)


def test_a_discarded_backup_leaves_nothing(repository: Repository, tmp_path: Path) -> None:
    kept = BackupRef("here", "vol", IDS[0])
    written(repository, kept, tmp_path)
    before = [info.key for info in repository.store.list("")]
    writer = repository.writer(BackupRef("here", "vol", IDS[1]))
    pack = writer.open_pack(f"{IDS[1]}.0000")
    pack.write(b"x")
    pack.commit()
    open_pack = writer.open_pack(f"{IDS[1]}.0001")
    open_pack.write(b"x")
    open_pack.abort()
    writer.put_index(tmp_path / "frames", tmp_path / "files")
    writer.discard(but_packs=False)
    assert [info.key for info in repository.store.list("")] == before


def test_a_backup_is_never_written_over_another(repository: Repository, tmp_path: Path) -> None:
    ref = BackupRef("here", "vol", IDS[0])
    manifest = written(repository, ref, tmp_path)
    with pytest.raises(ObjectExists):
        repository.writer(ref).put_manifest(manifest)
