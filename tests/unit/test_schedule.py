"""When volumes are due, beside crontab(5) read by the letter."""

from __future__ import annotations

import re
from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.schedule import Schedule, due, parse_span

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def has_another(instant: datetime, zone: ZoneInfo, offset: timedelta | None) -> bool:
    return instant.astimezone(zone).utcoffset() != offset


def changes(zone: ZoneInfo, first: int, last: int) -> Iterator[datetime]:
    """The instants, to the minute, at which its clock is put forward or back in these years: no two within five days."""
    instant, end = datetime(first, 1, 1, tzinfo=UTC), datetime(last + 1, 1, 1, tzinfo=UTC)
    while instant < end:
        offset = instant.astimezone(zone).utcoffset()
        following = instant + timedelta(days=5)
        if following.astimezone(zone).utcoffset() != offset:
            minutes = [instant + timedelta(minutes=number) for number in range(5 * 1440 + 1)]
            yield minutes[bisect_left(minutes, True, key=lambda each: has_another(each, zone, offset))]
        instant = following


def shown(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def reached(expression: str, begin: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    """The instants after `begin` and not after `end` at which the clock shows, for the first time, a time that fits, or one behind it."""
    minute, hour, day, month, weekday = (
        allowed(each, number) for number, each in enumerate(expression.split())
    )
    found = []
    instant, furthest = begin, shown(begin, zone)
    while instant < end:
        instant += timedelta(minutes=1)
        now, fits = shown(instant, zone), False
        while furthest < now:
            furthest += timedelta(minutes=1)
            date_fits = (
                furthest.day in day and furthest.month in month and furthest.isoweekday() % 7 in weekday
            )
            fits |= furthest.minute in minute and furthest.hour in hour and date_fits
        if fits:
            found.append(instant)
    return found


def times_between(text: str, begin: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    found = []
    at = schedule(text).after(begin, zone)
    while at is not None and at <= end:
        assert at.utcoffset() == timedelta()
        found.append(at)
        at = schedule(text).after(at, zone)
    return found


def test_each_time_comes_once_wherever_clocks_are_changed() -> None:
    """In all zones of the database, from 2025 to 2030: zones that change in the same way are looked at once."""
    ways: dict[tuple[object, ...], tuple[ZoneInfo, list[datetime]]] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        found = list(changes(zone, 2025, 2030))
        offsets = [(each, each.astimezone(zone).utcoffset()) for each in found]
        ways.setdefault(
            (datetime(2025, 1, 1, tzinfo=UTC).astimezone(zone).utcoffset(), *offsets), (zone, found)
        )
    looked_at = 0
    for zone, found in ways.values():
        for change in found[:4]:
            begin, end = change - timedelta(hours=2), change + timedelta(hours=3)
            for text in (
                "*/10 * * * *",
                "17,43 * * * *",
                "30 0,1,2,3 * * *",
                "0 0 * * *",
                "59 23 * * 0-6",
                "15 2 1-31 * *",
            ):
                looked_at += 1
                assert times_between(text, begin, end, zone) == reached(text, begin, end, zone), (
                    zone,
                    change,
                    text,
                )
    assert looked_at > 500


@pytest.mark.parametrize(
    "name", ["Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago"]
)
@pytest.mark.parametrize("text", ["0 0 * * *", "30 2 * * *", "0 0 1 * *", "45 23 * * 6"])
def test_each_date_that_fits_comes_once_in_all_years(name: str, text: str) -> None:
    zone = ZoneInfo(name)
    minute, hour, day, _, weekday = text.split()
    expected = [
        date(2025, 1, 1) + timedelta(days=number)
        for number in range(5 * 365)
        if (date(2025, 1, 1) + timedelta(days=number)).day in allowed(day, 2)
        and (date(2025, 1, 1) + timedelta(days=number)).isoweekday() % 7 in allowed(weekday, 4)
    ]
    begin, end = (
        datetime(each.year, each.month, each.day, tzinfo=zone).astimezone(UTC)
        for each in (date(2025, 1, 1), expected[-1] + timedelta(days=1))
    )
    found = times_between(text, begin - timedelta(minutes=1), end - timedelta(minutes=1), zone)
    assert found == sorted(set(found))
    assert [shown(each, zone).date() for each in found] == expected
    late = [
        each for each in found if shown(each, zone).strftime("%H:%M") != f"{int(hour):02}:{int(minute):02}"
    ]
    assert len(late) <= 5  # once a year, where the clock is put forward just then


def test_a_day_that_a_zone_left_out_comes_when_the_next_one_begins() -> None:
    apia = ZoneInfo("Pacific/Apia")  # there was no 30 December 2011
    times = times_between(
        "0 12 * * *", datetime(2011, 12, 29, 12, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC), apia
    )
    assert [shown(each, apia).isoformat() for each in times] == [
        "2011-12-29T12:00:00", "2011-12-31T00:00:00", "2011-12-31T12:00:00", "2012-01-01T12:00:00"
    ]  # fmt: skip


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
        ("every 0s", "is no interval"),
        ("every -5m", "is no interval"),
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
