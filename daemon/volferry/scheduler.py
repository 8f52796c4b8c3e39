"""Which volumes are due, and one run of each at a time: what the daemon does, without the engine, the store and the clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from volferry.errors import ConfigError
from volferry.schedule import Due, due

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from volferry.config import Config, VolumeSettings
    from volferry.model import Volume

_FIRST_RETRY = timedelta(minutes=1)
_LAST_RETRY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Appointment:
    """When a volume is to be backed up next."""

    volume: Volume
    at: datetime
    late: bool


@dataclass(slots=True)
class Agenda:
    """What is due, by what there is; it remembers failures only, and a restart forgets those."""

    zone: tzinfo
    _from_the_future: dict[tuple[str, datetime], datetime] = field(default_factory=dict)
    _failures: dict[str, tuple[int, datetime]] = field(
        default_factory=dict
    )  # how many in a row, and when the last was
    _said: dict[str, str] = field(default_factory=dict)

    def failed(self, volume: str, now: datetime) -> datetime:
        """When it is tried again: a minute later, then two, four, up to an hour."""
        count = self._failures.get(volume, (0, now))[0] + 1
        self._failures[volume] = (count, now)
        return now + _retry(count)

    def succeeded(self, volume: str) -> bool:
        """Whether it had failed before."""
        return self._failures.pop(volume, None) is not None

    def appointments(
        self, volumes: Iterable[Volume], config: Config, newest: Mapping[str, datetime], now: datetime
    ) -> tuple[list[Appointment], dict[str, str]]:
        """Of all volumes that are selected and have a schedule, the first one first; and what is wrong with settings, by
        volume.
        """
        found = []
        wrong: dict[str, str] = {}
        for volume in volumes:
            try:
                settings = config.settings_of(volume)
            except ConfigError as error:
                wrong[volume.name] = str(error)
                continue
            if not is_selected(volume, settings, config.daemon.select) or settings.schedule is None:
                continue
            last = self._believed(volume.name, newest.get(volume.name), now)
            next_due = due(settings.schedule, last, now, self.zone)
            if next_due is not None:
                found.append(self._appointment(volume, next_due, config.daemon.jitter.delta, now))
        return sorted(found, key=lambda each: (each.at, each.volume.name)), wrong

    def _believed(self, volume: str, newest: datetime | None, now: datetime) -> datetime | None:
        """One from the future was made while the clock was wrong: it counts from when it was seen first."""
        if newest is None or newest <= now:
            return newest
        return self._from_the_future.setdefault((volume, newest), now)

    def _appointment(self, volume: Volume, next_due: Due, jitter: timedelta, now: datetime) -> Appointment:
        at = next_due.at
        if next_due.at != now:  # of a volume without a backup, it would be another one at each look
            at += _share(f"{volume.name} {next_due.at.isoformat()}", jitter)
        if volume.name in self._failures:
            count, last = self._failures[volume.name]
            at = max(at, last + _retry(count))
        return Appointment(volume, at, next_due.late)


def is_selected(volume: Volume, settings: VolumeSettings, select: str) -> bool:
    if volume.anonymous or select == "labelled":
        return bool(settings.enable)
    return settings.enable is not False


def _retry(count: int) -> timedelta:
    return min(_LAST_RETRY, _FIRST_RETRY * (1 << min(count - 1, 10)))


def _share(of: str, jitter: timedelta) -> timedelta:
    """The same each time that it is asked for, and different from volume to volume, and from time to time."""
    return jitter * (int.from_bytes(sha256(of.encode()).digest()[:4], "big") / 2**32)


class Runs(Protocol):
    """Where runs take place."""

    def start(self, volume: str) -> None: ...
    def going_on(self) -> set[str]: ...


def start_due(
    appointments: Iterable[Appointment], runs: Runs, now: datetime, *, at_once: int
) -> datetime | None:
    """Starts what is due and may; returns when to look again, or None for when something ends or changes."""
    going_on = runs.going_on()
    for appointment in appointments:
        if appointment.volume.name in going_on:
            continue  # that of now is the one of then, too
        if appointment.at > now:
            return appointment.at
        if len(going_on) >= at_once:
            return None
        runs.start(appointment.volume.name)
        going_on = runs.going_on()
    return None
