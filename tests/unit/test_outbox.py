"""Messages that cannot be delivered are tried again, and lost only when nobody would read them any longer."""

from __future__ import annotations

from datetime import timedelta

from volferry.telling.messages import Message
from volferry.telling.outbox import Outbox

HOUR = timedelta(hours=1)


def message(what: str, *, urgent: bool = False) -> Message:
    return Message(what, what, urgent, ("failure", "", what))


def delivered(box: Outbox, until: timedelta, *, works_at: timedelta, step: timedelta) -> list[str]:
    """Titles, by a server that does not work before that."""
    found = []
    now = timedelta()
    while now < until:
        while (letter := box.due(now)) is not None:
            failed = [] if now >= works_at else ["mailto://"]
            if not failed:
                found.append(letter.message.title)
            box.tried(letter, failed, now)
        now += step
    return found


def test_what_cannot_be_delivered_is_tried_again_for_days_and_delivered_once() -> None:
    box = Outbox()
    box.put(message("db is down"), timedelta())
    works_at = timedelta(days=2)
    assert delivered(box, timedelta(days=5), works_at=works_at, step=timedelta(minutes=1)) == ["db is down"]
    assert len(box) == 0


def test_what_cannot_be_delivered_at_all_is_given_up() -> None:
    box = Outbox()
    box.put(message("db is down"), timedelta())
    assert delivered(box, timedelta(days=5), works_at=timedelta(days=9), step=HOUR) == []
    assert len(box) == 0


def test_none_waits_for_another() -> None:
    box = Outbox()
    box.put(message("to a server that is dead"), timedelta())
    first = box.due(timedelta())
    assert first is not None
    box.tried(first, ["mailto://"], timedelta())
    box.put(message("another"), timedelta())
    second = box.due(timedelta())
    assert second is not None
    assert second.message.title == "another"
    assert box.due(HOUR, untried=True) is second


def test_of_several_addresses_only_those_that_failed_are_tried_again() -> None:
    box = Outbox()
    box.put(message("x"), timedelta())
    letter = box.due(timedelta())
    assert letter is not None
    box.tried(letter, ["ntfy://b"], timedelta())
    again = box.due(HOUR)
    assert again is letter
    assert again.urls == ["ntfy://b"]


def test_a_repetition_takes_the_place_of_what_was_not_delivered() -> None:
    box = Outbox()
    for hours in range(30):
        box.put(message("db is down"), hours * HOUR)
    assert len(box) == 1


def test_where_too_many_wait_what_is_urgent_stays() -> None:
    box = Outbox()
    box.put(message("db is down", urgent=True), timedelta())
    lost = [each for number in range(1200) for each in box.put(message(f"{number}"), timedelta())]
    assert len(box) == 1000
    assert len(lost) == 201
    assert "db is down" not in {each.title for each in lost}
