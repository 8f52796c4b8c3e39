"""Which events become messages: those that are wanted, and not more of them than a person reads."""

from __future__ import annotations

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


def test_only_what_is_wanted_is_told() -> None:
    events = [event("success"), event("late"), event("failure"), event("digest")]
    assert len(told(config(on=["late", "digest"]), *events)) == 2


def test_templates_have_the_fields_of_the_event() -> None:
    (text,) = told(config(title="{host} {event}", body="{volume} {error} {time}"), event("failure"))
    assert text == "host failure\nvol no space 2026-03-01T12:00:00+00:00"
