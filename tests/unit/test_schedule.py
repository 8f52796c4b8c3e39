"""When volumes are due, beside crontab(5) read by the letter."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.schedule import Schedule, due, parse_span

BERLIN = ZoneInfo("Europe/Berlin")
LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def schedule(text: str) -> Schedule:
    return Schedule.of_document(text)


@st.composite
def fields(draw: st.DrawFn, number: int) -> str:
    low, high = LIMITS[number]
    kind = draw(st.sampled_from(["*", "one", "range", "step", "list"]))
    if kind == "*":
        return "*"
    if kind == "step":
        return f"*/{draw(st.integers(1, high))}"
    first = draw(st.integers(low, high))
    if kind == "one":
        return str(first)
    if kind == "range":
        return f"{first}-{draw(st.integers(first, high))}"
    return ",".join(str(each) for each in draw(st.lists(st.integers(low, high), min_size=1, max_size=3)))


def allowed(field: str, number: int) -> set[int]:
    low, high = LIMITS[number]
    values: set[int] = set()
    for piece in field.split(","):
        span, _, step = piece.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        values.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return values


def first_after(expression: str, start: datetime) -> datetime | None:
    """crontab(5): "If both fields are restricted (i.e., do not contain the "*" character), the command will be run when
    either field matches the current time."
    """
    minute, hour, day, month, weekday = expression.split()
    times = [(each, other) for each in sorted(allowed(hour, 1)) for other in sorted(allowed(minute, 0))]
    days, months = allowed(day, 2), allowed(month, 3)
    weekdays = {value % 7 for value in allowed(weekday, 4)}
    if weekday.startswith("*/"):
        weekdays = set(range(0, 7, int(weekday[2:])))
    for number in range(366 * 41):  # a 29 February is on each day of the week
        date = start + timedelta(days=number)
        by_day, by_weekday = date.day in days, date.isoweekday() % 7 in weekdays
        either = by_day and by_weekday if "*" in day + weekday else by_day or by_weekday
        if date.month not in months or not either:
            continue
        for at_hour, at_minute in times:
            found = date.replace(hour=at_hour, minute=at_minute, second=0, microsecond=0)
            if found > start:
                return found
    return None


@given(
    expression=st.tuples(*(fields(number) for number in range(5))).map(" ".join),
    start=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_the_next_time_is_the_first_that_fits(expression: str, start: datetime) -> None:
    assert schedule(expression).after(start, UTC) == first_after(expression, start)


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("@daily", "2026-03-01T00:00", "2026-03-02T00:00"),
        ("@hourly", "2026-03-01T00:30", "2026-03-01T01:00"),
        ("@weekly", "2026-03-04T00:00", "2026-03-08T00:00"),  # a Sunday
        ("0 2 * * 0", "2026-03-04T00:00", "2026-03-08T02:00"),
        ("0 2 * * 7", "2026-03-04T00:00", "2026-03-08T02:00"),
        ("0 2 * * mon-fri", "2026-03-06T03:00", "2026-03-09T02:00"),
        ("0 2 * * fri-sun", "2026-03-06T03:00", "2026-03-07T02:00"),
        ("0 0 13 * 5", "2026-03-07T00:00", "2026-03-13T00:00"),
        ("30 2 1 jan *", "2026-03-01T00:00", "2027-01-01T02:30"),
        ("0 2 29 2 *", "2026-03-01T00:00", "2028-02-29T02:00"),
        ("every 90m", "2026-03-01T00:00", "2026-03-01T01:30"),
        ("@every 1d12h", "2026-03-01T00:00", "2026-03-02T12:00"),
        ("0 2 * * 1-5; 0 4 * * sat,sun", "2026-03-06T03:00", "2026-03-07T04:00"),
    ],
)
def test_what_people_write(text: str, after: str, expected: str) -> None:
    found = schedule(text).after(datetime.fromisoformat(after).replace(tzinfo=UTC), UTC)
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_a_day_of_23_or_25_hours_has_one_of_each_time_of_the_day() -> None:
    for day in (datetime(2026, 3, 28, 12, tzinfo=BERLIN), datetime(2026, 10, 24, 12, tzinfo=BERLIN)):
        found = [day]
        for _ in range(3):
            following = schedule("30 4 * * *").after(found[-1], BERLIN)
            assert following
            found.append(following)
        assert [(each.day - day.day, each.hour, each.minute) for each in found[1:]] == [
            (1, 4, 30),
            (2, 4, 30),
            (3, 4, 30),
        ]


def test_what_never_is_is_none() -> None:
    assert schedule("0 0 30 2 *").after(datetime(2026, 1, 1, tzinfo=UTC), UTC) is None
    assert (
        due(schedule("0 0 30 2 *"), datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), UTC)
        is None
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a schedule is text"),
        ("* * * *", "has 4 fields"),
        ("0 2 * * * *", "has 6 fields"),
        ("60 * * * *", "minute is from 0 to 59"),
        ("0 24 * * *", "hour is from 0 to 23"),
        ("0 0 0 * *", "day of the month is from 1 to 31"),
        ("0 0 * 13 *", "month is from 1 to 12"),
        ("0 0 * * 8", "day of the week is from 0 to 7"),
        ("0 0 * * sunny", "'sunny' cannot be the day of the week"),
        ("5-1 * * * *", "'5-1' is not"),
        ("*/0 * * * *", "has no step"),
        ("0 2 * * *; nonsense", "'nonsense' has 1 fields"),
        ("@dayly", "'@dayly' is not one of"),
        ("every 0m", "is no time at all"),
        ("every day", "has 2 fields"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        schedule(text)


def test_what_was_due_while_the_machine_was_off_is_due_once() -> None:
    daily = schedule("0 2 * * *")
    newest = datetime(2026, 3, 1, 2, 0, 30, tzinfo=UTC)
    at = datetime(2026, 3, 2, 2, tzinfo=UTC)
    assert due(daily, newest, at - timedelta(hours=1), UTC) == due(daily, newest, at, UTC)
    found = due(daily, newest, at + timedelta(days=5), UTC)
    assert found
    assert found.at == at
    assert found.late
    back = due(daily, at + timedelta(days=5), at + timedelta(days=5), UTC)
    assert back
    assert (back.at, back.late) == (at + timedelta(days=6), False)
    assert due(daily, None, at, UTC) == due(daily, None, at, UTC)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1d", 86400), ("1w", 604800)]
)
def test_spans(text: str, seconds: int) -> None:
    assert parse_span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "1y", "h", "-1h", "1h 2x"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError, match="a span has"):
        parse_span(text)
