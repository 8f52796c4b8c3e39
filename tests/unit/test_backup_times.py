"""The newest backup of each volume, as the daemon knows it: with how many requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.parts.recorded_store import RecordedStore
from volferry.cli.surroundings import EngineAndStore
from volferry.config import Config
from volferry.errors import NoSuchStore, StoreUnreachable
from volferry.history import History
from volferry.layout import manifest_key
from volferry.model import BackupRef, BackupStats, Volume, new_backup_id
from volferry.operations.backup_times import NewestTimes
from volferry.repository import Repository
from volferry.stores.base import put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from volferry.model import ObjectInfo

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
PAGE = 1000


@dataclass(slots=True)
class PagedStore(RecordedStore):
    """Counts LIST requests as an S3 server does."""

    pages: int = 0

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = [*RecordedStore.list(self, prefix)]
        self.pages += 1 + max(0, len(found) - 1) // PAGE
        return iter(found)


@dataclass
class Day:
    """A daemon's time, and the store that it asks."""

    store: PagedStore = field(default_factory=lambda: PagedStore(MemoryStore(Contents("main", Clock(NOW)))))
    now: datetime = NOW
    opened: int = 0
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.repository = Repository.open_or_create(self.store)[0]
        self.newest = NewestTimes(timedelta(minutes=1), self.seconds)

    def seconds(self) -> float:
        return self.now.timestamp()

    def open(self) -> Repository:
        self.opened += 1
        if self.error is not None:
            raise self.error
        return self.repository

    def back_up(self, volume: str, at: datetime | None = None) -> datetime:
        at = (at or self.now).replace(microsecond=0)
        ref = BackupRef("host", volume, new_backup_id(at))
        put(self.store, manifest_key(ref), b"x")
        return at

    def look(self, **span: float) -> dict[str, datetime]:
        self.now += timedelta(**span)
        return self.newest.times(self.open, "host", self.now)


def test_a_container_that_restarts_all_day_costs_some_hundred_requests() -> None:
    day = Day()
    volumes = [f"vol{number}" for number in range(30)]
    for each in volumes:
        for age in range(365):
            day.back_up(each, NOW - timedelta(days=age))
    newest = day.look()
    day.store.pages = day.opened = 0
    for step in range(24 * 60 * 20):  # each 3 s
        newest = day.look(seconds=3)
        if step % 900 == 0:
            volume = volumes[step // 900 % 30]
            made = day.back_up(volume)
            day.newest.run_ended(volume)
            assert newest[volume] < made == day.look()[volume]
    assert newest.keys() == set(volumes)
    assert day.store.pages < 400
    assert day.opened < 24 * 60 + 100


def test_a_quiet_store_of_few_backups_is_listed_each_quarter_of_an_hour() -> None:
    day = Day()
    assert day.look() == {}
    made = day.back_up("vol")  # by another machine of that name
    assert day.look(minutes=14) == {}
    assert day.look(minutes=1) == {"vol": made}


def test_a_store_that_is_gone_is_noticed_and_what_is_known_stays_known() -> None:
    day = Day()
    made = day.back_up("vol")
    assert day.look() == {"vol": made}
    day.error = StoreUnreachable("no route")
    day.look(seconds=30)
    for _ in range(2):
        with pytest.raises(StoreUnreachable):
            day.look(seconds=31)
    day.newest.run_ended("vol")
    with pytest.raises(StoreUnreachable):
        day.look()
    day.error = None
    later = day.back_up("vol")
    assert day.look(seconds=1) == {"vol": later}


def test_a_store_that_is_made_by_the_first_run_is_found() -> None:
    day = Day()
    day.error = NoSuchStore("none yet")
    assert day.look() == {}
    day.error, made = None, day.back_up("vol")
    day.newest.run_ended("vol")
    assert day.look(seconds=1) == {"vol": made}


def test_another_store_and_another_host_are_listed_at_once_and_so_is_all_when_the_clock_was_set() -> None:
    day = Day()
    day.look()
    day.back_up("vol")
    assert day.newest.times(day.open, "other", day.now) == {}
    assert day.look().keys() == {"vol"}
    day.back_up("two")
    day.newest.forget()
    assert day.look().keys() == {"vol", "two"}
    day.back_up(
        "three", day.now + timedelta(days=1)
    )  # of a clock that is ahead: it counts from when the store got it
    assert day.newest.times(day.open, "host", day.now + timedelta(days=1, hours=1)).keys() == {
        "vol", "two", "three"
    }  # fmt: skip


def test_a_backup_that_somebody_makes_by_hand_is_seen_without_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = Day(now=datetime.now(UTC))
    config = Config(state_dir=tmp_path, host="host")
    history = History(tmp_path, config.store_config.place)
    surroundings = EngineAndStore(lambda: config, history, lambda: None, structlog.get_logger())
    session: Any = SimpleNamespace(
        config=config,
        host="host",
        engine=None,
        opened_again=day.open,
        own_places=SimpleNamespace(in_volume=lambda _: ""),
    )
    surroundings._session = session
    monkeypatch.setattr(
        "volferry.engine.volumes.list_volumes", lambda _: [Volume("vol", "local", {}, {}, "local", "")]
    )
    monkeypatch.setattr("volferry.engine.engine_lock.abandoned", lambda *_: None)
    assert surroundings.look().newest == {}
    listed = len(day.store.of("list"))
    made = day.back_up("vol")
    ref = next(day.repository.refs())
    number = history.begin("run", "host", "vol", made)
    history.end(number, datetime.now(UTC), "done", stats=BackupStats(ref, None, 0, 0, 0, 0, 0.0, 0.0))
    assert surroundings.look().newest == {"vol": made}
    assert surroundings.backed_up() == {"vol"}
    assert len(day.store.of("list")) == listed + 1  # the test's own
