"""When what dead runs had stopped is brought back, and what people are told of it, as time passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog

from volferry.config import Config
from volferry.scheduler.loop import Down
from volferry.scheduler.moments import Moment
from volferry.scheduler.recovering import Recovering, RecoveryEnding

if TYPE_CHECKING:
    from volferry.scheduler.events import Event

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DB = Down("db", "port is already allocated")


@dataclass
class Made:
    """Journals, attempts and teller at once."""

    mono: timedelta = timedelta(days=2)
    dead: list[str] = field(default_factory=lambda: ["aaaa"])
    going_on: bool = False
    attempts: list[timedelta] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    failing: Exception | None = None
    forgotten: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        log = structlog.wrap_logger(None, processors=[self._drop])
        self.recovering = Recovering(Config, self.journals, self, self.tell, log, lambda: self.forgotten)

    @staticmethod
    def _drop(_logger: object, _name: str, _line: Any) -> Any:
        raise structlog.DropEvent

    def journals(self) -> list[str]:
        if self.failing is not None:
            raise self.failing
        return self.dead

    def start_recovery(self) -> None:
        assert not self.going_on
        self.going_on = True
        self.attempts.append(self.mono)

    @property
    def recovery_goes_on(self) -> bool:
        return self.going_on

    def tell(self, event: Event) -> None:
        assert event.urgent
        self.told.append((event.kind, event.what))

    @property
    def moment(self) -> Moment:
        return Moment(NOW + self.mono, self.mono)

    def after(self, **span: float) -> timedelta | None:
        self.mono += timedelta(**span)
        return self.recovering.step(self.moment)

    def ends(self, *left: Down, **more: Any) -> None:
        self.going_on = False
        self.recovering.ended(RecoveryEnding(left, **more), self.moment)

    def live(self, *left: Down, **span: float) -> None:
        """Each attempt ends at once, with that left."""
        end = self.mono + timedelta(**span)
        while self.mono < end:
            until = self.recovering.step(self.moment)
            if self.going_on:
                self.ends(*left)
                until = self.recovering.step(self.moment)
            self.mono = min(end, until if until is not None else end)


def test_nothing_is_started_where_no_run_has_died() -> None:
    made = Made(dead=[])
    assert made.after() is None
    assert made.attempts == []


def test_what_a_dead_run_left_is_brought_back_at_once_and_nobody_is_told() -> None:
    made = Made()
    made.after()
    assert len(made.attempts) == 1
    made.after(minutes=9)  # one at a time, however long it takes
    assert len(made.attempts) == 1
    made.dead.clear()
    made.ends(brought_back=["db"])
    made.after()
    made.after(hours=9)
    assert len(made.attempts) == 1
    assert made.told == []


def test_that_it_takes_long_is_told_while_it_goes_on() -> None:
    made = Made()
    assert made.after() == made.mono + timedelta(minutes=10)
    made.after(minutes=10)
    made.after(minutes=30)
    assert made.told == [("failure", "a service is down: what an interrupted run had stopped")]
    made.dead.clear()
    made.ends(brought_back=["db"])
    assert [kind for kind, _ in made.told] == ["failure", "recovery"]
    assert len(made.attempts) == 1


def test_what_cannot_be_brought_back_is_tried_again_later_and_later() -> None:
    made = Made()
    made.live(DB, hours=1)
    waits = [
        (after - before).total_seconds()
        for before, after in zip(made.attempts, made.attempts[1:], strict=False)
    ]
    assert waits[:6] == [10, 20, 40, 80, 160, 300]
    assert set(waits[5:]) == {300}


def test_that_a_service_is_down_is_told_each_hour_until_it_is_up_and_then_that_it_is() -> None:
    made = Made()
    made.live(DB, hours=5, minutes=30)
    down = ("failure", "a service is down: db")
    assert made.told == [down] * 6
    made.dead.clear()
    made.after(minutes=5)
    made.after(hours=3)
    assert made.told == [down] * 6 + [("recovery", "the service is up again: db")]


def test_of_two_services_each_is_told_by_itself() -> None:
    made = Made()
    made.after()
    made.ends(DB, Down("web", "no such image"))
    made.after(seconds=10)
    made.ends(DB)
    assert made.told == [
        ("failure", "a service is down: db"),
        ("failure", "a service is down: web"),
        ("recovery", "the service is up again: web"),
    ]


def test_another_run_that_dies_has_its_services_brought_back_at_once() -> None:
    made = Made()
    made.live(DB, hours=1)
    before = len(made.attempts)
    assert not made.recovering.is_wanted()
    made.dead.append("bbbb")
    assert made.recovering.is_wanted()
    made.after(seconds=1)
    assert len(made.attempts) == before + 1


def test_what_happens_in_the_engine_has_it_tried_again_soon_but_not_what_an_attempt_does_itself() -> None:
    made = Made()
    made.live(DB, hours=1)
    before = len(made.attempts)
    made.after()
    while not made.going_on:
        made.after(seconds=1)
    made.recovering.changed(made.moment)
    made.ends(DB)
    made.mono += timedelta(seconds=1)
    made.recovering.changed(made.moment)  # it has started the service, which has ended again
    made.after(seconds=60)
    assert len(made.attempts) == before + 1
    made.recovering.changed(made.moment)
    made.after(seconds=1)
    assert len(made.attempts) == before + 2


def test_a_run_that_says_that_a_service_is_down_is_believed_at_once() -> None:
    made = Made()
    made.recovering.found([DB], made.moment)
    assert made.told == [("failure", "a service is down: db")]
    made.after()
    made.ends(DB)
    assert len(made.told) == 1
    made.after(seconds=10)
    made.dead.clear()
    made.ends(brought_back=["db"])
    assert made.told[1:] == [("recovery", "the service is up again: db")]


def test_an_attempt_that_says_nothing_leaves_down_what_is() -> None:
    made = Made()
    made.after()
    made.ends(error="cannot reach the engine")
    assert made.told == [("failure", "a service is down: what an interrupted run had stopped")]
    made.after(seconds=10)
    made.ends(DB)
    made.after(seconds=20)
    made.ends(error="cannot reach the engine")
    assert [what for kind, what in made.told if kind == "failure"][1:] == ["a service is down: db"]
    assert set(made.recovering.down) == {"db"}


def test_an_attempt_that_claims_that_all_is_up_while_a_journal_stays_is_made_again_later() -> None:
    made = Made()
    made.live(minutes=1)
    assert len(made.attempts) == 3


def test_the_end_of_the_daemon_interrupts_an_attempt_and_nobody_is_told() -> None:
    made = Made()
    made.after()
    made.ends(interrupted=True)
    assert made.told == []


def test_journals_that_cannot_be_read_are_told_once_and_read_again() -> None:
    made = Made(failing=OSError(5, "Input/output error"))
    for _ in range(5):
        made.after(minutes=5)
    assert made.told == [("failure", "what interrupted runs have left cannot be read")]
    assert not made.recovering.is_wanted()
    made.failing = None
    made.after(minutes=5)
    assert len(made.attempts) == 1


def test_what_a_person_leaves_as_it_is_is_never_called_up_again() -> None:
    made = Made(dead=["aaaa", "bbbb"])
    made.after()
    made.ends(Down("db", "no such image", "aaaa"), Down("web", "no such image", "bbbb"))
    made.dead.remove("aaaa")
    made.forgotten.append("aaaa")
    made.after(seconds=1)
    left_alone = ("recovery", "a service is no longer waited for: db")
    assert made.told[2:] == [left_alone]
    assert set(made.recovering.down) == {"web"}
    made.after(seconds=10)
    made.dead.clear()
    made.ends(brought_back=["web"])
    assert made.told[2:] == [left_alone, ("recovery", "the service is up again: web")]
    made.dead.append("cccc")  # of a later run, it may come back
    made.recovering.found([Down("db", "no such image", "cccc")], made.moment)
    made.dead.clear()
    made.after(seconds=1)
    assert made.told[-1] == ("recovery", "the service is up again: db")


def test_what_is_forgotten_while_nobody_knows_of_whom_it_is_is_not_called_up_again() -> None:
    made = Made()
    made.after()
    made.after(minutes=10)
    assert made.told == [("failure", "a service is down: what an interrupted run had stopped")]
    made.forgotten.append(made.dead.pop())
    made.ends()
    assert [what for _, what in made.told[1:]] == [
        "a service is no longer waited for: what an interrupted run had stopped"
    ]
