"""What the daemon does as time passes, with an engine and a store that are made up."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from volferry.checked import value_of
from volferry.config import Config
from volferry.errors import EngineUnreachable
from volferry.model import Volume, VolumeUse
from volferry.scheduler.agenda import Agenda
from volferry.scheduler.loop import Ending, Loop, View
from volferry.scheduler.moments import Moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from volferry.scheduler.events import Event

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def volume(name: str, schedule: str, **more: str) -> Volume:
    labels = {f"volferry.{key.replace('_', '-')}": value for key, value in more.items()}
    return Volume(name, "local", {}, {"volferry.schedule": schedule, **labels}, "local", "")


@dataclass
class Made:
    """Surroundings, runs and teller at once."""

    now: datetime = NOW  # what the wall's clock shows
    mono: timedelta = timedelta(days=2)
    asleep: timedelta = timedelta()
    volumes: list[Volume] = field(default_factory=list)
    newest: dict[str, datetime] = field(default_factory=dict)
    seen: dict[str, datetime] = field(default_factory=dict)
    unreachable: bool = False
    failing: Exception | None = None
    running: dict[str, datetime] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    together: list[list[str]] = field(default_factory=list)  # volumes of each run
    hung: set[str] = field(default_factory=set)
    moving: list[tuple[datetime, str]] = field(default_factory=list)  # runs that stop nothing, and why
    told: list[tuple[str, str]] = field(default_factory=list)
    urgent: set[str] = field(default_factory=set)  # what was told at once, whatever else there was to tell
    had_failed: set[str] = field(default_factory=set)  # before the start
    looks: int = 0
    config: Config = field(default_factory=Config)
    kept: list[tuple[str, str, datetime | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        log = structlog.wrap_logger(None, processors=[self._drop])
        started = Moment(self.now - timedelta(days=1), self.mono - timedelta(days=1))
        self.loop = Loop(lambda: self.config, Agenda(UTC), self, self, self, self, log, started)
        self.lines: list[dict[str, Any]] = []

    def _drop(self, _logger: object, _name: str, line: Any) -> Any:
        self.lines.append(line)
        raise structlog.DropEvent

    def look(self) -> View:
        self.looks += 1
        if self.unreachable:
            raise EngineUnreachable("no engine")
        if self.failing is not None:
            raise self.failing
        for each in self.volumes:
            self.seen.setdefault(each.name, self.now)
        return View(self.volumes, dict(self.newest), self.seen)

    def start(self, volumes: Sequence[str], moving: str) -> None:
        self.running |= dict.fromkeys(volumes, self.now)
        if moving:
            self.moving.append((self.now, moving))
        self.begun += volumes
        self.together.append([*volumes])

    def stalled(self) -> set[str]:
        return self.hung

    def going_on(self) -> dict[str, datetime]:
        return dict(self.running)

    def keep_scheduled(self, scheduled: Iterable[tuple[str, str, datetime | None]]) -> None:
        self.kept = list(scheduled)

    def failed(self) -> set[str]:
        return self.had_failed

    def scheduled(self) -> list[tuple[str, str, datetime | None]]:
        return self.kept

    def tell(self, event: Event) -> None:
        self.told.append((event.kind, event.volume))
        if event.urgent:
            self.urgent.add(event.what)

    def ends(self, volume: str, *, good: bool = True, **more: Any) -> None:
        began = self.running.pop(volume)
        if good:
            self.newest[volume] = began
        self.loop.ended(volume, Ending(good=good, **more), self.moment)

    @property
    def moment(self) -> Moment:
        return Moment(self.now, self.mono, self.asleep)

    def after(self, **span: float) -> datetime:
        """Returns when the loop wants to be called again, by the wall's clock."""
        self.now += timedelta(**span)
        self.mono += timedelta(**span)
        return self.moment.at(self.loop.step(self.moment))


def test_what_is_due_is_started_and_not_again_before_it_is_due_again() -> None:
    made = Made(volumes=[volume("vol", "@hourly")])
    made.after()
    assert made.begun == ["vol"]
    made.after(minutes=1)
    made.ends("vol")
    assert made.after(minutes=1) <= NOW + timedelta(hours=1)
    assert made.begun == ["vol"]
    made.after(minutes=58)
    assert made.begun == ["vol", "vol"]


def test_no_more_than_so_many_runs_at_once_and_one_of_a_volume() -> None:
    made = Made(volumes=[volume(f"vol{number}", "@daily") for number in range(3)])
    made.config = value_of({"daemon": {"at_once": 2}}, Config)
    made.after()
    made.after(minutes=10)
    assert made.begun == ["vol0", "vol1"]
    made.ends("vol0")
    made.after()
    assert made.begun == ["vol0", "vol1", "vol2"]


def shared(name: str, schedule: str = "@hourly", container: str = "app") -> Volume:
    """One that a container writes to, which is stopped."""
    use = VolumeUse(container, container, "image", "running", "/data", True)
    return dataclasses.replace(volume(name, schedule, quiesce="stop"), uses=(use,))


def test_volumes_that_belong_together_are_one_run_where_they_are_due_at_one_time() -> None:
    made = Made(volumes=[shared("db"), shared("files"), shared("other", container="else")])
    made.config = value_of({"daemon": {"at_once": 2, "jitter": "5m"}}, Config)
    made.after()
    assert made.together == [["db", "files"], ["other"]]
    for each in ("db", "files", "other"):
        made.ends(each)
    for _ in range(13):  # of each, its time in the five minutes after 13 o'clock
        made.after(minutes=5)
    assert sorted(made.together[2:]) == [["db", "files"], ["other"]]


def test_intervals_that_have_come_apart_by_a_moment_come_together_again() -> None:
    made = Made(volumes=[shared("db", "every 6h"), shared("files", "every 6h")])
    made.config = value_of({"daemon": {"jitter": "30m"}}, Config)
    made.newest = {"db": NOW - timedelta(hours=6, minutes=50), "files": NOW - timedelta(hours=2, minutes=44)}
    for _ in range(3):
        made.after(minutes=30)
    assert made.together == [["db", "files"]]


def test_one_that_fails_again_and_again_has_the_others_run_no_more_often() -> None:
    made = Made(volumes=[shared("db", "every 6h"), shared("files", "every 6h")])
    made.newest = dict.fromkeys(("db", "files"), NOW - timedelta(hours=7))
    for _ in range(60):
        made.after(minutes=5)
        for volume in [*made.running]:
            made.ends(volume, good=volume == "db", error="it is full")
    assert [run.count("db") for run in made.together].count(1) == 1


def test_no_two_runs_of_one_unit_take_place_at_a_time() -> None:
    made = Made(volumes=[shared("db"), shared("files", "every 90m")], seen={})
    made.newest = {"db": NOW - timedelta(minutes=61), "files": NOW - timedelta(minutes=89)}
    made.after()
    assert made.together == [["db"]]
    made.after(minutes=2)
    assert made.together == [["db"]]  # `files` is due, and waits
    made.ends("db")
    made.after(minutes=1)
    assert made.together == [["db"], ["files"]]


def test_where_one_of_them_fails_all_are_tried_again_together() -> None:
    made = Made(volumes=[shared("db"), shared("files")])
    made.newest = dict.fromkeys(("db", "files"), NOW - timedelta(minutes=61))
    made.after()
    made.loop.agenda.failed("files", made.moment)  # it has failed alone before
    for each in ("db", "files"):
        made.ends(each, good=False, error="it is full")
    made.after(minutes=1)
    assert made.together == [["db", "files"]]
    made.after(minutes=1)
    assert made.together == [["db", "files"]] * 2


def test_each_run_that_would_overlap_is_said_and_not_made_up_for() -> None:
    made = Made(volumes=[volume("vol", "@hourly")])
    for _ in range(5):
        made.after(minutes=40)
    said = [line for line in made.lines if line["event"].startswith("a run is left out")]
    assert len(said) == 3  # at 13, 14 and 15 o'clock
    made.ends("vol")
    made.after()
    assert made.begun == ["vol"]
    made.after(hours=1)
    assert made.begun == ["vol", "vol"]


def test_what_fails_is_told_and_tried_again_and_its_recovery_is_told() -> None:
    made = Made(volumes=[volume("vol", "@daily")])
    made.after()
    made.ends("vol", good=False, error="no space")
    assert made.after(seconds=30) <= NOW + timedelta(seconds=60)
    assert made.begun == ["vol"]
    made.after(seconds=31)
    assert made.begun == ["vol", "vol"]
    made.ends("vol")
    assert made.told == [("failure", "vol"), ("recovery", "vol"), ("success", "vol")]


def test_what_the_daemons_own_end_interrupts_is_nobodys_failure() -> None:
    made = Made(volumes=[volume("vol", "@daily")])
    made.after()
    made.ends("vol", good=False, interrupted=True)
    assert made.told == []


def test_a_run_that_is_refused_because_of_another_one_is_nobodys_failure_and_is_tried_again() -> None:
    made = Made(volumes=[volume("vol", "@hourly")])
    made.after()
    for _ in range(4):  # not later and later
        assert list(made.running) == ["vol"]
        made.ends("vol", good=False, refused=True, error="another run is at work")
        made.after(seconds=30)
        assert not made.running
        made.after(seconds=30)
    made.running.clear()
    made.begun.pop()
    made.loop.ended("vol", Ending(good=False, refused=True), made.moment)
    assert made.told == []
    assert {line["event"] for line in made.lines} == {"the run was refused"}
    made.newest["vol"] = made.now  # the other run is done
    made.after(minutes=1)
    assert len(made.begun) == 4
    made.after(hours=1)
    made.ends("vol")
    assert made.told == [("success", "vol")]


def test_a_good_backup_after_which_a_service_is_down_is_a_failure_and_not_made_again() -> None:
    made = Made(volumes=[volume("vol", "@daily")])
    made.after()
    made.ends("vol", error="web could not be brought back")
    made.after(hours=1)
    assert made.begun == ["vol"]
    assert made.told == [("failure", "vol"), ("success", "vol")]


def test_an_engine_that_goes_is_told_once_and_asked_each_minute_until_it_is_back() -> None:
    made = Made(volumes=[volume("vol", "@hourly")], newest={"vol": NOW})
    made.after()
    made.unreachable = True
    for _ in range(70):
        made.after(minutes=1)
    assert made.told == [("failure", "")]
    assert made.begun == []
    assert made.looks > 60
    made.unreachable = False
    made.after(minutes=1)
    assert made.told == [("failure", ""), ("recovery", "")]
    assert made.begun == ["vol"]


def test_late_is_told_once_a_day_whatever_the_reason_and_over_with_a_good_backup() -> None:
    made = Made(volumes=[volume("vol", "@daily")], newest={"vol": NOW})
    made.after()
    made.unreachable = True
    for _ in range(3):
        made.after(days=1)
    # That nothing can be looked at, each day; and that it is late from the second on.
    assert made.told == [("failure", "")] * 2 + [("late", "vol"), ("failure", ""), ("late", "vol")]
    assert made.loop.late == {"vol"}
    made.unreachable = False
    made.after(minutes=1)
    made.ends("vol")
    made.after()
    assert made.loop.late == set()
    assert ("recovery", "vol") in made.told
    assert made.urgent == {
        "cannot look for what is due",
        "the engine and the store can be looked at again",
        "vol: it is late",
        "vol: it works again",
    }


def test_after_a_start_what_was_missed_is_late_only_if_it_fails_now() -> None:
    for good in (True, False):
        made = Made(volumes=[volume("vol", "@daily")], newest={"vol": NOW - timedelta(days=9)})
        made.loop.pace.since = made.mono
        made.after()
        made.ends("vol", good=good)
        made.after(seconds=1)
        assert (("late", "vol") in made.told) is not good


def test_a_volume_whose_label_becomes_wrong_is_late_in_its_time() -> None:
    made = Made(volumes=[volume("vol", "@daily")], newest={"vol": NOW})
    made.after()
    made.volumes = [volume("vol", "now and then")]
    made.loop.reconfigured()
    for _ in range(3):
        made.after(days=1)
    assert made.begun == []
    assert made.told == [("failure", "vol"), ("late", "vol"), ("late", "vol")]  # each day
    assert made.loop.late == {"vol"}


def test_a_recovery_is_told_also_after_a_restart() -> None:
    made = Made(volumes=[volume("vol", "@daily")], had_failed={"vol"})
    made.after()
    made.ends("vol")
    assert made.told == [("recovery", "vol"), ("success", "vol")]


def test_the_service_that_was_left_down_is_news_when_it_works_again() -> None:
    made = Made(volumes=[volume("vol", "@daily")])
    made.after()
    made.ends("vol", error="copy: no such bucket")
    made.after(days=1)
    made.ends("vol")
    assert made.told == [("failure", "vol"), ("success", "vol"), ("recovery", "vol"), ("success", "vol")]


def test_events_that_come_together_are_one_look() -> None:
    made = Made(volumes=[volume("vol", "@daily")], newest={"vol": NOW})
    made.after()
    for _ in range(100):
        made.loop.changed(made.moment)
        made.after(milliseconds=10)
    assert made.looks == 1
    made.after(seconds=2)
    assert made.looks == 2


def test_settings_that_are_wrong_are_told_once_and_no_matter_of_the_others() -> None:
    made = Made(volumes=[volume("good", "@daily"), volume("wrong", "sometimes")])
    for _ in range(3):
        made.after(minutes=5)
    assert made.begun == ["good"]
    assert made.told == [("failure", "wrong")]


def test_what_is_late_is_told_also_by_a_daemon_that_can_look_at_nothing_since_its_start() -> None:
    before = Made(volumes=[volume("vol", "@daily"), volume("new", "@daily")], newest={"vol": NOW})
    before.after()
    after = Made(now=NOW + timedelta(days=3), kept=before.kept, unreachable=True)
    after.after()
    assert after.begun == []
    assert ("late", "vol") in after.told


def test_a_suspicious_backup_is_told_besides_each_time() -> None:
    made = Made(volumes=[volume("a", "@hourly")])
    for _ in range(2):
        made.loop.ended(
            "a", Ending(good=True, findings=1, suspicious="shrunk: from 10 to 1 entries"), made.moment
        )
    assert [kind for kind, _ in made.told] == ["suspicious", "success"] * 2
    assert [line["error"] for line in made.lines] == ["shrunk: from 10 to 1 entries"] * 2


def test_a_clock_that_was_years_ahead_and_is_put_back_keeps_nothing_waiting() -> None:
    made = Made(now=NOW + timedelta(days=20_000), volumes=[volume("vol", "@daily"), volume("bad", "@daily")])
    made.config = value_of({"daemon": {"at_once": 2}}, Config)
    made.after()
    made.ends("vol")
    made.ends("bad", good=False)
    made.after()
    made.told.clear()
    made.begun.clear()
    made.now, made.seen = NOW, dict.fromkeys(made.seen, NOW - timedelta(days=3))
    made.after()
    assert sorted(made.begun) == ["bad", "vol"]
    assert sorted(made.told) == [("late", "bad"), ("late", "vol")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EngineUnreachable("no engine"), "no engine"),
        (OSError(116, "Stale file handle", "manifests"), "unexpected OSError: [Errno 116] Stale file handle"),
        (
            ValueError("year 9999 is out of range\nand more"),
            "unexpected ValueError: year 9999 is out of range and more",
        ),
    ],
)
def test_a_look_that_fails_in_whatever_way_is_told_once_and_tried_again(error: Exception, said: str) -> None:
    made = Made(volumes=[volume("vol", "@daily")], failing=error)
    for _ in range(3):
        assert made.after(minutes=1) <= made.now + timedelta(minutes=1)
    assert made.loop.trouble.startswith(said)
    assert len(made.loop.trouble.splitlines()) == 1
    assert [line["error"] for line in made.lines] == [made.loop.trouble]
    assert made.told == [("failure", "")]
    made.failing = None
    made.after(minutes=1)
    assert made.loop.trouble == ""
    assert made.begun == ["vol"]
    assert made.told[-1] == ("recovery", "")


def nights(made: Made, count: int) -> list[datetime]:
    """When runs begin in so many days, by the wall's clock; each takes five minutes."""
    began = []
    end = made.mono + timedelta(days=count)
    while made.mono < end:
        until = made.after()
        for name in list(made.running):
            began.append(made.now)
            made.after(minutes=5)
            made.ends(name)
            until = made.after()
        made.after(seconds=max(0.0, (until - made.now).total_seconds()))
    return began


@pytest.mark.parametrize("ahead", [timedelta(hours=5), timedelta(days=365)])
def test_a_clock_that_was_ahead_and_is_put_right_is_noticed_and_every_night_has_its_backup(
    ahead: timedelta,
) -> None:
    made = Made(now=NOW + ahead, volumes=[volume("vol", "0 2 * * *")])
    made.newest = {"vol": NOW - timedelta(hours=10)}
    nights(made, 1)
    looks = made.looks
    made.now -= ahead
    made.after(seconds=2)
    assert made.looks == looks + 1
    made.newest["vol"] = min(made.newest["vol"], made.now)  # the store knows when it got it
    made.told.clear()
    began = nights(made, 4)
    assert [time for time in began if time.hour != 2] == [time for time in began[:1] if time.hour != 2]
    assert len({time.date() for time in began if time.hour == 2}) == 4
    assert made.loop.late == set()
    assert {kind for kind, _ in made.told} == {"success"}


@pytest.mark.parametrize("by", [timedelta(hours=5), timedelta(days=365)])
def test_a_clock_that_is_put_forward_makes_nothing_late_that_is_done_now(by: timedelta) -> None:
    made = Made(volumes=[volume("vol", "0 2 * * *")], newest={"vol": NOW - timedelta(hours=10)})
    nights(made, 1)
    made.now += by
    made.told.clear()
    began = nights(made, 3)
    assert began[0] - made.newest["vol"] < timedelta(days=3)
    assert {kind for kind, _ in made.told} == {"success"}
    assert len(began) == len({time.date() for time in began}) >= 3


def test_a_machine_that_was_asleep_does_at_once_what_came_due_and_calls_nothing_late() -> None:
    made = Made(volumes=[volume("vol", "0 2 * * *")], newest={"vol": NOW - timedelta(hours=10)})
    nights(made, 1)
    made.asleep += timedelta(days=5)
    made.now += timedelta(days=5)
    made.mono += timedelta(days=5)
    made.told.clear()
    woke = made.now
    assert nights(made, 1)[0] == woke
    assert {kind for kind, _ in made.told} == {"success"}


def test_a_run_that_failed_is_tried_again_by_a_clock_that_nobody_puts() -> None:
    made = Made(volumes=[volume("vol", "@daily")])
    made.after()
    made.ends("vol", good=False, error="no space")
    made.now -= timedelta(seconds=4)  # no step: what slewing may do
    made.after(seconds=59)
    assert made.begun == ["vol"]
    made.after(seconds=1)
    assert made.begun == ["vol", "vol"]


def test_the_first_backup_of_a_new_volume_stops_nothing_and_the_scheduled_one_does() -> None:
    made = Made()
    made.after()
    made.volumes = [volume("pgdata", "0 2 * * *", quiesce="stop"), volume("files", "0 2 * * *")]
    made.loop.changed(made.moment)
    began = nights(made, 2)
    first = "it is the first backup, and outside of the schedule"
    assert [why for _, why in made.moving] == [first]  # files stops nothing anyway
    assert made.begun.count("pgdata") == 3
    assert [each.hour for each in began if each.hour != 12] == [2] * 4


def test_a_first_backup_that_is_due_by_the_schedule_stops_what_it_should() -> None:
    made = Made(now=NOW.replace(hour=1, minute=59), volumes=[volume("pgdata", "0 2 * * *", quiesce="stop")])
    made.after()
    made.ends("pgdata", good=False, error="no store")
    made.after(minutes=1, seconds=1)
    assert len(made.begun) == 2
    assert len(made.moving) == 1


def test_a_run_that_had_stopped_something_and_failed_is_tried_twice_before_its_next_time() -> None:
    made = Made(now=NOW - timedelta(hours=11), volumes=[volume("pgdata", "0 2 * * *", quiesce="stop")])
    made.newest = {"pgdata": made.now - timedelta(hours=23)}
    stops = []
    end = made.now + timedelta(days=3)
    while made.now < end:
        until = made.after()
        if made.running:
            stops.append(made.now)
            made.after(seconds=40)
            made.ends("pgdata", good=False, error="no space", stopped=True)
            until = made.after()
        made.after(seconds=max(0.0, (until - made.now).total_seconds()))
    at_two = [f"{each:%d %H:%M}" for each in stops]
    assert at_two == ["10 02:00", "10 02:01", "11 02:00", "12 02:00"]
    assert ("late", "pgdata") in made.told


def test_a_run_that_failed_before_it_stopped_anything_is_tried_again_as_any_other() -> None:
    made = Made(
        volumes=[volume("pgdata", "0 11 * * *", quiesce="stop")], newest={"pgdata": NOW - timedelta(days=1)}
    )
    made.after()
    for _ in range(4):
        made.ends("pgdata", good=False, error="no space")
        made.after(minutes=20)
    assert len(made.begun) == 5


def test_what_begins_after_its_window_stops_nothing_and_says_so() -> None:
    pgdata = volume("pgdata", "0 2 * * *", quiesce="stop", quiesce_window="2h")
    made = Made(volumes=[pgdata], newest={"pgdata": NOW - timedelta(days=1)})
    made.after()  # the machine was off at night
    assert [why for _, why in made.moving] == [
        "it begins later after its scheduled time than quiesce_window says"
    ]
    made.ends("pgdata")
    nights(made, 2)
    assert len(made.begun) == 3
    assert len(made.moving) == 1


def test_what_begins_late_for_it_waited_for_others_stops_what_it_should_within_its_window() -> None:
    labels = {"quiesce": "stop", "quiesce_window": "2h"}
    made = Made(now=NOW.replace(hour=1), volumes=[volume(name, "0 2 * * *", **labels) for name in "abc"])
    made.newest = dict.fromkeys("abc", NOW - timedelta(days=1))
    made.after()
    for name in "abc":
        made.after(hours=1)
        made.after(minutes=1)
        assert list(made.running) == [name]
        made.ends(name)
        made.after()
    assert [at.hour for at, _ in made.moving] == []
    assert made.begun == ["a", "b", "c"]


def test_a_run_that_hangs_does_not_keep_other_volumes_from_their_backups() -> None:
    made = Made(volumes=[volume("a", "@daily"), volume("b", "@daily")], newest={"a": NOW, "b": NOW})
    made.after()
    made.after(days=1)
    assert made.begun == ["a"]
    made.hung = {"a"}
    made.after(hours=1)
    made.ends("b")
    for _ in range(13):
        made.after(days=1)
        made.ends("b")
    assert made.begun == ["a", *["b"] * 14]
    assert ("late", "a") in made.told
    assert ("late", "b") not in made.told


def test_a_volume_that_leaves_the_schedule_is_told_once_if_it_does_not_come_back() -> None:
    made = Made(
        volumes=[volume("vol", "@daily"), volume("other", "@daily")], newest={"vol": NOW, "other": NOW}
    )
    made.after()
    made.volumes[0] = Volume("vol", "local", {}, {}, "local", "")  # its container is made anew
    made.after(minutes=5)
    made.volumes[0] = volume("vol", "@daily")
    made.after(hours=2)
    assert made.told == []
    made.volumes[0] = Volume("vol", "local", {}, {}, "local", "")
    for _ in range(20):
        made.after(minutes=10)
    assert made.told == [("failure", "vol")]
    assert [line["volume"] for line in made.lines if "has left" in line["event"]] == ["vol", "vol"]


def test_a_volume_that_has_left_the_schedule_is_told_also_where_the_daemon_was_restarted() -> None:
    before = Made(
        volumes=[volume("vol", "@daily"), volume("other", "@daily")], newest={"vol": NOW, "other": NOW}
    )
    before.after()
    before.volumes[0] = Volume("vol", "local", {}, {}, "local", "")
    before.after(minutes=5)
    after = Made(now=before.now, kept=before.kept, volumes=before.volumes, newest=before.newest)
    for _ in range(20):
        after.after(minutes=10)
    assert after.told == [("failure", "vol")]
    again = Made(now=after.now, kept=after.kept, volumes=after.volumes, newest=after.newest)
    for _ in range(20):
        again.after(minutes=10)
    assert again.told == []


def test_a_volume_that_is_removed_has_not_left_the_schedule() -> None:
    made = Made(
        volumes=[volume("vol", "@daily"), volume("other", "@daily")], newest={"vol": NOW, "other": NOW}
    )
    made.after()
    del made.volumes[0]
    for _ in range(20):
        made.after(minutes=10)
    assert made.told == []


def test_that_no_volume_has_a_schedule_is_told_once() -> None:
    made = Made(volumes=[Volume("vol", "local", {}, {}, "local", "")])
    for _ in range(20):
        made.after(minutes=10)
    assert made.told == [("failure", "")]
    assert [line["event"] for line in made.lines] == ["nothing is scheduled"]
    assert "volferry.schedule" in made.lines[0]["error"]


def test_a_schedule_that_a_later_version_has_kept_keeps_no_daemon_from_its_work() -> None:
    made = Made(volumes=[volume("vol", "@daily")], kept=[("other", "at dawn", NOW), ("vol", "@daily", NOW)])
    made.newest = {"vol": NOW}
    made.after(days=1)
    assert made.begun == ["vol"]
