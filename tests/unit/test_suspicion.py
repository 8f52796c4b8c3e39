"""Backups that are suspiciously unlike the one before, and what prune keeps because of them; without an engine."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts.faults import built_library, environment, fault
from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.unit.test_manifest import DOCUMENT
from volferry.archive.excludes import CACHE_SIGNATURE, Excludes
from volferry.archive.manifest import DumpPart, FindingPart, Manifest
from volferry.checked import value_of
from volferry.damage import Condition, mark
from volferry.layout import accepted_key, files_key, manifest_key, needed_objects, pack_key
from volferry.model import BackupRef, new_backup_id
from volferry.observer import Silent
from volferry.operations.acceptance import FIRST, HELD, accept, accepted_ids, find_hold, withdraw
from volferry.operations.copy import copy_volume
from volferry.operations.prune import prune_volume
from volferry.repository import Repository
from volferry.retention import Keep, Within
from volferry.stores.base import get, put

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.model import BackupStats
    from volferry.operations.prune import Pruning

BEGIN = datetime(2026, 3, 1, 2, tzinfo=UTC)
DAILY = Keep(daily=3)


@dataclass
class Nights:
    """A volume that is backed up every night, with a store whose clock is the machine's."""

    volume: LocalVolume
    clock: Clock = field(default_factory=lambda: Clock(BEGIN))
    night: int = 0
    keep: Keep = DAILY

    def __post_init__(self) -> None:
        self.volume.data.mkdir()
        self.repository, _ = Repository.open_or_create(MemoryStore(Contents("main", self.clock)))

    def back_up(self) -> BackupStats:
        self.night += 1
        now = self.clock.now = BEGIN + timedelta(days=self.night)

        class ThatNight(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return now.astimezone(tz)

        with mock.patch("volferry.operations.backup.datetime", ThatNight):
            return self.volume.back_up(self.repository)

    def kinds(self) -> list[str]:
        """Of the findings of one more night."""
        return [finding.kind for finding in self.back_up().findings]

    def write(self, count: int, size: int = 3000, *, suffix: str = "") -> None:
        for number in range(count):
            (self.volume.data / f"file{number:03}{suffix}").write_bytes(os.urandom(size))

    def make_old(self) -> None:
        """The files have the times of a volume that nobody has written to for weeks."""
        for path in self.volume.data.iterdir():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 40 * 86_400))

    def empty(self) -> None:
        shutil.rmtree(self.volume.data)
        self.volume.data.mkdir()

    def prune(self, repository: Repository | None = None) -> Pruning:
        return prune_volume(
            repository or self.repository, "host", "vol", keep=lambda _: self.keep, grace=Within("7d"), cache=None, dry_run=False,
        )  # fmt: skip

    def copy(self, target: Repository) -> None:
        copy_volume(
            self.repository, target, "host", "vol", keep=lambda _: DAILY, source_cache=None, target_cache=None, observer=Silent(),
        )  # fmt: skip

    @property
    def ids(self) -> list[str]:
        return [ref.id for ref in self.repository.refs()]


def damage(nights: Nights, key: str) -> None:
    """One bit of it."""
    store = nights.repository.store
    data = bytearray(get(store, key))
    data[len(data) // 2] ^= 1
    store.delete(key)
    put(store, key, bytes(data))


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(LocalVolume(tmp_path / "data", tmp_path / "state"))


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_library(tmp_path_factory.mktemp("faults"))


class TestWhatIsFound:
    def test_an_emptied_volume_every_night(self, nights: Nights) -> None:
        nights.write(3, 10)
        good = nights.back_up().ref.id
        nights.empty()

        for _ in range(3):
            stats = nights.back_up()
            (finding,) = stats.findings
            assert (finding.kind, finding.path) == ("shrunk", b"")
            assert finding.detail == f"from 4 to 1 entries, from 30 to 0 bytes, compared with {good}"
            (recorded,) = nights.repository.manifest(stats.ref).findings
            assert recorded.kind == "shrunk"
            assert stats.suspicious == f"shrunk: {finding.detail}"

    def test_nine_tenths_of_the_entries_or_of_the_bytes(self, nights: Nights) -> None:
        nights.write(40, 10)
        (nights.volume.data / "large").write_bytes(os.urandom(2 << 20))
        assert nights.kinds() == []
        (nights.volume.data / "large").unlink()
        assert nights.kinds() == ["shrunk"]
        (nights.volume.data / "large").write_bytes(os.urandom(2 << 20))
        assert nights.kinds() == []
        for path in sorted(nights.volume.data.glob("file*"))[2:]:
            path.unlink()
        assert nights.kinds() == ["shrunk"]

    def test_a_dump_that_is_missing_altogether(self, nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
        """As where the container that gave it is gone; the raw files of its database are excluded."""
        nights.write(10)
        first = nights.back_up()
        manifest = nights.repository.manifest(first.ref)
        dump = DumpPart("db", "container", 2 << 20, 1.0)
        with_dump = msgspec.structs.replace(manifest, dumps=(dump,))
        real = Repository.manifest
        monkeypatch.setattr(
            Repository, "manifest", lambda self, ref: with_dump if ref == first.ref else real(self, ref)
        )
        (finding,) = nights.back_up().findings
        assert finding.kind == "shrunk"
        assert "dump db from 2,097,152 to 0 bytes" in finding.detail

    def test_less_is_no_finding(self, nights: Nights) -> None:
        nights.write(60, 100)
        nights.back_up()
        for path in sorted(nights.volume.data.iterdir())[12:]:
            path.unlink()
        assert nights.kinds() == []

    def test_a_log_that_is_rotated_is_none(self, nights: Nights) -> None:
        (nights.volume.data / "log").write_bytes(bytes(500_000))
        nights.back_up()
        (nights.volume.data / "log").write_bytes(b"begins")
        assert nights.kinds() == []

    def test_what_is_excluded_now_is_not_gone(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        nights.volume.settings = {"excludes": Excludes(("file*",))}
        assert nights.kinds() == []
        assert nights.kinds() == []

    def test_it_can_be_switched_off(self, nights: Nights) -> None:
        nights.volume.settings = {"suspicious": False}
        nights.write(30)
        nights.back_up()
        nights.empty()
        assert nights.kinds() == []

    def test_an_encrypted_tree(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        assert nights.kinds() == []
        nights.empty()
        nights.write(30, 3100, suffix=".locked")
        stats = nights.back_up()
        (finding,) = stats.findings
        assert finding.kind == "rewritten"
        assert finding.detail.startswith("30 of 30 files have another content or name, compared with ")

    def test_all_contents_rewritten_under_their_names(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        nights.write(30)
        assert nights.kinds() == ["rewritten"]

    @pytest.mark.parametrize("what", ["zeros", "text", "holes"])
    def test_what_compresses_well_in_place_of_nearly_all_contents(self, nights: Nights, what: str) -> None:
        nights.write(20, 400_000)
        nights.make_old()
        nights.back_up()
        good = nights.back_up().ref.id
        for number in range(19):
            path = nights.volume.data / f"file{number:03}"
            if what == "holes":
                os.truncate(path, 0)
                os.truncate(path, 400_000)
            else:
                path.write_bytes(bytes(400_000) if what == "zeros" else b"0123456789" * 40_000)
        for _ in range(5):
            assert nights.kinds() == ["rewritten"]
            nights.prune()
        assert good in nights.ids

    @pytest.mark.parametrize("nights_unread", [1, 2])
    def test_what_could_not_be_read_and_is_gone_then(
        self, nights: Nights, faults: Path, nights_unread: int
    ) -> None:
        nights.write(100, 20_000)
        good = nights.back_up().ref.id
        unread = [nights.volume.data / f"file{number:03}" for number in range(85)]
        nights.volume.environment = environment(
            faults, *(fault("open", errno.EIO, f"/{path.name}") for path in unread)
        )
        for path in unread:
            path.chmod(0o640)
        for _ in range(nights_unread):
            assert set(nights.kinds()) == {"unreadable"}
            nights.prune()
        nights.volume.environment = {}
        for number in range(95):
            (nights.volume.data / f"file{number:03}").unlink()
        for _ in range(5):
            assert nights.kinds() == ["shrunk"]
            nights.prune()
        assert good in nights.ids

    def test_what_could_not_be_read_and_can_be_again_is_none(self, nights: Nights, faults: Path) -> None:
        nights.write(100, 20_000)
        nights.back_up()
        unread = [nights.volume.data / f"file{number:03}" for number in range(85)]
        nights.volume.environment = environment(
            faults, *(fault("open", errno.EIO, f"/{path.name}") for path in unread)
        )
        for path in unread:
            path.chmod(0o640)
        assert set(nights.kinds()) == {"unreadable"}
        nights.volume.environment = {}
        assert nights.kinds() == []

    def test_a_part_of_it_rewritten_is_none(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        nights.write(20)
        assert nights.kinds() == []

    def test_other_owners_modes_and_change_times_are_none(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        for path in nights.volume.data.iterdir():
            path.chmod(0o600)
            os.chown(path, 12, 34)
        assert nights.kinds() == []

    def test_a_database_that_changes_wholly_every_night(self, nights: Nights) -> None:
        for _ in range(4):
            nights.write(2, 200_000)
            assert nights.kinds() == []

    def test_a_volume_that_always_changes_wholly_does_not_cry_for_ever(self, nights: Nights) -> None:
        found = []
        for _ in range(7):
            nights.write(30)
            found.append(nights.kinds())
        assert found == [[], ["rewritten"], ["rewritten"], [], [], [], []]

    def test_so_is_one_of_which_a_large_file_stays_and_is_repacked(self, nights: Nights) -> None:
        nights.write(1, 2_000_000, suffix=".static")
        nights.make_old()
        kinds = []
        for _ in range(9):
            nights.write(20, 300_000)
            kinds.append(nights.kinds())
        assert kinds.count(["rewritten"]) <= 2
        assert kinds[4:] == [[]] * 5

    def test_directories_alone_of_which_one_was_unread(self, nights: Nights, faults: Path) -> None:
        for name in ("a", "b"):
            (nights.volume.data / name).mkdir()
        nights.back_up()
        nights.volume.environment = environment(
            faults, fault("open", errno.EACCES, "/b"), fault("open", errno.EACCES, "b")
        )
        assert nights.kinds() == ["unreadable"]
        nights.volume.environment = {}
        assert nights.kinds() == []

    def test_a_change_that_stays_is_found_every_night(self, nights: Nights) -> None:
        nights.write(30)
        good = nights.back_up().ref
        nights.write(30)
        for _ in range(6):
            assert nights.kinds() == ["rewritten"]
            assert nights.prune().hold is not None
            assert good.id in nights.ids

    def test_a_change_that_stays_is_found_though_a_part_of_it_changes_on(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        nights.write(30)
        for number in range(5):
            assert nights.kinds() == ["rewritten"]
            nights.write(1, 50_000, suffix=f".{number}")

    def test_new_headers_the_night_before_hide_nothing(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        assert nights.kinds() == []
        for path in nights.volume.data.iterdir():
            path.chmod(0o600)
        assert nights.kinds() == []
        nights.write(30)
        assert nights.kinds() == ["rewritten"]

    def test_new_headers_the_night_before_hide_nothing_though_no_older_backup_is_left(
        self, nights: Nights
    ) -> None:
        nights.keep = Keep(last=1)
        nights.write(30)
        nights.make_old()
        nights.back_up()
        nights.back_up()
        for path in nights.volume.data.iterdir():
            path.chmod(0o600)
        good = nights.back_up().ref.id
        nights.prune()
        assert nights.ids == [good]
        for _ in range(5):
            nights.write(30)
            assert nights.kinds() == ["rewritten"]
            nights.prune()
            assert good in nights.ids

    def test_a_volume_that_always_changes_with_one_backup_at_a_time(self, nights: Nights) -> None:
        nights.keep = Keep(last=1)
        found = []
        for _ in range(7):
            nights.write(30)
            found.append(nights.kinds())
            nights.prune()
        assert found == [[], ["rewritten"], ["rewritten"], [], [], [], []]
        assert len(nights.ids) == 1

    def test_an_accepted_change_hides_no_other(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        nights.write(30)
        assert accept(nights.repository, nights.back_up().ref, "host")
        nights.write(30)
        assert nights.kinds() == ["rewritten"]

    @pytest.mark.parametrize("what", ["manifest", "index"])
    @pytest.mark.parametrize("change", ["shrunk", "rewritten"])
    def test_the_newest_that_can_be_read_is_the_measure(self, nights: Nights, what: str, change: str) -> None:
        nights.write(30)
        good = nights.back_up().ref
        (nights.volume.data / "one more").write_bytes(b"content")
        newest = nights.back_up().ref
        damage(nights, manifest_key(newest) if what == "manifest" else files_key(newest))
        shutil.rmtree(nights.volume.state)  # another machine would have no index of its own
        if change == "shrunk":
            nights.empty()
        else:
            nights.write(30)
        for _ in range(4):
            assert nights.kinds() == [change]
            nights.prune()
            # Of an index that nobody has verified, prune knows no more than that it is there.
            assert (good if what == "manifest" else newest).id in nights.ids

    def test_a_loss_together_with_a_change_of_what_is_excluded(self, nights: Nights) -> None:
        nights.write(60, 100)
        nights.write(30, 100, suffix=".tmp")
        good = nights.back_up().ref.id
        for path in sorted(nights.volume.data.glob("file*[0-9]"))[2:]:
            path.unlink()
        nights.volume.settings = {"excludes": Excludes(("*.tmp",))}
        for _ in range(3):
            (finding,) = nights.back_up().findings
            assert finding.kind == "shrunk"
            assert finding.detail.startswith("from 61 to 3 entries, ")
            assert finding.detail.endswith(f"compared with {good}")

    def test_all_rewritten_together_with_a_change_of_what_is_excluded(self, nights: Nights) -> None:
        nights.write(30)
        nights.write(30, suffix=".tmp")
        nights.back_up()
        nights.write(30)
        nights.volume.settings = {"excludes": Excludes(("*.tmp",))}
        assert nights.kinds() == ["rewritten"]

    def test_a_cache_that_is_left_out_now_is_not_gone(self, nights: Nights) -> None:
        cache = nights.volume.data / "cache"
        cache.mkdir()
        (cache / "CACHEDIR.TAG").write_bytes(CACHE_SIGNATURE)
        for number in range(60):
            (cache / f"{number}").write_bytes(bytes(100))
        nights.write(2, 10)
        nights.back_up()
        nights.volume.settings = {"excludes": Excludes(caches=True)}
        assert nights.kinds() == []
        nights.empty()
        assert nights.kinds() == ["shrunk"]

    def test_what_was_accepted_is_the_measure(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        nights.empty()
        stats = nights.back_up()
        assert accept(nights.repository, stats.ref, "host")
        assert nights.kinds() == []

    def test_a_volume_that_was_made_anew(self, nights: Nights) -> None:
        nights.write(30)
        ref = nights.back_up().ref
        manifest = nights.repository.manifest(ref)
        volume = msgspec.structs.replace(manifest.volume, created_at="2026-01-01T00:00:00Z")
        nights.repository.store.delete(manifest_key(ref))
        put(
            nights.repository.store,
            manifest_key(ref),
            msgspec.structs.replace(manifest, volume=volume).to_bytes(),
        )
        nights.empty()
        assert "perhaps the volume was made anew" in nights.back_up().suspicious


class TestWhatIsHeld:
    def test_the_good_one_until_it_is_accepted(self, nights: Nights) -> None:
        nights.write(30)
        good = nights.back_up().ref
        nights.empty()
        first = nights.back_up().ref
        newest = first
        for _ in range(9):
            newest = nights.back_up().ref
            pruned = nights.prune()
            assert good.id in nights.ids
            assert pruned.hold is not None
            assert pruned.hold.until - BEGIN > timedelta(days=31)
            reasons = {verdict.id: verdict.reasons for verdict in pruned.verdicts}
            assert HELD in reasons[good.id]
            assert FIRST in reasons[first.id]
        assert len(nights.ids) == 5
        nights.repository.check_objects(good, nights.repository.manifest(good))

        accept(nights.repository, newest, "host")
        assert nights.prune().hold is None
        assert len(nights.ids) == 3
        assert good.id not in nights.ids

    def test_until_the_hold_is_over(self, nights: Nights) -> None:
        nights.write(30)
        good = nights.back_up().ref
        nights.empty()
        while nights.night < 31:
            nights.back_up()
            nights.prune()
            assert good.id in nights.ids, nights.night
        nights.back_up()
        nights.back_up()
        nights.prune()
        assert good.id not in nights.ids
        assert nights.kinds() == []  # there is nothing better to compare with

    def test_one_look_at_a_clock_ends_nothing(self, nights: Nights) -> None:
        nights.write(30)
        good = nights.back_up().ref
        nights.empty()
        nights.back_up()
        for wrong in (datetime(2099, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)):
            nights.back_up()
            nights.clock.now = wrong
            assert nights.prune().hold is not None
            assert good.id in nights.ids

    @pytest.mark.parametrize("keep", [DAILY, Keep(last=1)])
    def test_no_longer_than_it_says_after_a_clock_was_wrong(self, nights: Nights, keep: Keep) -> None:
        nights.keep = keep
        nights.write(30)
        good = nights.back_up().ref
        nights.empty()
        nights.back_up()
        nights.prune()
        nights.clock.now = datetime(2099, 1, 1, tzinfo=UTC)
        nights.volume.back_up(nights.repository)
        nights.prune()
        while nights.night < 31:
            nights.back_up()
            nights.prune()
            assert good.id in nights.ids, nights.night
        for _ in range(3):
            nights.back_up()
            nights.prune()
        assert good.id not in nights.ids
        assert len(nights.ids) <= 4

    def test_a_volume_that_always_changes_is_held_for_no_longer_than_it_cries(self, nights: Nights) -> None:
        for _ in range(7):
            nights.write(30)
            nights.back_up()
            nights.prune()
        assert len(nights.ids) == 3

    @pytest.mark.parametrize("good_nights", [1, 2, 5])
    @pytest.mark.parametrize("begins_with", ["a few files", "as many", "more each night"])
    def test_a_stable_volume_that_begins_anew_and_always_changes_since(
        self, nights: Nights, good_nights: int, begins_with: str
    ) -> None:
        nights.write(40, 5000)
        nights.make_old()
        good = ""
        for _ in range(good_nights):
            good = nights.back_up().ref.id
            nights.prune()
        nights.empty()
        for night in range(5):
            count = {"a few files": 8, "as many": 40}.get(begins_with, 8 + night)
            nights.write(count, 5000, suffix=".new")
            (finding,) = nights.back_up().findings
            assert finding.kind == "rewritten"
            assert nights.prune().hold is not None
            assert good in nights.ids

    def test_a_volume_that_was_stable_for_a_night_and_always_changes_since(self, nights: Nights) -> None:
        nights.write(40, 5000)
        nights.back_up()
        good = nights.back_up().ref.id
        for _ in range(6):
            nights.write(40, 5000)
            assert nights.kinds() == ["rewritten"]
            nights.prune()
            assert good in nights.ids
        accept(nights.repository, list(nights.repository.refs())[-1], "host")
        assert nights.prune().hold is None
        nights.write(40, 5000)
        assert nights.kinds() == []

    def test_what_was_taken_back_holds_again(self, nights: Nights) -> None:
        nights.write(30)
        nights.back_up()
        nights.empty()
        ref = nights.back_up().ref
        assert accept(nights.repository, ref, "host")
        assert not accept(nights.repository, ref, "host")
        assert nights.prune().hold is None
        withdraw(nights.repository, ref)
        assert nights.prune().hold is not None

    def test_an_acceptance_goes_with_its_backup_and_says_nothing_if_it_is_damaged(
        self, nights: Nights
    ) -> None:
        nights.write(30)
        nights.back_up()
        nights.empty()
        ref = nights.back_up().ref
        put(nights.repository.store, accepted_key(ref), b"{}")
        assert nights.prune().hold is not None
        assert accept(nights.repository, ref, "host")
        for _ in range(4):
            nights.back_up()
            nights.prune()
        assert ref.id not in nights.ids
        assert list(nights.repository.store.list("accepted/")) == []

    @pytest.mark.parametrize("how", ["hollow", "damaged"])
    def test_the_newest_good_one_that_is_whole(self, nights: Nights, how: str) -> None:
        nights.write(30)
        whole = nights.back_up().ref
        nights.write(10, suffix="x")
        newest = nights.back_up().ref
        condition = Condition.of(nights.repository, "host", "vol")
        key = next(key for key in condition.objects if key.startswith(f"packs/host/vol/{newest.id}"))
        if how == "hollow":
            nights.repository.store.delete(key)
        else:
            mark(nights.repository, condition.objects[key], "damaged", by="host", now=nights.clock.now)
        nights.empty()
        for _ in range(5):
            nights.back_up()
            pruned = nights.prune()
            assert pruned.hold is not None
            assert pruned.hold.good == whole
            assert whole.id in nights.ids
            # A mark may be wrong.
            assert (newest.id in nights.ids) == (how == "damaged") or nights.night < 6

    def test_though_the_newest_seems_good_and_is_not_whole(self, nights: Nights) -> None:
        nights.write(30)
        good = nights.back_up().ref
        shutil.copytree(nights.volume.data, nights.volume.data.with_name("kept"))
        nights.empty()
        for _ in range(3):
            nights.back_up()
        nights.volume.data.rmdir()
        nights.volume.data.with_name("kept").rename(nights.volume.data)
        newest = nights.back_up().ref
        for info in list(nights.repository.store.list(f"packs/host/vol/{newest.id}")):
            nights.repository.store.delete(info.key)
        pruned = nights.prune()
        assert pruned.hold is not None
        assert pruned.hold.good == good
        nights.back_up()
        assert nights.prune().hold is None
        assert good.id not in nights.ids

    def test_in_a_replica(self, nights: Nights) -> None:
        replica, _ = Repository.open_or_create(MemoryStore(Contents("replica", nights.clock)))
        nights.write(30)
        good = ref = nights.back_up().ref
        nights.empty()
        for _ in range(6):
            ref = nights.back_up().ref
            nights.prune()
            nights.copy(replica)
            pruned = nights.prune(replica)
            assert pruned.hold is not None
            assert good in list(replica.refs())

        accept(nights.repository, ref, "host")
        nights.copy(replica)
        assert accepted_ids(replica, "host", "vol") == {ref.id}
        assert nights.prune(replica).hold is None
        assert good not in list(replica.refs())

    def test_in_a_replica_after_an_acceptance_was_taken_back(self, nights: Nights) -> None:
        replica, _ = Repository.open_or_create(MemoryStore(Contents("replica", nights.clock)))
        nights.write(30)
        good = nights.back_up().ref
        nights.copy(replica)
        nights.empty()
        ref = nights.back_up().ref
        accept(nights.repository, ref, "host")
        nights.copy(replica)
        withdraw(nights.repository, ref)
        for _ in range(6):
            nights.back_up()
            nights.prune()
            nights.copy(replica)
            assert nights.prune(replica).hold is not None
            assert good in list(replica.refs())
        # Nor is it accepted in the first store again by mending that from the replica.
        accept(nights.repository, ref, "host")
        nights.copy(replica)
        withdraw(nights.repository, ref)
        copy_volume(
            replica, nights.repository, "host", "vol", keep=lambda _: DAILY, source_cache=None, target_cache=None, observer=Silent(),
        )  # fmt: skip
        assert accepted_ids(nights.repository, "host", "vol") == set()
        # One that a person has accepted there, too, is nobody's to take back.
        accept(replica, ref, "host")
        nights.copy(replica)
        assert accepted_ids(replica, "host", "vol") == {ref.id}


def made_up(store: MemoryStore, night: int, *, suspicious: bool, clock_off: timedelta) -> BackupRef:
    """A manifest alone: prune asks for no more."""
    time = BEGIN + timedelta(days=night)
    ref = BackupRef("host", "vol", f"{time:%Y%m%dT%H%M%SZ}-{night:06x}")
    manifest = value_of(DOCUMENT, Manifest)
    store.contents.clock.now = time
    finding = (FindingPart(kind="shrunk", path="", detail="all of it"),) if suspicious else ()
    volume = msgspec.structs.replace(manifest.volume, name="vol")
    put(
        store,
        manifest_key(ref),
        msgspec.structs.replace(
            manifest, id=ref.id, host="host", volume=volume, started_at=time + clock_off, findings=finding, packs=(),
        ).to_bytes(),
    )  # fmt: skip
    return ref


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=25),
    st.integers(1, 3),
    st.sampled_from([timedelta(), timedelta(days=-20_000)]),
)
def test_prune_never_forgets_the_last_good_one_while_it_is_held(
    sizes: list[bool], last: int, clock_off: timedelta
) -> None:
    repository, _ = Repository.open_or_create(MemoryStore(Contents("main", Clock(BEGIN))))
    assert isinstance(repository.store, MemoryStore)
    good: BackupRef | None = None
    for night, suspicious in enumerate(sizes):
        # The first has nothing to be compared with.
        ref = made_up(repository.store, night, suspicious=suspicious and night > 0, clock_off=clock_off)
        if not suspicious or night == 0:
            good = ref
        prune_volume(
            repository, "host", "vol", keep=lambda _: Keep(last=last), grace=Within("7d"), cache=None, dry_run=False,
        )  # fmt: skip
        there = list(repository.refs())
        assert good in there
        assert ref in there
        assert len(there) <= last + 2
        manifests = {each: repository.manifest(each) for each in there}
        held = find_hold(repository, manifests, Within("30d"))
        assert (held.good if held else ref) == good
        assert find_hold(repository, manifests, Within("0d")) is None


LOOKS = {
    "right": None,
    "2099": datetime(2099, 1, 1, tzinfo=UTC),
    "1970": datetime(1970, 1, 2, tzinfo=UTC),
    "a month ahead": BEGIN + timedelta(days=60),
}


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["good", "good", "suspicious", "suspicious", "suspicious"]),
            st.sampled_from(["sound", "sound", "sound", "hollow", "damaged", "unreadable"]),
            st.sampled_from([*LOOKS, "right", "right", "right"]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.builds(
        Keep,
        last=st.integers(0, 2),
        daily=st.integers(0, 2),
        within=st.sampled_from([None, Within("1d"), Within("30d")]),
    ).filter(lambda keep: not keep.is_empty),
)
def test_prune_leaves_the_newest_sound_and_good_one_whatever_clocks_say(
    history: list[tuple[str, str, str]], keep: Keep
) -> None:
    contents = Contents("main", Clock(BEGIN))
    repository, _ = Repository.open_or_create(MemoryStore(contents))
    good: BackupRef | None = None
    newest = None
    ahead, behind = "", False
    for night, (kind, state, look) in enumerate(history):
        # One clock is wrong, if often: two in a row that are wrong otherwise are a time that goes by, as far as anybody can tell.
        if (ahead and look not in {ahead, "right", "1970"}) or look == ahead == "a month ahead":
            look = "right"  # noqa: PLW2901
        if behind and look in {"2099", "a month ahead"}:
            look = "right"  # noqa: PLW2901
        behind = behind or look == "1970"
        ahead = look if look in {"2099", "a month ahead"} else ahead
        wrong = LOOKS[look]
        clock = BEGIN + timedelta(days=night) if wrong is None else wrong + timedelta(days=night)
        contents.clock.now = clock
        ref = BackupRef("host", "vol", new_backup_id(clock, newest=newest))
        newest = ref.id
        whole(repository, ref, clock, suspicious=kind == "suspicious" and good is not None)
        if state == "hollow":
            repository.store.delete(pack_key(ref, f"{ref.id}.0000"))
        elif state == "damaged":
            info = Condition.of(repository, "host", "vol").objects[pack_key(ref, f"{ref.id}.0000")]
            mark(repository, info, "damaged", by="host", now=clock)
        elif state == "unreadable":
            repository.store.delete(manifest_key(ref))
            put(repository.store, manifest_key(ref), b"{")
        elif kind == "good" or good is None:
            good = ref
        prune_volume(
            repository, "host", "vol", keep=lambda _: keep, grace=Within("7d"), cache=None, dry_run=False
        )
        there = set(repository.refs())
        assert ref in there
        if good is not None:
            assert good in there
            repository.check_objects(good, repository.manifest(good))


def whole(repository: Repository, ref: BackupRef, time: datetime, *, suspicious: bool) -> None:
    """A backup with a pack of its own."""
    manifest = value_of(DOCUMENT, Manifest)
    finding = (FindingPart(kind="shrunk", path="", detail="all of it"),) if suspicious else ()
    (pack, *_) = manifest.packs
    manifest = msgspec.structs.replace(
        manifest, id=ref.id, host="host", volume=msgspec.structs.replace(manifest.volume, name="vol"), started_at=time,
        findings=finding, packs=(msgspec.structs.replace(pack, name=f"{ref.id}.0000"),), base=None,
    )  # fmt: skip
    for key, content in needed_objects(ref, manifest).items():
        put(repository.store, key, bytes(content.stored_bytes))
    put(repository.store, manifest_key(ref), manifest.to_bytes())
