"""Which events become messages: those that are wanted, and not more of them than a person reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from volferry.checked import value_of
from volferry.daemon_config import NotifyConfig
from volferry.scheduler.events import Event
from volferry.scheduler.loop import Ending
from volferry.scheduler.moments import Moment
from volferry.telling.messages import Composer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(kind: Any, volume: str = "vol", what: str = "the backup failed", minutes: float = 0) -> Event:
    passed = timedelta(minutes=minutes)
    return Event(
        kind, volume, f"{volume}: {what}", Moment(NOW + passed, passed), Ending(False, error="no space")
    )


def told(config: NotifyConfig, *events: Event) -> list[str]:
    composer = Composer(lambda: "host")
    found = (composer.compose(each, config) for each in events)
    return [message.title + "\n" + message.body for message in found if message is not None]


def config(**settings: Any) -> NotifyConfig:
    return value_of(settings, NotifyConfig)


def test_the_same_is_not_told_twice_within_the_interval_and_something_else_is() -> None:
    found = told(
        config(interval="1h"),
        event("failure"),
        event("failure", minutes=10),
        event("failure", what="a service is down", minutes=11),
        event("failure", minutes=61),
    )
    assert len(found) == 3
    assert "a service is down" in found[1]
    assert "1 more messages were withheld" in found[1]


def test_what_fails_after_a_recovery_is_news_also_where_recoveries_are_not_told() -> None:
    for kinds in (["failure"], ["failure", "recovery"]):
        events = [event("failure"), event("recovery", minutes=1), event("failure", minutes=2)]
        found = told(config(on=kinds, interval="1h"), *events)
        assert len([text for text in found if "no space" in text and "failed" in text]) >= 2


def test_no_more_than_so_many_in_an_interval() -> None:
    events = [event("failure", f"vol{number}", minutes=number) for number in range(30)]
    assert len(told(config(most=5, interval="1h"), *events)) == 5
    assert len(told(config(most=5, interval="10m"), *events)) == 15


def urgent(kind: Any, what: str, minutes: float = 0, volume: str = "") -> Event:
    return replace(event(kind, volume, what, minutes), what=what, urgent=True)


def test_a_service_that_is_down_is_told_whatever_else_there_is_to_tell() -> None:
    many = [event("failure", f"vol{number}", minutes=number / 10) for number in range(30)]
    down = urgent("failure", "a service is down: db", 4)
    found = told(config(most=20), *many, down, replace(down, at=many[-1].at))
    assert [text for text in found if "a service is down: db" in text] == found[20:]
    assert len(found) == 22  # the one who sends it again has a reason to


def test_what_was_too_much_is_told_in_one_message_when_there_is_room() -> None:
    settings = config(most=5, interval="1h")
    composer = Composer(lambda: "host")
    for number in range(9):
        composer.compose(event("failure", f"vol{number}", minutes=number), settings)
    assert composer.rest(timedelta(minutes=10), settings) is None
    rest = composer.rest(timedelta(minutes=61), settings)
    assert rest is not None
    assert rest.title == "volferry on host: 4 more messages"
    assert rest.body.splitlines() == [f"vol{number}: the backup failed: no space" for number in range(5, 9)]
    assert composer.rest(timedelta(minutes=130), settings) is None


def test_of_a_thousand_volumes_that_are_late_each_is_told_at_once_in_few_messages() -> None:
    settings = config(most=20)
    composer = Composer(lambda: "host")
    events = [urgent("late", f"vol{number}: it is late", 0, f"vol{number}") for number in range(100)]
    found = [composer.compose(each, settings) for each in events]
    rest = composer.rest(timedelta(seconds=5), settings)
    assert rest is not None
    assert len([each for each in found if each is not None]) == 20
    assert len(rest.body.splitlines()) == 80
    assert rest.urgent


def test_a_message_that_was_lost_is_told_when_it_happens_again() -> None:
    settings, composer = config(interval="1h"), Composer(lambda: "host")
    lost = composer.compose(event("failure"), settings)
    assert lost is not None
    assert composer.compose(event("failure", minutes=1), settings) is None
    composer.lost(lost)
    assert composer.compose(event("failure", minutes=2), settings) is not None


def test_only_what_is_wanted_is_told() -> None:
    events = [event("success"), event("late"), event("failure"), event("digest")]
    assert len(told(config(on=["late", "digest"]), *events)) == 2


def test_templates_have_the_fields_of_the_event() -> None:
    (text,) = told(config(title="{host} {event}", body="{volume} {error} {time}"), event("failure"))
    assert text == "host failure\nvol no space 2026-03-01T12:00:00+00:00"
