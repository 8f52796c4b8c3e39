"""The rules of `restic forget`, case by case (https://restic.readthedocs.io/en/stable/060_forget.html)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.checked import value_of
from volferry.retention import Keep, Within, judge

Times = list[tuple[str, datetime]]


def at(*texts: str) -> Times:
    """Backups at these times (`2026-03-01 12`), named by them."""
    return [(text, datetime.strptime(text, "%Y-%m-%d %H").astimezone()) for text in texts]


def kept(backups: Times, **keep: Any) -> list[str]:
    """Names of those that are kept, oldest first."""
    policy = value_of(keep, Keep)
    return sorted(verdict.id for verdict in judge(backups, policy) if verdict.kept)


# Twice a day, from Monday 5 January to Sunday 18 January.
TWICE_A_DAY = at(*(f"2026-01-{day:02d} {hour:02d}" for day in range(5, 19) for hour in (1, 13)))
# restic's documentation: "Suppose that you have a snapshot on each of the last Sundays of the months".
SUNDAYS = at(*(f"{year}-{month:02d}-01 11" for year in (2024, 2025) for month in range(1, 13)))


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"last": 1}, ["2026-01-18 13"]),
        ({"last": 3}, ["2026-01-17 13", "2026-01-18 01", "2026-01-18 13"]),
        ({"hourly": 2}, ["2026-01-18 01", "2026-01-18 13"]),
        ({"daily": 3}, ["2026-01-16 13", "2026-01-17 13", "2026-01-18 13"]),
        # The newest of each week, Monday to Sunday.
        ({"weekly": 2}, ["2026-01-11 13", "2026-01-18 13"]),
        # One month only: the oldest stays as long as there is room for it.
        ({"monthly": 1}, ["2026-01-18 13"]),
        ({"monthly": 2}, ["2026-01-05 01", "2026-01-18 13"]),
        ({"yearly": 5}, ["2026-01-05 01", "2026-01-18 13"]),
        ({"within": "1d"}, ["2026-01-18 01", "2026-01-18 13"]),
        ({"within": "25h"}, ["2026-01-17 13", "2026-01-18 01", "2026-01-18 13"]),
        # Rules add up: each keeps its own.
        ({"last": 1, "daily": 2, "weekly": 2}, ["2026-01-11 13", "2026-01-17 13", "2026-01-18 13"]),
    ],
    ids=str,
)
def test_what_a_policy_keeps_of_two_backups_a_day(keep: dict[str, Any], expected: list[str]) -> None:
    assert kept(TWICE_A_DAY, **keep) == expected


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"monthly": 3}, ["2025-10-01 11", "2025-11-01 11", "2025-12-01 11"]),
        ({"yearly": 2}, ["2024-12-01 11", "2025-12-01 11"]),
        ({"yearly": 3}, ["2024-01-01 11", "2024-12-01 11", "2025-12-01 11"]),
        # Days without a backup do not count: the last so many that have one.
        ({"daily": 2}, ["2025-11-01 11", "2025-12-01 11"]),
        ({"within": "2m"}, ["2025-11-01 11", "2025-12-01 11"]),
        ({"within": "2m1h"}, ["2025-10-01 11", "2025-11-01 11", "2025-12-01 11"]),
        ({"within": "1y", "last": 1}, [f"2025-{month:02d}-01 11" for month in range(1, 13)]),
    ],
    ids=str,
)
def test_what_a_policy_keeps_of_one_backup_a_month(keep: dict[str, Any], expected: list[str]) -> None:
    assert kept(SUNDAYS, **keep) == expected


@pytest.mark.parametrize("rule", ["last", "hourly", "daily", "weekly", "monthly", "yearly"])
def test_minus_one_is_all_of_them(rule: str) -> None:
    assert kept(TWICE_A_DAY, **{rule: -1})[-1] == "2026-01-18 13"
    assert len(kept(TWICE_A_DAY, **{rule: -1})) == len(kept(TWICE_A_DAY, **{rule: 1000}))


def test_without_a_policy_all_is_kept() -> None:
    assert kept(TWICE_A_DAY) == sorted(name for name, _ in TWICE_A_DAY)


def test_why_a_backup_is_kept_is_said() -> None:
    verdicts = judge(TWICE_A_DAY, value_of({"last": 1, "daily": 2, "within": "13h"}, Keep))
    assert [(each.id, each.reasons) for each in verdicts[:4]] == [
        ("2026-01-18 13", ("within 13h", "last", "daily")),
        ("2026-01-18 01", ("within 13h",)),
        ("2026-01-17 13", ("daily",)),
        ("2026-01-17 01", ()),
    ]


def test_a_month_before_the_31st_of_march_is_the_3rd_of_march() -> None:
    # As Go counts, and restic with it.
    end = datetime(2026, 3, 31, 12).astimezone()
    assert Within("1m").before(end) == datetime(2026, 3, 3, 12).astimezone()
    assert Within("1y1m1d1h").before(end) == datetime(2025, 3, 2, 11).astimezone() - timedelta(days=0)


@pytest.mark.parametrize("text", ["", "7", "7x", "d7", "1d2y", "-1d", 7, None])
def test_what_is_no_span_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="1y6m"):
        Within.of_document(text)


def daily(first: str, count: int) -> Times:
    begin = datetime.strptime(first, "%Y-%m-%d").replace(tzinfo=UTC)
    return [(f"{begin + timedelta(days=day):%Y-%m-%d}", begin + timedelta(days=day)) for day in range(count)]


@pytest.mark.parametrize("wrong", ["2099-01-01", "2038-01-19", "1970-01-01"])
@pytest.mark.parametrize("looks", [1, 3])
def test_a_clock_that_was_wrong_lets_nothing_go(wrong: str, looks: int) -> None:
    before = daily("2026-03-01", 20)
    odd = [(f"2026-03-21 {name}", time) for name, time in daily(wrong, looks)]
    for after in range(5):
        backups = before + odd + [(f"2026-03-22 {name}", time) for name, time in daily("2026-03-24", after)]
        assert len(kept(backups, within="30d")) == len(backups)
    # Later, they go with their neighbours.
    backups = before + odd + [(f"2026-03-22 {name}", time) for name, time in daily("2026-03-24", 60)]
    assert len(kept(backups, within="30d")) == 30


def test_a_machine_that_was_off_for_a_year_lets_go_at_last() -> None:
    old = daily("2025-01-01", 30)
    backups = list(old)
    for day, backup in enumerate(daily("2026-02-01", 40)):
        backups.append(backup)
        left = set(kept(backups, within="30d"))
        backups = [each for each in backups if each[0] in left]
        assert backup in backups
        assert len(backups) == (30 + day + 1 if day < 30 else 30)
    assert not set(backups) & set(old)


def test_a_gap_is_said() -> None:
    backups = daily("2026-03-01", 3) + daily("2099-01-01", 1)
    reasons = [each.reasons for each in judge(backups, value_of({"within": "30d"}, Keep))]
    assert reasons == [("within 30d",)] + 3 * [("within 30d before a gap",)]


@pytest.mark.parametrize("span", ["1h", "12h", "1d"])
def test_a_short_span_with_a_backup_a_day_keeps_no_more(span: str) -> None:
    assert kept(daily("2026-03-01", 9), within=span) == ["2026-03-09"]


@given(
    st.lists(
        st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001 -- hypothesis takes no others
        min_size=1,
        max_size=40,
        unique=True,
    ),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.integers(-1, 5) for name in ("last", "hourly", "daily", "weekly", "monthly", "yearly")
        },
    ),
)
def test_the_newest_stays_and_more_is_never_less(times: list[datetime], keep: dict[str, int]) -> None:
    backups = [(f"{time:%Y%m%dT%H%M%S.%f}", time.astimezone()) for time in sorted(times)]
    found = kept(backups, **keep)
    assert backups[-1][0] in found
    more = {name: count + 1 if count >= 0 else count for name, count in keep.items()}
    assert set(found) <= set(kept(backups, **more)) or not any(keep.values())


POLICIES = st.builds(
    lambda numbers, within: value_of({**numbers, "within": within}, Keep),
    st.fixed_dictionaries(
        {name: st.integers(-1, 4) for name in ("last", "hourly", "daily", "weekly", "monthly", "yearly")}
    ),
    st.sampled_from([None, "0h", "6h", "2d", "1m", "40d", "1y"]),
)


@given(POLICIES, POLICIES, st.lists(st.integers(0, 24 * 800), max_size=30, unique=True).map(sorted))
def test_a_policy_with_more_keeps_all_that_either_keeps(one: Keep, other: Keep, hours: list[int]) -> None:
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    backups = [(f"{hour:06d}", begin + timedelta(hours=hour)) for hour in hours]
    more = one.with_more(other)

    def stays(keep: Keep) -> set[str]:
        return {verdict.id for verdict in judge(backups, keep) if verdict.kept}

    assert stays(more) >= stays(one) | stays(other)
    assert more == other.with_more(one)
    assert more.keeps_all_of(one)
    assert more.keeps_all_of(other)
    if one.keeps_all_of(other):
        assert stays(one) >= stays(other)


def test_which_policy_keeps_less() -> None:
    everything, week = Keep(), value_of({"daily": 7, "within": "1m"}, Keep)
    assert everything.keeps_all_of(week)
    assert not week.keeps_all_of(everything)
    assert value_of({"daily": -1, "within": "31d"}, Keep).keeps_all_of(week)
    assert not value_of({"daily": 6, "weekly": 52, "within": "1y"}, Keep).keeps_all_of(week)
    assert not value_of({"daily": 7, "within": "29d"}, Keep).keeps_all_of(week)
