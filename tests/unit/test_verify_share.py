"""All that backups need is read once in so many days, a share at a time, whatever becomes of the store meanwhile."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts.recorded_store import RecordedStore
from tests.unit.test_damage import Lab, flip, lab  # noqa: F401 -- a fixture
from volferry.cli.session import Session
from volferry.cli.verify_share import read_share
from volferry.config import Config
from volferry.damage import Condition, mark
from volferry.errors import DamagedObject, NoSuchStore, StoreError, StoreGone, StoreUnreachable
from volferry.layout import files_key, frames_key, manifest_key, needed_objects, pack_key, parse_backup_name
from volferry.observer import Silent
from volferry.operations.verify_share import Candidate, Share, choose, verify_share
from volferry.repository import Repository
from volferry.store_config import StoreConfig
from volferry.stores.local import LocalStore
from volferry.verification_log import VerificationLog, VerifyRun, VolumeState

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.model import BackupRef

NOW = datetime(2026, 3, 1, 4, tzinfo=UTC)
DAY = timedelta(days=1)


@given(
    days=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=25),
    changes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=40, max_size=40),
    deaths=st.lists(st.sampled_from([None, None, None, 0, 1]), min_size=40, max_size=40),
)
def test_each_object_is_read_once_in_so_many_days(
    days: int, sizes: list[int], changes: list[tuple[int, int]], deaths: list[int | None]
) -> None:
    """Some are added and some deleted each day; a run may die after so many objects, the one after it catches up."""
    there = {f"{number}": (size, NOW) for number, size in enumerate(sizes)}
    serial = len(sizes)
    died_in_a_row = 0
    for day, ((added, gone), death) in enumerate(zip(changes, deaths, strict=True)):
        now = NOW + day * DAY
        candidates = [Candidate(key, size, read_at) for key, (size, read_at) in there.items()]
        chosen = choose(candidates, now=now, every=days * DAY, next_run=now + DAY)
        assert [each.read_at for each in chosen] == sorted(each.read_at for each in chosen)
        for each in chosen if death is None else chosen[:death]:
            there[each.key] = (each.stored_bytes, now)
        died_in_a_row = 0 if death is None else died_in_a_row + 1
        for key, (_, read_at) in there.items():
            assert now - read_at <= (days + died_in_a_row) * DAY, key
        for _ in range(min(gone, len(there) - 1)):
            there.pop(next(iter(there)))
        for _ in range(added):
            there[f"{serial}"] = (10 + serial % 7, now)
            serial += 1


def test_a_share_is_a_thirtieth_at_first_and_at_a_steady_pace() -> None:
    there = {f"{number:04}": NOW for number in range(3000)}
    read = []
    for day in range(90):
        now = NOW + day * DAY
        chosen = choose(
            [Candidate(key, 10, at) for key, at in there.items()], now=now, every=30 * DAY, next_run=now + DAY
        )
        there |= {each.key: now for each in chosen}
        read.append(len(chosen))
    assert read[0] == 100
    assert max(read) <= 110
    assert sum(read) <= 9600


def test_what_is_large_is_read_when_it_must_be_and_not_each_time() -> None:
    """A day's share of one pack is a part of it: it is read once in so many days, as are ten of them, each on a day of its own."""
    for count in (1, 10):
        there = {f"{number}": NOW for number in range(count)}
        read = []
        for day in range(1, 120):
            now = NOW + day * DAY
            chosen = choose(
                [Candidate(key, 1 << 40, at) for key, at in there.items()],
                now=now,
                every=30 * DAY,
                next_run=now + DAY,
            )
            there |= {each.key: now for each in chosen}
            read.append(len(chosen))
        assert max(read) == 1
        assert 3 * count <= sum(read) <= 4 * count + 1
    large = [Candidate("1", 1 << 40, NOW), *(Candidate(f"2{n}", 1 << 20, NOW) for n in range(9))]
    assert choose(large, now=NOW, every=30 * DAY, next_run=NOW + DAY) == []


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=40),
    days=st.integers(1, 40),
    cycles=st.integers(2, 4),
)
def test_no_day_reads_much_more_than_its_part(sizes: list[int], days: int, cycles: int) -> None:
    """All is read in time, and on no day much more than its part and the largest object."""
    there = {f"{number:02}": NOW for number in range(len(sizes))}
    size = {f"{number:02}": each for number, each in enumerate(sizes)}
    for day in range(1, days * cycles + 1):
        now = NOW + day * DAY
        candidates = [Candidate(key, size[key], at) for key, at in there.items()]
        chosen = choose(candidates, now=now, every=days * DAY, next_run=now + DAY)
        there |= {each.key: now for each in chosen}
        assert all(now - at < days * DAY or days == 1 for at in there.values())
        taken = sum(each.stored_bytes for each in chosen)
        assert taken <= 3 * (max(sizes) + -(-sum(sizes) // days))


def test_a_share_that_is_done_reads_nothing_more_until_the_next_is_due(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    days = Days(lab, 1)
    assert days.share().read == len(needed(lab, first))
    flip(lab.packs(first)[0])
    days.now -= DAY / 2  # half a day after the first
    before = days.log.read_at(lab.repository.place)
    share = days.share()
    assert (share.read, share.wrong) == (0, {})
    assert days.log.read_at(lab.repository.place) == before
    days.now -= DAY / 2
    assert list(days.share().wrong) == [first]
    # A clock that was ahead keeps none from being read.
    days.log.keep_share(lab.repository.place, "host", datetime(2099, 1, 1, tzinfo=UTC))
    assert days.share().read


def test_what_is_overdue_is_read_at_once() -> None:
    old, new = Candidate("old", 1 << 40, NOW - 31 * DAY), Candidate("new", 1, NOW)
    assert choose([new, old], now=NOW, every=30 * DAY, next_run=NOW + DAY) == [old]


class Days:
    """`verify --share`, once a day."""

    def __init__(self, lab: Lab, days: int) -> None:  # noqa: F811
        self.lab = lab
        self.days = days
        self.now = datetime.now(UTC)
        self.log = VerificationLog(lab.directory / "state")

    def share(self, repository: Repository | None = None) -> Share:
        found = verify_share(
            repository or self.lab.repository,
            "host",
            log=self.log,
            cache=None,
            every=self.days * DAY,
            next_run=self.now + DAY,
            done_until=lambda last: last + DAY,
            clock=lambda: self.now,
            observer=Silent(),
        )
        self.now += DAY
        return found


def needed(lab: Lab, ref: BackupRef) -> set[str]:  # noqa: F811
    return {manifest_key(ref), *needed_objects(ref, lab.repository.manifest(ref))}


def test_every_object_of_a_store_is_read_within_the_days(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    days = Days(lab, 4)
    recorded = RecordedStore(lab.repository.store)
    lab.repository.store = recorded
    before = days.now
    shares = [days.share() for _ in range(4)]
    assert {call.key for call in recorded.of("open")} >= needed(lab, first)
    assert all(share.read_bytes < share.total_bytes for share in shares)
    assert shares[0].volumes["vol"].hurt == 0
    oldest = shares[-1].volumes["vol"].oldest
    assert oldest is not None
    assert oldest >= before


def test_times_from_the_future_keep_nothing_from_being_read(lab: Lab) -> None:  # noqa: F811
    """As a clock that was in 2099 leaves them: in the log, and in the store."""
    first = lab.back_up()
    days = Days(lab, 4)
    in_2099 = datetime(2099, 1, 1, tzinfo=UTC)
    days.log.since(lab.repository.place, in_2099)
    days.log.keep_read(lab.repository.place, needed(lab, first), in_2099)
    for pack in lab.packs(first):
        os.utime(pack, (in_2099.timestamp(), in_2099.timestamp()))
    recorded = RecordedStore(lab.repository.store)
    lab.repository.store = recorded
    for _ in range(4):
        days.share()
    assert {call.key for call in recorded.of("open")} >= needed(lab, first)


def test_a_share_that_dies_is_gone_on_with(lab: Lab) -> None:  # noqa: F811
    lab.back_up()
    days = Days(lab, 1)

    class Dies:
        def __init__(self, store: object, after: int) -> None:
            self._store, self._left = store, after

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

        def open(self, key: str, **_: object) -> object:
            if not key.startswith("manifests/"):
                self._left -= 1
            if self._left < 0:
                raise StoreError("the network is gone")
            return self._store.open(key)  # type: ignore[attr-defined]

    store = lab.repository.store
    lab.repository.store = Dies(store, 2)  # type: ignore[assignment]
    with pytest.raises(StoreError, match="the network is gone"):
        days.share()
    lab.repository.store = store
    read = days.log.read_at(lab.repository.place)
    assert len([key for key in read if not key.startswith("manifests/")]) == 2
    days.share()
    assert len(days.log.read_at(lab.repository.place)) == len(needed(lab, next(lab.repository.refs())))


class BadSector:
    """A store in which some objects cannot be read, as it says so."""

    def __init__(self, store: object, *bad: str, error: type[Exception] = StoreError) -> None:
        self._store, self.bad, self.error = store, bad, error

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def open(self, key: str, **options: object) -> object:
        if key in self.bad and self.error is DamagedObject:
            raise DamagedObject(key, "it cannot be read: input/output error")
        if key in self.bad:
            raise self.error(f"cannot read {key}: input/output error")
        return self._store.open(key, **options)  # type: ignore[attr-defined]


def test_what_cannot_be_read_keeps_nothing_else_from_being_read_and_is_told_until_it_can(
    lab: Lab,  # noqa: F811
) -> None:
    first = lab.back_up()
    (lab.volume.data / "more").write_bytes(os.urandom(2 << 20))
    lab.back_up()
    bad = [pack_key(first, lab.repository.manifest(first).packs[0].name), frames_key(first)]
    store = lab.repository.store
    lab.repository.store = BadSector(store, *bad)  # type: ignore[assignment]
    days = Days(lab, 4)
    shares = [days.share() for _ in range(4)]
    needs = set().union(*(needed(lab, ref) for ref in lab.repository.refs()))
    assert {key for key in days.log.read_at(lab.repository.place) if " " not in key} == needs - set(bad)
    for share in shares[2:]:
        assert "input/output error" in share.wrong[first]
        assert not share.listed  # so that no status takes it for mended
    assert lab.marks() == []  # it may be readable tomorrow
    lab.repository.store = store
    days.share()
    assert days.share().wrong == {}
    assert set(days.log.read_at(lab.repository.place)) == needs


def test_what_the_store_says_is_damaged_for_good_is_remembered_and_healed(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    bad = pack_key(first, lab.repository.manifest(first).packs[1].name)
    lab.repository.store = BadSector(lab.repository.store, bad, error=DamagedObject)  # type: ignore[assignment]
    share = Days(lab, 1).share()
    assert list(share.wrong) == [first]
    assert len(lab.marks()) == 1
    second = lab.back_up()
    assert bad not in needed(lab, second)
    assert lab.verify(second).findings == ()


def test_verify_remembers_what_the_store_says_is_damaged_for_good(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    bad = pack_key(first, lab.repository.manifest(first).packs[1].name)
    lab.repository.store = BadSector(lab.repository.store, bad, error=DamagedObject)  # type: ignore[assignment]
    assert list(lab.verify(first).damaged) == [bad]
    assert bad not in needed(lab, lab.back_up())


def test_a_store_that_has_gone_meanwhile_is_no_matter_of_an_object(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    bad = pack_key(first, lab.repository.manifest(first).packs[0].name)
    for error, others in ((StoreError, ["volferry.json"]), (NoSuchStore, []), (StoreUnreachable, [])):
        lab.repository.store = BadSector(lab.repository.store, bad, *others, error=error)  # type: ignore[assignment]
        with pytest.raises(error, match="input/output"):
            Days(lab, 1).share()


def test_what_is_damaged_is_found_marked_and_not_read_again_each_day(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    hurt = lab.packs(first)[1]
    flip(hurt)
    days = Days(lab, 2)
    shares = [days.share() for _ in range(2)]
    assert [bool(share.wrong) for share in shares][-1]
    assert len(lab.marks()) == 1
    assert shares[-1].volumes["vol"].hurt == 1
    second = lab.back_up()
    share = days.share()
    assert list(share.wrong) == [first]
    assert hurt.name in share.wrong[first]
    recorded = RecordedStore(lab.repository.store)
    lab.repository.store = recorded
    days.share()
    assert len(recorded.of("open", f"packs/host/vol/{hurt.name}")) <= 2
    assert second not in days.share().wrong


def test_a_missing_pack_is_found_by_the_first_share(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    lab.packs(first)[0].unlink()
    (why,) = Days(lab, 30).share().wrong.values()
    assert lab.packs(first)[0].name in why


def test_what_a_copy_has_sent_again_is_another_object(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    days = Days(lab, 30)
    days.log.keep_read(lab.repository.place, needed(lab, first), days.now - 20 * DAY)
    oldest = days.share().volumes["vol"].oldest
    assert oldest is not None
    assert oldest > days.now - 2 * DAY  # all was written just now


def test_the_command_reads_its_share_and_says_what_is_new(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    cli = lab.cli.having(VOLFERRY_VERIFY__DAYS="1")
    assert cli("verify", "--host", "host", "--share", "--json").exits(0).json["hurt"] == []
    flip(lab.packs(first)[0])
    # The share of this day is done.
    assert cli("verify", "--host", "host", "--share", "--json").exits(0).json["objects"] == 0
    for new in (True, False):
        a_day_passes(lab.directory / "state")
        found = cli("verify", "--host", "host", "--share", "--json").exits(1).json["hurt"]
        assert [(each["id"], each["new"]) for each in found] == [(first.id, new)]
    assert "1 backup hurt" in cli("verify", "--host", "host", "--share").exits(1).stdout
    cli("verify", "--share", "--read").fails_with("--share excludes", code=2)
    assert [run.outcome for run in VerificationLog(lab.directory / "state").recent(9)] == [
        "good", "good", "hurt", "hurt", "hurt"
    ]  # fmt: skip
    fresh = cli.at(store=lab.directory / "nowhere", state=lab.directory / "fresh")
    assert "0 objects read" in fresh("verify", "--host", "host", "--share").exits(0).stdout
    cli.at(store=lab.directory / "nowhere")("verify", "--host", "host", "--share").fails_with(
        "no volferry store", code=2
    )
    assert VerificationLog(lab.directory / "state").recent(1)[0].outcome == "failed"


def a_day_passes(state: Path) -> None:
    """Since all that is in the log."""
    with closing(sqlite3.connect(state / "verified.sqlite")) as database, database:
        database.execute("UPDATE shares SET at = at - 86400")
        database.execute("UPDATE objects SET at = at - 86400")


def test_the_log_survives_damage_and_does_not_grow_for_ever(tmp_path: Path) -> None:
    log = VerificationLog(tmp_path)
    assert (log.recent(1), log.volumes(), log.last_done()) == ([], {}, None)
    for number in range(1005):
        log.keep_run(VerifyRun(NOW, NOW + number * DAY, "good", 1, 2, 3, ""))
    assert len(log.recent(2000)) == 1000
    log.keep_volumes("host", {"vol": VolumeState(NOW, 1), "never": VolumeState(None, 0)})
    log.keep_volumes("host", {"vol": VolumeState(NOW, 2)})
    assert log.volumes() == {"vol": VolumeState(NOW, 2)}
    assert log.since("store", NOW) == log.since("store", NOW + DAY) == NOW
    (tmp_path / "verified.sqlite").write_bytes(os.urandom(5000))
    assert log.read_at("store") == {}
    log.keep_read("store", ["key"], NOW)
    log.keep_read("store", ["key"], NOW)
    assert log.read_at("store") == {"key": NOW}
    with sqlite3.connect(tmp_path / "verified.sqlite") as database:
        assert database.execute("SELECT count(*) FROM objects").fetchone() == (1,)
    database.close()


def test_an_index_that_says_something_else_than_its_packs_stays_marked(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    condition = Condition.of(lab.repository, "host", "vol")
    wrong = files_key(first)
    mark(lab.repository, condition.objects[wrong], "its frames hold others", by="here", now=NOW)
    share = Days(lab, 1).share()
    assert list(share.wrong) == [first]
    assert wrong in Condition.of(lab.repository, "host", "vol").marks
    lab.packs(first)[0].rename(lab.directory / "away")  # then not all of it can be compared
    lab.verify(first)
    assert wrong in Condition.of(lab.repository, "host", "vol").marks
    (lab.directory / "away").rename(lab.packs(first)[0])
    assert lab.verify(first).findings == ()
    assert Condition.of(lab.repository, "host", "vol").marks == {}


def share_of(state: Path, store: Path) -> int:
    """`volferry verify --share`, and its exit code."""
    config = Config(store=str(store), state_dir=state, host="host")
    return read_share(Session(config), json=True)


def test_a_store_that_was_only_seen_and_is_gone_is_a_failure_of_the_share(tmp_path: Path) -> None:
    state, store = tmp_path / "state", tmp_path / "store"
    assert share_of(state, store) == 0  # nothing was ever backed up
    Repository.open_or_create(LocalStore(store))  # by another machine
    assert share_of(state, store) == 0
    shutil.rmtree(store)
    store.mkdir()  # the mount point
    with pytest.raises(StoreGone, match="is it mounted"):
        share_of(state, store)
    with pytest.raises(NoSuchStore):
        share_of(state, tmp_path / "mistyped")
    log = VerificationLog(state)
    assert [each.outcome for each in log.recent(9)] == ["good", "good", "failed", "failed"]


def test_runs_and_states_are_of_the_store_that_is_asked_for(tmp_path: Path) -> None:
    here, there = VerificationLog(tmp_path, "here"), VerificationLog(tmp_path, "there")
    runs = [VerifyRun(NOW, NOW + number * DAY, "hurt", 1, 2, 3, "", listed=number == 1) for number in (0, 1)]
    for log, run in zip((here, there), runs, strict=True):
        log.keep_run(run)
        log.keep_volumes("host", {"vol": VolumeState(NOW, run.listed)})
    assert (here.recent(9), there.recent(9)) == ([runs[0]], [runs[1]])
    assert (here.last_done(), there.last_done()) == (runs[0], runs[1])
    assert (here.volumes(), there.volumes()) == (
        {"vol": VolumeState(NOW, 0)}, {"vol": VolumeState(NOW, 1)}
    )  # fmt: skip
    assert VerificationLog(tmp_path).recent(9) == runs


def verified_line(lab: Lab, *store: str) -> str:  # noqa: F811
    status = lab.cli("status", "--host", "host", *store)
    return "".join(line for line in status.stdout.splitlines() if line.startswith("Verified: "))


def test_the_line_of_status_is_of_the_store_that_is_asked_for(lab: Lab) -> None:  # noqa: F811
    lab.back_up()
    lab.replica()
    replica = ("--store", str(lab.directory / "replica"))
    lab.cli("verify", "--share", "--host", "host").exits(0)
    assert ", good, " in verified_line(lab)
    assert verified_line(lab, *replica) == ""
    lab.packs(lab.repository.resolve(parse_backup_name("vol"), host="host"), "replica")[0].unlink()
    lab.cli("verify", "--share", "--host", "host", *replica).exits(1)
    assert ", hurt, " in verified_line(lab, *replica)
    assert ", good, " in verified_line(lab)


@pytest.mark.parametrize("hurt", ["missing", "damaged", "manifest"])
def test_status_says_that_what_a_share_found_was_mended(lab: Lab, hurt: str) -> None:  # noqa: F811
    over = "no backup is hurt any longer"
    first = lab.back_up()
    lab.replica()
    victim = lab.store / manifest_key(first) if hurt == "manifest" else lab.packs(first)[0]
    if hurt == "missing":
        victim.unlink()
    else:
        flip(victim)
    cli = lab.cli.having(VOLFERRY_VERIFY__DAYS="1")
    cli("verify", "--share", "--host", "host").exits(0, 1)
    a_day_passes(lab.directory / "state")
    cli("verify", "--share", "--host", "host").exits(1)
    line = verified_line(lab)
    assert ", hurt, " in line
    assert over not in line
    replica = ("--store", str(lab.directory / "replica"))
    lab.cli("copy", "--host", "host", *replica, "--to", str(lab.store)).exits(0)
    line = verified_line(lab)
    assert ", hurt, " in line
    assert line.endswith(f"; {over}")


def test_a_replica_that_is_gone_is_no_failure_of_the_store_in_use(tmp_path: Path) -> None:
    state = tmp_path / "state"
    Repository.open_or_create(LocalStore(tmp_path / "store"))
    assert share_of(state, tmp_path / "store") == 0
    replica = StoreConfig(url=str(tmp_path / "replica"), replica_of="main")
    main = StoreConfig(url=str(tmp_path / "store"))
    config = Config(store="replica", stores={"main": main, "replica": replica}, state_dir=state, host="host")
    with pytest.raises(NoSuchStore):
        read_share(Session(config), json=True)
    assert [each.outcome for each in VerificationLog(state).recent(9)] == ["good"]
