"""When a share of the store is read, and what people are told, as time passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog

from volferry.checked import value_of
from volferry.config import Config
from volferry.scheduler.moments import Moment
from volferry.scheduler.verifying import ShareEnding, Verifying

if TYPE_CHECKING:
    from volferry.scheduler.events import Event

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@dataclass
class Made:
    """Shares, memory and teller at once."""

    schedule: str | None = "0 4 * * *"
    now: datetime = NOW  # what the wall's clock shows
    mono: timedelta = timedelta(days=2)
    last: datetime | None = None
    began: datetime | None = None
    begun: list[datetime] = field(default_factory=list)
    backups: dict[str, datetime] = field(default_factory=dict)
    told: list[tuple[str, str, str]] = field(default_factory=list)
    failing: Exception | None = None

    def __post_init__(self) -> None:
        log = structlog.wrap_logger(None, processors=[self._drop])
        config = value_of({"verify": {"schedule": self.schedule} if self.schedule else {}}, Config)
        self.verifying = Verifying(lambda: config, lambda: UTC, self, self, self.tell, log, self.moment)
        self.verifying.pace.since -= timedelta(days=1)  # it was started then

    @staticmethod
    def _drop(_logger: object, _name: str, _line: Any) -> Any:
        raise structlog.DropEvent

    def start_share(self) -> None:
        self.began = self.now
        self.begun.append(self.now)

    @property
    def share_goes_on(self) -> bool:
        return self.began is not None

    def going_on(self) -> dict[str, datetime]:
        return self.backups

    def last_share(self) -> datetime | None:
        if self.failing is not None:
            raise self.failing
        return self.last

    def shares_since(self, now: datetime) -> datetime:
        return min(now, NOW)

    def tell(self, event: Event) -> None:
        self.told.append((event.kind, event.volume, event.ending.error if event.ending else ""))

    def ends(self, *, done: bool = True, **more: Any) -> None:
        if done:
            self.last = self.now
        self.began = None
        self.verifying.ended(ShareEnding(done=done, **more), self.moment)

    def after(self, **span: float) -> datetime | None:
        self.now += timedelta(**span)
        self.mono += timedelta(**span)
        until = self.verifying.step(self.moment)
        return None if until is None else self.moment.at(until)

    @property
    def moment(self) -> Moment:
        return Moment(self.now, self.mono)


def test_nothing_is_read_without_a_schedule() -> None:
    made = Made(schedule=None)
    assert made.after() is None
    assert (made.begun, made.verifying.late) == ([], False)


def test_a_share_is_read_at_each_time_and_once() -> None:
    made = Made()
    made.after()
    assert made.begun == [NOW]
    made.after(hours=20)  # it takes its time
    assert len(made.begun) == 1
    made.ends(objects=3)
    assert made.after() == datetime(2026, 3, 12, 4, tzinfo=UTC)
    made.after(hours=20)
    assert made.begun[1:] == [datetime(2026, 3, 12, 4, tzinfo=UTC)]
    assert made.told == []


def test_backups_go_first_but_not_for_ever() -> None:
    made = Made(last=NOW, backups={"vol": NOW})
    made.after(hours=17)
    assert made.begun == []
    assert made.after() == made.now + timedelta(minutes=1)
    made.after(days=1)
    assert made.verifying.late
    assert len(made.begun) == 1
    assert [kind for kind, *_ in made.told] == ["late"]


def test_what_fails_is_told_once_tried_again_and_its_recovery_is_told() -> None:
    made = Made()
    made.after()
    for _ in range(3):
        made.ends(done=False, error="no network")
        assert made.after() > made.now  # type: ignore[operator]
        made.after(hours=1)
    assert len(made.begun) == 4
    made.ends()
    assert made.told == [("failure", "", "no network"), ("recovery", "", "")]


def test_what_the_daemons_own_end_interrupts_is_nobodys_failure() -> None:
    made = Made()
    made.after()
    made.ends(done=False, interrupted=True)
    assert made.told == []


def test_damage_is_told_of_each_volume_and_when_it_is_over() -> None:
    made = Made()
    made.after()
    made.ends(news={"vol": "a pack is damaged"}, hurt=1)
    made.after(days=1)
    made.ends(hurt=1)
    assert made.told == [("failure", "vol", "a pack is damaged")]
    made.after(days=1)
    made.ends()
    assert made.told[1:] == [("recovery", "", "")]


def test_what_cannot_be_remembered_is_not_read_again_and_again() -> None:
    made = Made()
    made.after()
    made.ends()
    made.last = None
    for _ in range(5):
        made.after(minutes=5)
    assert len(made.begun) == 1


def test_a_share_from_the_future_counts_as_none() -> None:
    made = Made(now=NOW + timedelta(days=20_000))
    made.after()
    made.ends()
    made.after(days=1)
    made.ends(done=False, error="no network")
    made.begun.clear()
    made.now = NOW
    made.after(hours=3)
    assert len(made.begun) == 1


def test_a_memory_that_fails_in_whatever_way_is_told_once_and_asked_again() -> None:
    made = Made(failing=ValueError("no date"))
    times = []
    for _ in range(5):
        until = made.after()
        assert until is not None
        assert made.after() == until, "it is not asked at each step"
        times.append(until - made.now)
        made.now = until
    assert times == sorted(times)
    ((kind, _, error),) = made.told
    assert (kind, error[:31]) == ("failure", "unexpected ValueError: no date ")
    made.failing = None
    made.after(hours=2)
    assert len(made.begun) == 1
    made.ends()
    assert made.told[-1][0] == "recovery"
