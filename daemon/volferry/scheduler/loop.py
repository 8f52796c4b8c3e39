"""The daemon's loop: looks at what there is, starts what is due, and says what becomes of it. Time is given to it.

Schedules go by the wall's clock, and all else by one that only goes on: when the wall's clock is put, that is noticed, and everything is looked at again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from volferry.errors import described
from volferry.schedule import Schedule
from volferry.scheduler.agenda import Scheduled, Selection
from volferry.scheduler.departures import Departures
from volferry.scheduler.events import Event
from volferry.scheduler.moments import Moment, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from volferry.config import Config
    from volferry.model import Volume
    from volferry.scheduler.agenda import Agenda, Appointment

_LONGEST_LOOK = timedelta(minutes=5)  # what is looked at again without a reason
_TROUBLED_LOOK = timedelta(minutes=1)  # after one that failed
_CALM = timedelta(seconds=2)
_MOST_SAID = 10_000
_NO_SCHEDULE = (
    'no volume has a schedule, so none is backed up: a label such as `volferry.schedule: "0 2 * * *"` on a volume gives it one, '
    "or `schedule` in the configuration"
)

Log = Any  # of structlog, which has no type for what it makes


@dataclass(frozen=True, slots=True)
class View:
    """What there is at one moment."""

    volumes: Sequence[Volume]
    newest: Mapping[str, datetime]  # when the newest backup of each began
    seen: Mapping[str, datetime]  # when each was seen first


@dataclass(frozen=True, slots=True)
class Down:
    """A service that a run had stopped, and that is not up."""

    name: str
    error: str
    run: str = ""  # the id of the run that had; empty where that is not known


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run of one volume ended."""

    good: bool  # there is a backup
    interrupted: bool = False  # by a signal to the daemon: nobody's failure
    refused: bool = False  # another run is at work on the volume: nobody's failure either
    error: str = ""
    backup: str = ""
    seconds: float = 0.0
    downtime_seconds: float = 0.0
    stored_bytes: int = 0
    findings: int = 0
    suspicious: str = ""  # in what the backup is unlike the one before, and what is held because of that
    run: str = ""
    stopped: bool = False  # it failed after it had stopped something
    down: tuple[Down, ...] = ()


class Surroundings(Protocol):
    """The engine and the store."""

    def look(self) -> View:
        """Raises VolferryError; anything else that it raises is trouble, too."""


class Memory(Protocol):
    """What outlives the process: after a start, what is late is so also while nothing can be looked at."""

    def keep_scheduled(self, scheduled: Iterable[tuple[str, str, datetime | None]]) -> None:
        """Volumes, their schedules, and when the newest backup of each began."""

    def scheduled(self) -> list[tuple[str, str, datetime | None]]: ...
    def failed(self) -> set[str]:
        """Volumes whose last run has failed."""


class Runs(Protocol):
    """Where runs take place. Each that ends must be told to the loop (`ended`)."""

    def start(self, volumes: Sequence[str], moving: str) -> None:
        """One run, of volumes that belong together. `moving` is why it must stop nothing; empty where it may."""

    def going_on(self) -> Mapping[str, datetime]:
        """Volumes, and when their runs began."""

    def stalled(self) -> Collection[str]:
        """Those of them whose runs get nowhere any longer: they count for none that goes on, but none is begun beside them."""


class Teller(Protocol):
    """Whoever tells people."""

    def tell(self, event: Event) -> None: ...


@dataclass(slots=True)
class Loop:
    """`step` as often as it asks for, and whenever `changed` or `ended` was called."""

    config: Callable[[], Config]
    agenda: Agenda
    surroundings: Surroundings
    runs: Runs
    teller: Teller
    memory: Memory
    log: Log
    started: Moment
    appointments: list[Appointment] = field(default_factory=list)
    trouble: str = ""  # why the last look failed; empty if it did not
    looked_at: timedelta | None = None  # by the clock that only goes on, as `_look_due`
    pace: Pace = field(init=False)
    _look_due: timedelta | None = None
    _newest: Mapping[str, datetime] = field(default_factory=dict)
    _seen: Mapping[str, datetime] = field(default_factory=dict)
    _kept: list[tuple[str, str, datetime | None]] = field(default_factory=list)
    _selection: Selection = field(default_factory=Selection)
    _scheduled: list[Scheduled] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)
    _late: dict[str, timedelta] = field(default_factory=dict)  # when it was told last
    _trouble_told: timedelta | None = None
    _failed: set[str] = field(default_factory=set)
    _overlapped: dict[str, datetime] = field(default_factory=dict)
    _departures: Departures = field(default_factory=Departures)
    _wrong: frozenset[str] = frozenset()  # what is left out, for its settings are wrong

    def __post_init__(self) -> None:
        self.pace = Pace(self.started.mono)
        self._kept = self.memory.scheduled()
        for volume, text, _ in self._kept:
            with suppress(ValueError):  # of a later version, with another syntax
                self._scheduled.append(Scheduled(volume, Schedule.of_document(text)))
        self._newest = {volume: time for volume, _, time in self._kept if time is not None}
        self._failed |= self.memory.failed()

    @property
    def late(self) -> frozenset[str]:
        return frozenset(each.volume for each in self.appointments if each.late)

    def changed(self, now: Moment) -> None:
        """Something has, in the engine. Much of that comes together, and each look asks the store."""
        soon = max(now.mono, now.mono if self.looked_at is None else self.looked_at + _CALM)
        self._look_due = soon if self._look_due is None else min(self._look_due, soon)

    def reconfigured(self) -> None:
        self._look_due = None
        self._said.clear()

    def step(self, now: Moment) -> timedelta:
        """Does what is due; returns when to be called again at the latest, by the clock that only goes on."""
        self._mind_the_clock(now)
        if self._look_due is None or now.mono >= self._look_due:
            self._look(now)
        self._judge(now)
        next_run = self._start_due(now)
        ends = [each for each in (self._look_due, next_run) if each is not None]
        return min(ends, default=now.mono + _LONGEST_LOOK)

    def _mind_the_clock(self, now: Moment) -> None:
        change = self.pace.change(now)
        if not change:
            return
        self._look_due = None
        if change == "suspended":
            self.log.info("the machine was suspended")
            return
        self.log.warning("the clock was put", how=change.removeprefix("put "))
        self.agenda.clock_was_put()
        self._overlapped.clear()

    def ended(self, volume: str, ending: Ending, now: Moment) -> None:
        """A run is over."""
        self._overlapped.pop(volume, None)
        self._look_due = None
        if ending.good:
            self._went_well(volume, ending, now)
        elif ending.refused:
            wait = self.agenda.refused(volume, now)
            self._look_due = now.mono + wait  # by then the other run may have made the backup
            self.log.info(
                "the run was refused",
                run=ending.run,
                volume=volume,
                error=ending.error,
                again=_text(now.wall + wait),
            )
        elif not ending.interrupted:
            retry_in = self.agenda.failed(volume, now, stopped=ending.stopped)
            self._failed.add(volume)
            again = "at its next scheduled time" if retry_in is None else _text(now.wall + retry_in)
            self.log.error("the run failed", run=ending.run, volume=volume, error=ending.error, again=again)
            self._tell("failure", volume, "the backup failed", now, ending)

    def _went_well(self, volume: str, ending: Ending, now: Moment) -> None:
        was_late = volume in self._late
        recovered = self.agenda.succeeded(volume, now) or volume in self._failed or was_late
        self._failed.discard(volume)
        self._late.pop(volume, None)
        if ending.error:
            # The service is down, or something after the backup was not done.
            self._failed.add(volume)  # the next one that goes well is news
            self.log.error(
                "the backup is good, but not all is well", run=ending.run, volume=volume, error=ending.error
            )
            self._tell("failure", volume, "the backup is good, but not all is well", now, ending)
        elif recovered:
            self.log.info("it works again", run=ending.run, volume=volume)
            self._tell("recovery", volume, "it works again", now, ending, urgent=was_late)
        if ending.suspicious:
            self.log.warning("a backup is suspicious", run=ending.run, volume=volume, error=ending.suspicious)
            self._tell(
                "suspicious",
                volume,
                "the backup is suspiciously unlike the one before",
                now,
                replace(ending, error=ending.suspicious),
            )
        self._tell("success", volume, "the backup is done", now, ending)

    def _tell(
        self,
        kind: Any,
        volume: str,
        what: str,
        now: Moment,
        ending: Ending | None = None,
        *,
        urgent: bool = False,
    ) -> None:
        self.teller.tell(Event(kind, volume, f"{volume}: {what}" if volume else what, now, ending, urgent))

    def _is_to_be_told_again(self, told: timedelta, now: Moment) -> bool:
        """Of what lasts: who missed one message gets another."""
        return now.mono - told >= self.config().notify.again.delta

    def _look(self, now: Moment) -> None:
        try:
            view = self.surroundings.look()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it must not end the daemon: it is said, and tried again
            self.trouble = described(error)
            if self._trouble_told is None or self._is_to_be_told_again(self._trouble_told, now):
                self._trouble_told = now.mono
                self._tell(
                    "failure",
                    "",
                    "cannot look for what is due",
                    now,
                    Ending(False, error=self.trouble),
                    urgent=True,
                )
            self._say_once("cannot look for what is due", self.trouble)
            self._look_due = now.mono + _TROUBLED_LOOK
            return
        if self.trouble:
            self.log.info("the engine and the store can be looked at again")
            self._tell("recovery", "", "the engine and the store can be looked at again", now, urgent=True)
            self._trouble_told = None
            self._said = {key for key in self._said if not key.startswith("cannot look")}
        self.trouble = ""
        before = {each.volume: each for each in self._scheduled}
        self._scheduled, wrong = self._selection.of(view.volumes, self.config())
        # By the schedule that it had: a mistake in a label must not make a volume that nobody misses of it.
        self._scheduled += [before[volume] for volume in sorted(wrong) if volume in before]
        self._wrong = frozenset(wrong)
        for volume, problem in wrong.items():
            if self._say_once("a volume is left out", problem, volume=volume):
                self._tell("failure", volume, "it is left out", now, Ending(good=False, error=problem))
        try:
            self._say_departures(before.values(), {volume.name for volume in view.volumes}, now)
        except Exception as error:  # noqa: BLE001 -- what is scheduled is to be backed up all the same
            self._say_once("what has left the schedule cannot be found out", described(error))
        self._newest, self._seen = view.newest, view.seen
        kept = [
            (each.volume, str(each.schedule), view.newest.get(each.volume))
            for each in (*self._scheduled, *self._departures.unsettled)
        ]
        if kept != self._kept:
            self.memory.keep_scheduled(kept)
            self._kept = kept
        self.looked_at = now.mono
        self._look_due = now.mono + _LONGEST_LOOK

    def _say_departures(self, before: Iterable[Scheduled], there: Collection[str], now: Moment) -> None:
        names = {each.volume for each in self._scheduled}
        just_now, to_tell = self._departures.look(before, names, there, now.mono)
        error = "it is there, and has no schedule any longer: a label is gone, the container that had it, or a rule"
        for volume in just_now:
            self.log.warning("a volume has left the schedule", volume=volume, error=error)
        for volume in to_tell:
            self._tell("failure", volume, "it is no longer backed up", now, Ending(False, error=error))
        if not names:
            self._say_once("nothing is scheduled", _NO_SCHEDULE)
        if self._departures.nothing_is_scheduled(names, now.mono):
            error = "no volume has a schedule: `volferry volumes` and `volferry config check` show why"
            self._tell("failure", "", "nothing is backed up", now, Ending(False, error=error))

    def _judge(self, now: Moment) -> None:
        """By the last look that did not fail: what is late does not become less so where nothing can be seen."""
        self.appointments = self.agenda.appointments(
            self._scheduled, self._newest, self._seen, now, jitter=self.config().daemon.jitter.delta
        )
        late = self.late
        self._late = {volume: told for volume, told in self._late.items() if volume in late}
        if self.pace.is_catching_up(now):
            late &= self._failed
        error = "it has had no good backup for longer than its schedule allows"
        for volume in sorted(late):
            if volume not in self._late:
                self.log.error("a volume is late", volume=volume, error=error)
            elif not self._is_to_be_told_again(self._late[volume], now):
                continue
            self._late[volume] = now.mono
            self._tell("late", volume, "it is late", now, Ending(False, error=error), urgent=True)

    def _start_due(self, now: Moment) -> timedelta | None:
        """Starts what may; returns when the next one is due, None if that is not known before something happens."""
        if self.trouble or self.looked_at is None:
            return None  # it would fail, and be tried again later than the next look
        at_once = self.config().daemon.at_once
        going_on = self.runs.going_on()
        next_run: timedelta | None = None
        for appointment in self.appointments:
            volume = appointment.volume
            if volume in self._wrong:
                continue
            if volume in going_on:
                self._overlap(volume, going_on[volume], now.wall)
            elif appointment.at > now.wall:
                next_run = now.when(appointment.at)
                break
            elif appointment.unit not in (units := self._units_at_work(going_on)) and len(units) < at_once:
                unit = self._due_with(appointment, going_on, now.wall)
                try:
                    self.runs.start(unit, appointment.moving)
                except Exception as error:  # noqa: BLE001 -- it is one failed run, and the others are due
                    for each in unit:
                        self.ended(each, Ending(good=False, error=described(error)), now)
                going_on = self.runs.going_on()
        return next_run

    def _units_at_work(self, going_on: Iterable[str]) -> set[str]:
        """By the names of their first volumes. No two runs of one unit take place at a time: each would run its hooks."""
        units = {each.volume: each.unit for each in self.appointments}
        return {units.get(volume, volume) for volume in set(going_on) - set(self.runs.stalled())}

    def _due_with(self, first: Appointment, going_on: Collection[str], now: datetime) -> list[str]:
        """That volume, and those of its unit that are due as well."""
        return [
            each.volume
            for each in self.appointments
            if each.unit == first.unit
            and each.at <= now
            and bool(each.moving) == bool(first.moving)
            and each.volume not in going_on
            and each.volume not in self._wrong
        ]

    def _overlap(self, volume: str, began: datetime, now: datetime) -> None:
        """Says that a run came due while the one before was still going on; that one counts for both."""
        schedule = next(each.schedule for each in self._scheduled if each.volume == volume)
        next_due = schedule.after(self._overlapped.get(volume, began), self.agenda.zone)
        if next_due is not None and next_due <= now:
            self._overlapped[volume] = now
            self.log.warning(
                "a run is left out: the one before is still going on", volume=volume, began=_text(began)
            )

    def _say_once(self, what: str, error: str, **more: str) -> bool:
        key = f"{what} {error} {more}"
        if key in self._said:
            return False
        if len(self._said) >= _MOST_SAID:  # errors that name something else each time
            self._said.clear()
        self._said.add(key)
        self.log.error(what, error=error, **more)
        return True


def _text(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
