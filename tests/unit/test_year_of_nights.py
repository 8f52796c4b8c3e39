"""A year of the daemon's loop where clocks change in awkward ways: each night has its backup, none has two, and nothing is late."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import structlog

from volferry.checked import value_of
from volferry.config import Config
from volferry.model import Volume
from volferry.scheduler import loop as loops
from volferry.scheduler.agenda import Agenda
from volferry.scheduler.loop import Ending, Loop, View
from volferry.scheduler.moments import Moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from volferry.scheduler.events import Event

# By name, with what a run of each takes.
SCHEDULES = {
    "midnight": ("@daily", timedelta(minutes=4)),
    "half past midnight": ("30 0 * * *", timedelta(minutes=70)),
    "two": ("0 2 * * *", timedelta(minutes=65)),
    "half past two": ("30 2 * * *", timedelta(minutes=1)),
    "monthly": ("@monthly", timedelta(minutes=10)),
    "often": ("0 */3 * * *", timedelta(minutes=3)),
}
BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class Year:
    """Surroundings, runs, teller and memory of a machine that nothing happens to."""

    zone: ZoneInfo
    now: datetime = BEGIN
    running: dict[str, datetime] = field(default_factory=dict)
    begun: dict[str, list[datetime]] = field(default_factory=lambda: {name: [] for name in SCHEDULES})
    newest: dict[str, datetime] = field(default_factory=lambda: dict.fromkeys(SCHEDULES, BEGIN))
    told: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.volumes = [
            Volume(name, "local", {}, {"volferry.schedule": text}, "local", "")
            for name, (text, _) in SCHEDULES.items()
        ]
        # None waits for another: how long that takes is another matter.
        config = value_of({"daemon": {"at_once": len(SCHEDULES)}}, Config)
        log = structlog.wrap_logger(None, processors=[self._drop])
        self.loop = Loop(lambda: config, Agenda(self.zone), self, self, self, self, log, self.moment)

    @staticmethod
    def _drop(_logger: object, _name: str, _line: Any) -> Any:
        raise structlog.DropEvent

    @property
    def moment(self) -> Moment:
        return Moment(self.now, self.now - BEGIN)

    def look(self) -> View:
        return View(self.volumes, dict(self.newest), dict.fromkeys(SCHEDULES, BEGIN))

    def start(self, volumes: Sequence[str], moving: str) -> None:
        assert not moving
        (volume,) = volumes
        self.begun[volume].append(self.now)
        self.running[volume] = self.now

    def stalled(self) -> set[str]:
        return set()

    def going_on(self) -> dict[str, datetime]:
        return self.running

    def keep_scheduled(self, scheduled: Iterable[tuple[str, str, datetime | None]]) -> None:
        pass

    def scheduled(self) -> list[tuple[str, str, datetime | None]]:
        return []

    def failed(self) -> set[str]:
        return set()

    def tell(self, event: Event) -> None:
        self.told[event.kind] += 1

    def live(self, until: datetime) -> None:
        while self.now < until:
            asked = self.moment.at(self.loop.step(self.moment))
            ends = {name: began + SCHEDULES[name][1] for name, began in self.running.items()}
            self.now = max(self.now + timedelta(milliseconds=1), min([asked, *ends.values()]))
            for name, end in ends.items():
                if end <= self.now:
                    self.newest[name] = self.running.pop(name)
                    self.loop.ended(name, Ending(good=True), self.moment)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago"]
)
def test_every_night_has_its_backup(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_LONGEST_LOOK", timedelta(hours=6))
    monkeypatch.setattr(Config, "settings_of", _settings_once())
    year = Year(ZoneInfo(zone))
    year.live(BEGIN + timedelta(days=366))
    first = BEGIN.astimezone(year.zone).date()
    nights = [first + timedelta(days=number) for number in range(1, 366)]
    for name, (text, _) in SCHEDULES.items():
        local = [time_.astimezone(year.zone) for time_ in year.begun[name]]
        found = Counter(each.date() for each in local)
        if name == "monthly":
            assert [(date.day, count) for date, count in sorted(found.items())] == [(1, 1)] * 12
        elif name != "often":
            assert {date: found[date] for date in nights} == dict.fromkeys(nights, 1), (name, text)
            late = [each for each in local if each.time() > _latest(text)]
            assert late == []
    gaps = {
        after - before for before, after in zip(year.begun["often"], year.begun["often"][1:], strict=False)
    }
    assert max(gaps) <= timedelta(hours=4)  # with an hour that is there twice
    assert min(gaps) >= timedelta(hours=2)
    assert set(year.told) == {"success"}


def _latest(text: str) -> time:
    """Where the clock leaves an hour out, it is the end of that."""
    return {"@daily": time(1, 5), "30 0 * * *": time(1, 5)}.get(text, time(3, 5))


def _settings_once() -> Any:
    """A volume's, which stay the same all year."""
    found: dict[str, Any] = {}
    real = Config.settings_of

    def settings_of(config: Config, volume: Volume) -> Any:
        if volume.name not in found:
            found[volume.name] = real(config, volume)
        return found[volume.name]

    return settings_of
