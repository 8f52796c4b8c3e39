"""Clocks that were wrong once, and runs that died often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Self

import pytest

from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.archive import listing
from volferry.checkpoint import find_checkpoints
from volferry.model import is_backup_id, new_backup_id
from volferry.operations import backup, volume_pass
from volferry.operations.backup_times import newest_times
from volferry.operations.prune import prune_volume
from volferry.repository import BackupWriter, Repository
from volferry.retention import Keep, Within
from volferry.stores.base import put

if TYPE_CHECKING:
    from pathlib import Path

WEEK = Within("7d")


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
def repository(clock: Clock) -> Repository:
    return Repository.open_or_create(MemoryStore(Contents("store", clock)))[0]


@pytest.fixture
def volume(tmp_path: Path) -> LocalVolume:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"content" * 1000)
    return LocalVolume(tmp_path / "data", tmp_path / "state")


def prune(repository: Repository) -> list[str]:
    done = prune_volume(
        repository, "host", "vol", keep=lambda _: Keep(), grace=WEEK, cache=None, dry_run=False
    )
    assert done.problems == []
    return done.packs


def test_a_pack_from_the_future_goes_when_it_is_old_in_the_store(
    repository: Repository, clock: Clock, volume: LocalVolume
) -> None:
    volume.back_up(repository)
    put(repository.store, "packs/host/vol/20990101T000000Z-abcdef.0000.tar.zst", b"of a run that died")
    assert prune(repository) == []
    clock.now += timedelta(days=8)
    assert prune(repository) == ["20990101T000000Z-abcdef.0000"]


def test_a_pack_whose_clock_was_a_little_ahead_counts_from_its_name(
    repository: Repository, clock: Clock, volume: LocalVolume
) -> None:
    volume.back_up(repository)
    name = new_backup_id(clock.now + timedelta(hours=20))
    put(repository.store, f"packs/host/vol/{name}.0000.tar.zst", b"of a run that died")
    clock.now += timedelta(days=7, hours=10)
    assert prune(repository) == []
    clock.now += timedelta(days=1)
    assert prune(repository) == [f"{name}.0000"]


def test_backups_go_on_after_one_from_2099(
    repository: Repository, volume: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(volume_pass, "new_backup_id", lambda *_, **__: "20990101T000000Z-abcdef")
        volume.back_up(repository)
    stats = volume.back_up(repository)
    assert stats.ref.id > "20990101T000000Z-abcdef"
    assert stats.base == "20990101T000000Z-abcdef"


class TenthOfJanuary(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 1, 10, tzinfo=tz)


def test_backups_under_ids_from_the_future_count_from_when_the_store_got_them(
    repository: Repository, clock: Clock, volume: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now
    assert newest_times(repository, "host", now) == {}
    with monkeypatch.context() as patch:
        patch.setattr(volume_pass, "new_backup_id", lambda *_, **__: "20260110T000000Z-abcdef")
        patch.setattr(backup, "datetime", TenthOfJanuary)
        volume.back_up(repository)
    old = {"vol": datetime(2026, 1, 10, tzinfo=UTC)}
    # The clock of machine and store is in 2099: nothing says when it was made.
    clock.now = datetime(2099, 1, 1, tzinfo=UTC)
    with monkeypatch.context() as patch:
        patch.setattr(volume_pass, "new_backup_id", lambda *_, **__: "20990101T000000Z-abcdef")
        volume.back_up(repository)
    clock.now = now
    assert newest_times(repository, "host", now) == old
    # It is right again: the ids still have to follow the one of 2099.
    volume.back_up(repository)
    (made,) = newest_times(repository, "host", clock.now).values()
    assert timedelta() <= clock.now - made < timedelta(minutes=1)
    # However far the store's clock is from this machine's.
    (made,) = newest_times(repository, "host", clock.now - timedelta(days=30)).values()
    assert abs(clock.now - timedelta(days=30) - made) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "last", ["99981231T235959Z-abcdef", "99981231T235958Z-abcdef", "99991231T235959Z-abcdef"]
)
@pytest.mark.parametrize("year", [2026, 9998, 9999])
def test_there_is_an_id_after_the_last_second_of_all(last: str, year: int) -> None:
    made = new_backup_id(datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC), newest=last)
    assert is_backup_id(made)
    assert made[:16] == "99981231T235959Z"


@pytest.mark.parametrize("name", ["99981231T235959Z-ffffff", "20990101T000000Z-abcdef"])
@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_an_object_from_the_future_that_is_no_manifest_is_followed_by_no_id(
    repository: Repository, clock: Clock, volume: LocalVolume, name: str, content: bytes
) -> None:
    first = volume.back_up(repository).ref
    put(repository.store, f"manifests/host/vol/{name}.json", content)
    before = first.id
    for _ in range(3):
        stats = volume.back_up(repository)
        assert before < stats.ref.id < name
        assert abs(stats.ref.time - datetime.now(UTC)) < timedelta(minutes=5)
        assert stats.base == before
        before = stats.ref.id


class DiedError(Exception):
    pass


def dies(*_arguments: object, **_more: object) -> None:
    raise DiedError


def test_any_number_of_runs_may_die(
    repository: Repository, volume: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    with monkeypatch.context() as patch:
        patch.setattr(BackupWriter, "put_manifest", dies)
        for number in range(130):
            (volume.data / f"{number}").write_bytes(b"%d" % number * 1000)
            with pytest.raises(DiedError):
                volume.back_up(repository)
    checkpoints = volume.place(repository) / "checkpoints"
    assert len(list(checkpoints.iterdir())) == 130
    assert len(find_checkpoints(checkpoints)) < 20
    stats = volume.back_up(repository)
    assert stats.entries == 132
    assert stats.read_bytes == 0 or stats.stored_bytes < 1 << 20
    assert not checkpoints.exists()


@pytest.mark.parametrize(("days", "gone_on_from"), [(2, True), (4, False)])
def test_packs_of_a_run_that_died_count_by_their_age_in_the_store(
    repository: Repository,
    clock: Clock,
    volume: LocalVolume,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    gone_on_from: bool,
) -> None:
    """Another machine's prune deletes them by that age, however young the checkpoint seems to be here."""
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    with monkeypatch.context() as patch:
        patch.setattr(BackupWriter, "put_manifest", dies)
        with pytest.raises(DiedError):
            volume.back_up(repository)
    packs = {info.key for info in repository.objects("packs", "host", "vol")}
    clock.now += timedelta(days=days)
    with monkeypatch.context() as patch:  # this machine's clock goes with the store's
        patch.setattr(volume_pass, "new_backup_id", lambda *_, **__: new_backup_id(clock.now))
        stats = volume.back_up(repository)
    needed = {f"packs/host/vol/{pack.name}.tar.zst" for pack in repository.manifest(stats.ref).packs}
    assert (needed <= packs) == gone_on_from
    assert (stats.read_bytes == 0) == gone_on_from
