"""What verify finds damaged is known to everybody, never built upon, and stored anew by the next backup."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts.cli import Cli
from tests.parts.local_helper import LocalVolume
from volferry.archive.sealed import seal
from volferry.cli.daemon_endings import afterwards
from volferry.damage import Condition, found_damaged, mark_key, marked_object, says_damaged
from volferry.errors import ObjectLocked, StoreError
from volferry.layout import files_key, frames_key, manifest_key, pack_key
from volferry.model import BackupRef, ObjectInfo
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.copy import copy_volume
from volferry.operations.prune import prune_volume
from volferry.operations.stored_volumes import stored_volumes
from volferry.operations.verify import Verifier
from volferry.repository import Repository
from volferry.retention import Keep, Within
from volferry.stores.base import put
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.operations.verify import Verified
    from volferry.stores.base import ObjectWriter


@dataclass
class Lab:
    directory: Path
    repository: Repository
    volume: LocalVolume
    problems: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.directory / "store"

    def back_up(self, **settings: Any) -> BackupRef:
        self.volume.settings = settings
        return self.volume.back_up(self.repository).ref

    def packs(self, ref: BackupRef, place: str = "store") -> list[Path]:
        return [
            self.directory / place / pack_key(ref, pack.name) for pack in self.repository.manifest(ref).packs
        ]

    def verify(self, ref: BackupRef, repository: Repository | None = None) -> Verified:
        """As `verify --read` does."""
        verifier = Verifier(repository or self.repository, read=True, spool=self.directory, observer=Silent())
        found = verifier.verify(ref)
        if problem := verifier.remember(found, by="here"):
            self.problems.append(problem)
        return found

    def marks(self, place: str = "store") -> list[str]:
        return sorted(path.name for path in (self.directory / place / "damaged").rglob("*.json"))

    def prune(self, repository: Repository | None = None, *, last: int = 0) -> None:
        prune_volume(
            repository or self.repository,
            "host",
            "vol",
            keep=lambda _: Keep(last=last),
            grace=Within("0h"),
            cache=None,
            dry_run=False,
        )

    def replica(self) -> Repository:
        """With all backups."""
        target, _ = Repository.open_or_create(LocalStore(self.directory / "replica"))
        result = copy_volume(
            self.repository, target, "host", "vol", keep=lambda _: Keep(), source_cache=None, target_cache=None,
            observer=Silent(),
        )  # fmt: skip
        self.problems += result.failed.values()
        return target

    @property
    def cli(self) -> Cli:
        """No engine is needed where a host is named."""
        return Cli("unix:///nowhere", self.store, self.directory / "state", self.directory)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        (data / f"noise{number}").write_bytes(os.urandom(2 << 20))
    (data / "file").write_text("content")
    for path in (data, *data.iterdir()):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    return Lab(tmp_path, repository, LocalVolume(data, tmp_path / "state", pack_bytes=1 << 20))


def flip(path: Path) -> None:
    """As a disk does it: no time is changed."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("settings", [{}, {"full": True}], ids=["next", "full"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "another machine"])
def test_the_next_backup_leaves_a_damaged_pack_behind_and_is_whole(
    lab: Lab, settings: dict[str, Any], elsewhere: bool
) -> None:
    first = lab.back_up()
    hurt = lab.packs(first)[1]
    flip(hurt)
    found = lab.verify(first)
    assert any(hurt.name in finding for finding in found.findings)
    assert [mark.startswith(f"{hurt.name}.") for mark in lab.marks()] == [True]
    if elsewhere:
        lab.volume.state = lab.directory / "another state"
    second = lab.back_up(**settings)
    assert hurt not in lab.packs(second)
    assert lab.verify(second).findings == ()
    assert lab.packs(second) != lab.packs(first)
    third = lab.back_up()
    assert hurt not in lab.packs(third)
    assert lab.verify(third).findings == ()
    assert lab.problems == []


def test_an_export_that_meets_damage_says_what_to_do(lab: Lab) -> None:
    first = lab.back_up()
    hurt = lab.packs(first)[0]
    flip(hurt)
    out = str(lab.directory / "out.tar")
    done = lab.cli("export", str(first), "-o", out).fails_with(hurt.name, " is damaged: ")
    assert f"`volferry verify --read {first}` marks it, and the next backup reads anew" in done.stderr
    found = lab.cli("verify", "--read", str(first), "--host", first.host).exits(1)
    assert "marks it" not in found.stdout + found.stderr
    assert lab.marks()


def test_show_says_that_a_backup_is_not_whole(lab: Lab) -> None:
    first = lab.back_up()
    hurt, lost = lab.packs(first)[:2]
    name = f"{first.host}/{first.volume}"
    shown = lab.cli("show", name).exits(0).stdout
    assert "Whole" not in shown
    assert re.search(r"^Stood still +no$", shown, re.MULTILINE)
    flip(hurt)
    lab.verify(first)
    damaged = lab.cli("show", name).fails_with(hurt.name, "cannot be restored as a whole").stdout
    assert re.search(
        rf"^Whole +no: packs/\S+/{hurt.name} is damaged: verify found it so$", damaged, re.MULTILINE
    )
    lost.unlink()
    hurt.unlink()
    missing = lab.cli("show", name).fails_with(hurt.name).stdout
    assert re.search(rf"^Whole +no: packs/\S+/{hurt.name} is missing \(and 1 more\)$", missing, re.MULTILINE)
    assert lab.cli("show", name, "--json").fails_with(hurt.name).json["id"] == first.id


def test_next_steps_name_the_store_that_was_given(lab: Lab) -> None:
    first = lab.back_up()
    lab.packs(first)[0].unlink()
    name = f"{first.host}/{first.volume}"
    assert "`volferry backup vol` on host" in lab.cli("show", name).exits(1).stderr
    for command in (("show", name), ("list", "--host", "host"), ("prune", "--host", "host")):
        done = lab.cli(*command, "--store", str(lab.store))
        assert f"`volferry backup vol --store {lab.store}` on host" in done.stderr, done.story


def test_status_says_that_a_manifest_is_damaged(lab: Lab) -> None:
    first = lab.back_up()
    assert "cannot be restored" not in lab.cli("status", "--host", "host").stderr
    (manifest,) = (lab.store / "manifests" / "host" / "vol").iterdir()
    manifest.write_bytes(manifest.read_bytes()[:10])
    done = lab.cli("status", "--host", "host", "--json")
    assert done.code == 1
    assert (
        f"{first} cannot be restored as a whole: manifests/host/vol/{first.id}.json is damaged" in done.stderr
    )
    (volume,) = done.json["volumes"]
    assert [each["id"] for each in volume["not_whole"]] == [first.id]
    step = lab.cli("verify", "--host", "host", "vol", "--store", str(lab.store)).stderr
    assert f"--to STORE --store {lab.store}" not in step


def test_prune_without_a_policy_says_that_all_stay(lab: Lab) -> None:
    lab.back_up()
    assert "nothing says which backups of vol to forget" in lab.cli("prune", "--host", "host").exits(0).stdout


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (1, "1 pack of the newest backup is damaged or missing ({})"),
        (2, "2 packs of the newest backup are damaged or missing ({} …)"),
    ],
)
def test_the_next_backup_says_which_packs_it_cannot_build_upon(lab: Lab, lost: int, said: str) -> None:
    first = lab.back_up()
    for pack in lab.packs(first)[:lost]:
        pack.unlink()
    lab.back_up()
    name = lab.packs(first)[0].name.removesuffix(".tar.zst")
    assert f"{said.format(name)}: read again" in lab.volume.notes


def test_without_a_mark_it_would_have_been_built_upon(lab: Lab) -> None:
    first = lab.back_up()
    os.utime(lab.volume.data / "file", (1_600_000_000, 1_600_000_000))
    flip(lab.packs(first)[0])
    second = lab.back_up(full=True)
    assert lab.packs(first)[0] in lab.packs(second)


def test_what_was_found_damaged_is_hurt_for_a_verify_that_reads_nothing(lab: Lab) -> None:
    first = lab.back_up()
    options = ("--host", "host")
    flip(lab.packs(first)[0])
    lab.cli("verify", *options).exits(0)  # nobody has read it
    lab.cli("verify", "--read", *options).exits(1)
    said = lab.cli("verify", *options).exits(1)
    assert f"HURT  {first}" in said.stdout
    assert "is damaged: verify found it so" in said.stderr
    assert "makes a whole one" in said.stderr
    assert lab.marks()
    flip(lab.packs(first)[0])
    lab.cli("verify", "--read", *options).exits(0)
    lab.cli("verify", *options).exits(0)


def test_a_missing_pack_needs_no_mark(lab: Lab) -> None:
    first = lab.back_up()
    lab.packs(first)[1].unlink()
    assert lab.verify(first).findings
    assert lab.marks() == []
    assert lab.verify(lab.back_up()).findings == ()


def test_what_an_interrupted_run_had_stored_is_not_gone_on_from_once_it_is_known_to_be_damaged(
    lab: Lab,
) -> None:
    first = lab.back_up()
    (lab.volume.data / "more").write_bytes(os.urandom(3 << 20))

    class Dies:
        def __init__(self, store: LocalStore) -> None:
            self._store = store

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

        def create(self, key: str) -> object:
            if key.startswith("indexes/"):
                raise StoreError("the network is gone")
            return self._store.create(key)

    whole = lab.repository.store
    lab.repository.store = Dies(whole)  # type: ignore[assignment, arg-type]
    with pytest.raises(StoreError):
        lab.back_up()
    lab.repository.store = whole
    assert list((lab.volume.place(lab.repository) / "checkpoints").iterdir())
    hurt = lab.packs(first)[0]
    flip(hurt)
    lab.verify(first)
    second = lab.back_up()
    assert hurt not in lab.packs(second)
    assert lab.verify(second).findings == ()


@pytest.mark.parametrize("kind", ["files", "frames"])
def test_nothing_is_built_upon_an_index_that_was_found_wrong(lab: Lab, kind: str) -> None:
    first = lab.back_up()
    key = files_key(first) if kind == "files" else frames_key(first)
    flip(lab.store / key)  # a copy of it is in the state directory, and good
    assert lab.verify(first).findings
    assert len(lab.marks()) == 1
    second = lab.back_up()
    manifest = lab.repository.manifest(second)
    assert manifest.base is None
    assert not set(lab.packs(first)) & set(lab.packs(second))
    assert lab.verify(second).findings == ()


def test_what_is_good_again_is_not_marked_any_longer(lab: Lab) -> None:
    first = lab.back_up()
    hurt = lab.packs(first)[0]
    flip(hurt)
    lab.verify(first)
    assert lab.marks()
    flip(hurt)
    assert lab.verify(first).findings == ()
    assert lab.marks() == []


def test_a_mark_goes_with_its_pack_and_not_before(lab: Lab) -> None:
    first = lab.back_up()
    hurt = lab.packs(first)[1]
    flip(hurt)
    lab.verify(first)
    second = lab.back_up()
    lab.prune()
    assert len(lab.marks()) == 1
    lab.prune(last=1)
    assert not hurt.exists()
    assert lab.marks() == []
    assert lab.verify(second).findings == ()
    assert stored_volumes(lab.repository, "host") == [("host", "vol")]


NEXT_BACKUP = "`volferry backup vol` on host makes a whole one of what the volume still has"
LOOKS = (
    ("list",),
    ("status",),
    ("show", "{ref}"),
    ("prune",),
    ("verify", "{ref}"),
    ("verify", "--share"),
    ("restore", "{ref}", "--to", "{directory}/target"),
    ("export", "{ref}", "-o", "{directory}/out.tar"),
)


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_whoever_hears_of_damage_hears_of_the_next_step(lab: Lab, command: tuple[str, ...]) -> None:
    first = lab.back_up()
    lab.packs(first)[1].unlink()
    typed = [word.format(ref=first, directory=lab.directory) for word in command] + ["--host", "host"]
    hurt = lab.cli(*typed).exits(1, 3)
    assert NEXT_BACKUP in hurt.stderr
    second = lab.back_up()
    healed = lab.cli(*typed).exits(1, 3).stderr
    assert NEXT_BACKUP not in healed
    assert f"{second.id} is newer, and whole" in healed or "`volferry verify host/vol` says" in healed
    lab.cli("list", "--host", "host").exits(1)
    (lab.store / "packs").rename(lab.store / "lost")
    lost = lab.cli(*typed).exits(1, 3).stderr
    assert NEXT_BACKUP in lost or "`volferry verify host/vol` says" in lost


def test_the_next_step_for_a_damaged_manifest_depends_on_whether_there_is_a_newer_one(lab: Lab) -> None:
    first = lab.back_up()
    flip(lab.store / manifest_key(first))
    lab.cli("list", "--host", "host").fails_with(
        "is damaged", ": put it back", "`volferry backup vol` on host"
    )
    lab.back_up()
    lab.cli("list", "--host", "host").fails_with("is damaged", f"or `volferry forget {first}`")
    lab.cli("forget", str(first), "--host", "host").exits(0)
    assert lab.cli("list", "--host", "host").exits(0).complaints == []


def test_prune_speaks_of_the_damage_of_what_stays_and_not_of_what_it_has_just_forgotten(lab: Lab) -> None:
    first = lab.back_up()
    (lab.volume.data / "more").write_bytes(os.urandom(2 << 20))
    second = lab.back_up()
    lab.packs(second)[-1].unlink()
    flip(lab.packs(first)[1])
    lab.verify(first)
    config = lab.directory / "volferry.toml"
    config.write_text("[defaults.keep]\nlast = 1\n")
    options = ("--host", "host", "--config", str(config))
    stays = lab.cli("prune", "--dry-run", *options).exits(3)
    assert [str(ref) in stays.stderr for ref in (first, second)] == [True, True]
    healed = lab.back_up()
    assert lab.cli("prune", "--dry-run", *options).exits(0).complaints == []
    pruned = lab.cli("prune", "--json", *options).exits(0)
    (document,) = pruned.json["volumes"]
    assert document["forgotten"] == [first.id, second.id]
    assert (document["hollow"], document["damaged"]) == ([], [])
    assert pruned.complaints == []
    assert lab.verify(healed).findings == ()


def test_a_copy_mends_what_is_damaged_and_carries_no_mark(lab: Lab) -> None:
    first = lab.back_up()
    replica = lab.replica()
    hurt = lab.packs(first, "replica")[1]
    flip(hurt)
    os.utime(hurt, (1_600_000_000, 1_600_000_000))
    assert lab.verify(first, replica).findings
    assert len(lab.marks("replica")) == 1
    lab.replica()
    assert lab.verify(first, replica).findings == ()
    assert Condition.of(replica, "host", "vol").marks == {}
    lab.prune(replica)
    assert lab.marks("replica") == []
    flip(lab.packs(first)[0])
    lab.verify(first)
    assert lab.marks()
    lab.replica()
    assert lab.marks("replica") == []
    assert lab.verify(first, replica).findings == ()
    assert lab.problems == []


def test_a_copy_of_one_backup_counts_that_one_alone_and_the_daemon_logs_what_was_copied_and_pruned(
    lab: Lab,
) -> None:
    backups = [lab.back_up() for _ in range(4)]
    flip(lab.store / manifest_key(backups[0]))
    replica = str(lab.directory / "replica")
    copied = lab.cli("copy", str(backups[2]), "--to", replica, "--host", "host", "--json").exits(0).json
    assert (copied["failed"], [each["left_out"] for each in copied["copied"]]) == ([], [0])
    (line,) = afterwards(copied)
    assert line[0] == "backups were copied"
    assert (line[1]["store"], line[1]["backups"], line[1]["sent_bytes"] > 0) == (replica, 1, True)
    again = lab.cli("copy", str(backups[2]), "--to", replica, "--host", "host", "--json").exits(0).json
    assert list(afterwards(again)) == []
    flip(lab.store / manifest_key(backups[0]))
    config = lab.directory / "volferry.toml"
    config.write_text("[defaults.keep]\nlast = 1\n")
    options = ("--host", "host", "--config", str(config), "--json")
    assert [each[1]["forgotten"] for each in afterwards(lab.cli("prune", *options).exits(0).json)] == [3]
    assert list(afterwards(lab.cli("prune", *options).exits(0).json)) == []


def test_a_copy_from_a_store_with_the_same_damage_takes_nothing_away(lab: Lab) -> None:
    first = lab.back_up()
    replica = lab.replica()
    for place in ("store", "replica"):
        flip(lab.packs(first, place)[1])
    lab.verify(first, replica)
    lab.replica()
    assert lab.packs(first, "replica")[1].exists()
    assert [str(lab.packs(first)[1].name) in problem for problem in lab.problems] == [True]


def test_what_is_damaged_and_locked_in_a_copy_is_a_matter_of_its_backup_alone(lab: Lab) -> None:
    first = lab.back_up()
    replica = lab.replica()
    hurt = lab.packs(first, "replica")[0]
    flip(hurt)
    lab.verify(first, replica)
    (lab.volume.data / "noise0").write_bytes(os.urandom(2 << 20))
    (lab.volume.data / "noise1").write_bytes(os.urandom(2 << 20))
    (lab.volume.data / "noise2").write_bytes(os.urandom(2 << 20))
    (lab.volume.data / "file").write_bytes(b"other")
    os.utime(lab.volume.data, (1_800_000_000, 1_800_000_000))
    second = lab.back_up()
    assert lab.packs(first)[0] not in lab.packs(second)

    class Locked:
        def __init__(self, store: LocalStore) -> None:
            self._store = store

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

        def create(self, key: str, *, replaces: bool = False) -> ObjectWriter:
            if replaces:
                raise ObjectLocked(f"{key} is locked")
            return self._store.create(key)

        def delete(self, key: str) -> None:
            raise ObjectLocked(f"{key} is locked")

    replica.store = Locked(replica.store)  # type: ignore[assignment, arg-type]
    result = copy_volume(
        lab.repository, replica, "host", "vol", keep=lambda _: Keep(), source_cache=None, target_cache=None,
        observer=Silent(),
    )  # fmt: skip
    assert list(result.failed) == [str(first)]
    assert "cannot be mended yet" in result.failed[str(first)]
    assert result.copied == [second]


@pytest.mark.parametrize("verb", ["create", "delete"])
def test_a_store_that_cannot_be_written_is_one_note_and_no_reason_not_to_verify(lab: Lab, verb: str) -> None:
    first = lab.back_up()
    for pack in lab.packs(first)[:2]:
        flip(pack)
    if verb == "delete":
        lab.verify(first)
        for pack in lab.packs(first)[:2]:
            flip(pack)

    class ReadOnly:
        def __init__(self, store: LocalStore) -> None:
            self._store = store

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

        def create(self, key: str) -> object:
            raise StoreError(f"cannot write {key}: no permission")

        def delete(self, key: str) -> None:
            raise ObjectLocked(f"{key} is locked")

    lab.repository.store = ReadOnly(lab.repository.store)  # type: ignore[assignment, arg-type]
    found = lab.verify(first)
    assert bool(found.findings) == (verb == "create")
    assert len(lab.problems) == 1
    assert ("cannot be remembered" if verb == "create" else "is locked") in lab.problems[0]


def test_list_says_which_backups_are_not_whole_and_a_restore_of_one_ends_before_it_begins(lab: Lab) -> None:
    first = lab.back_up()
    (lab.volume.data / "more").write_bytes(os.urandom(2 << 20))
    second = lab.back_up()
    lab.cli("list", "--host", "host").exits(0)
    missing, hurt = lab.packs(second)[-1], lab.packs(first)[0]
    missing.unlink()
    flip(hurt)
    lab.cli("verify", "--host", "host", "--all", "--read").exits(1)
    listed = lab.cli("list", "--host", "host", "--json").exits(1)
    found = {each["id"]: each for each in listed.json["backups"]}
    assert len(listed.complaints) == 2
    assert [found[ref.id]["whole"] for ref in (first, second)] == [False, False]
    assert found[first.id]["missing"] == []
    assert found[first.id]["damaged"] == [str(hurt.relative_to(lab.store))]
    assert found[second.id]["missing"] == [str(missing.relative_to(lab.store))]
    table = lab.cli("list", "--host", "host").exits(1).stdout
    assert "NOT WHOLE" in table
    assert "1 missing, 1 damaged" in table
    target = lab.directory / "target"
    lab.cli("restore", f"host/{second.volume}@{second.id}", "--to", str(target)).fails_with(missing.name)
    lab.cli("restore", f"host/{first.volume}@{first.id}", "--to", str(target)).fails_with(hurt.name)
    assert not target.exists()
    # What does not need the pack is not kept from anybody.
    lab.cli("restore", f"host/{first.volume}@{first.id}", "file", "--to", str(target)).exits(0)
    assert (target / "file").read_text() == "content"
    # The next backup heals: it is whole, and the older ones still say that they are not.
    third = lab.back_up()
    found = {
        each["id"]: each for each in lab.cli("list", "--host", "host", "--json").exits(1).json["backups"]
    }
    assert [found[ref.id]["whole"] for ref in (first, second, third)] == [False, False, True]
    lab.cli("verify", "--host", "host", "--read").exits(0)
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(BackupReader(lab.repository, third, spool=lab.directory).tar_stream()))
    ) as tar:
        read = tar.extractfile("noise0")
        assert read is not None
        assert read.read() == (lab.volume.data / "noise0").read_bytes()


@given(st.sampled_from(["packs", "indexes"]), st.floats(1, 4e9), st.sampled_from(["h", "%2Ehost", "a.b"]))
def test_a_mark_names_the_object_and_when_it_was_written(kind: str, seconds: float, host: str) -> None:
    name = "20260101T000000Z-aaaaaa." + ("0000.tar.zst" if kind == "packs" else "files.zst")
    modified = datetime.fromtimestamp(seconds, UTC)
    key = f"{kind}/{host}/vol/{name}"
    info = ObjectInfo(key, 1, modified)
    mark = mark_key(info)
    assert marked_object(mark) == (key, int(modified.timestamp()))
    condition = Condition.from_lists({key: info}, [mark, "damaged/x/y/z", "damaged/x/y/p.tar.zst.5.json"])
    assert (list(condition.marks), condition.doubts) == ([key], {})
    assert condition.void == ["damaged/x/y/p.tar.zst.5.json"]
    later = Condition.from_lists({key: ObjectInfo(key, 1, modified + timedelta(seconds=1))}, [mark])
    assert (later.marks, later.doubts, later.void) == ({}, {key: [mark]}, [])
    assert later.suspects == {key}


FORGED = {
    "empty": b"",
    "not sealed": b'{"key": "packs/host/vol/x", "stored_bytes": 1}',
    "of another object": seal({"format": 2, "key": "packs/host/vol/x", "stored_bytes": 1}),
    "of nothing": seal({"format": 2}),
    "too large": b" " * (1 << 17),
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_a_mark_is_not_believed_for_its_name(lab: Lab, content: bytes) -> None:
    first = lab.back_up()
    objects = Condition.of(lab.repository, "host", "vol").objects
    for info in objects.values():
        put(lab.repository.store, mark_key(info), content)
    assert found_damaged(lab.repository, first, lab.repository.manifest(first)) == []
    (listed,) = lab.cli("list", "--host", "host", "--json").exits(0).json["backups"]
    assert listed["whole"]
    target = lab.directory / "target"
    lab.cli("restore", f"host/{first.volume}@{first.id}", "--to", str(target)).exits(0)
    assert (target / "noise0").read_bytes() == (lab.volume.data / "noise0").read_bytes()
    # It may have been a mark: until the object was read, nothing new depends on it.
    second = lab.back_up()
    assert not set(lab.packs(first)) & set(lab.packs(second))
    flip(lab.packs(first)[0])
    assert lab.verify(first).findings
    assert lab.problems == []
    assert list(Condition.of(lab.repository, "host", "vol").marks) == [
        str(lab.packs(first)[0].relative_to(lab.store))
    ]
    flip(lab.packs(first)[0])
    assert lab.verify(first).findings == ()
    assert lab.marks() == []


def moved(lab: Lab) -> Repository:
    """As `cp -r` and a bucket's sync do it: with times of its own."""
    place = lab.directory / "moved"
    shutil.copytree(lab.store, place, copy_function=shutil.copyfile)
    for path in place.rglob("*.*"):
        os.utime(path, (1_800_000_000, 1_800_000_000))
    return Repository.open(LocalStore(place))


def test_a_mark_outlives_a_move_of_the_store_until_its_object_was_read(lab: Lab) -> None:
    first = lab.back_up()
    hurt = lab.packs(first)[1]
    flip(hurt)
    lab.verify(first)
    lab.repository = moved(lab)
    assert found_damaged(lab.repository, first, lab.repository.manifest(first)) == []
    second = lab.back_up()
    assert hurt.name not in {path.name for path in lab.packs(second)}
    assert lab.verify(second).findings == ()
    lab.prune()
    before = lab.marks("moved")
    assert len(before) == 1
    assert lab.verify(first).findings
    assert len(lab.marks("moved")) == 1
    assert lab.marks("moved") != before
    assert found_damaged(lab.repository, first, lab.repository.manifest(first))
    assert lab.problems == []


def test_a_mark_of_a_moved_store_goes_once_its_object_is_found_good(lab: Lab) -> None:
    first = lab.back_up()
    hurt = lab.packs(first)[1]
    flip(hurt)
    lab.verify(first)
    flip(hurt)
    lab.repository = moved(lab)
    lab.prune()
    assert lab.marks("moved")
    assert lab.verify(first).findings == ()
    assert lab.marks("moved") == []


def test_a_copy_mends_what_may_be_damaged_and_takes_its_marks_away(lab: Lab) -> None:
    first = lab.back_up()
    lab.replica()
    hurt = lab.packs(first, "replica")[1]
    flip(hurt)
    lab.verify(first, Repository.open(LocalStore(lab.directory / "replica")))
    os.utime(hurt, (1_800_000_000, 1_800_000_000))
    replica = lab.replica()
    assert lab.marks("replica") == []
    assert Condition.of(replica, "host", "vol").suspects == set()
    assert lab.verify(first, replica).findings == ()


@given(st.binary(max_size=200), st.integers(0, 9))
def test_no_content_of_a_mark_is_more_than_no_mark(data: bytes, size: int) -> None:
    info = ObjectInfo("packs/h/v/p.tar.zst", size, datetime(2026, 1, 1, tzinfo=UTC))
    assert not says_damaged(data, info)
    assert says_damaged(seal({"key": info.key, "stored_bytes": size, "more": data.hex()}), info)
    assert not says_damaged(seal({"key": info.key, "stored_bytes": size + 1}), info)
