from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.cli.text import count_text, duration_text, size_text, table
from volferry.model import new_backup_id, time_of_id

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1234, "1.23 kB"),
        (12_345, "12.3 kB"),
        (123_456, "123 kB"),
        (1_500_000_000, "1.50 GB"),
        (2**40, "1.10 TB"),
        (10**15, "1.00 PB"),
        (10**19, "10000 PB"),
    ],
)
def test_sizes_have_decimal_units(size: int, text: str) -> None:
    assert size_text(size) == text


@given(st.integers(0, 999 * 10**15))
def test_a_size_has_three_digits_at_most_and_is_off_by_one_percent_at_most(size: int) -> None:
    number, unit = size_text(size).split(" ")
    assert abs(float(number) * UNITS[unit] - size) <= size / 100
    assert len(number.replace(".", "")) <= 3


@pytest.mark.parametrize("size", [999_500, 999_999, 9_996, 99_960, 999_999_999])
def test_a_size_that_is_rounded_up_has_three_digits_too(size: int) -> None:
    assert len(re.sub(r"[^0-9]", "", size_text(size))) <= 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (1.25, "1.2 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (61.9, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_061, "25 h 1 min"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_duration_of_almost_a_minute_is_not_60_seconds() -> None:
    assert duration_text(59.96) != "60.0 s"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count_text(0, "file"), "0 files"),
        (count_text(1, "file"), "1 file"),
        (count_text(1_234_567, "file"), "1,234,567 files"),
        (count_text(2, "entry", "entries"), "2 entries"),
    ],
)
def test_counts_have_a_noun_that_fits(text: str, expected: str) -> None:
    assert text == expected


@given(st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 -- the zone is given beside
def test_the_time_of_an_id_is_that_at_which_it_was_made(moment: datetime) -> None:
    assert time_of_id(new_backup_id(moment)) == moment.replace(microsecond=0)


def test_a_table_has_aligned_columns() -> None:
    text = table(["name", "size", ""], [["a", "1 B", "x"], ["longer", "100 kB", ""]], right=[1])
    assert text.splitlines() == ["name      size", "a          1 B  x", "longer  100 kB"]


def test_a_table_without_rows_is_its_header() -> None:
    assert table(["name", "size"], []) == "name  size"


cells = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=9)


@given(st.lists(st.tuples(cells, cells, cells), max_size=6), st.sets(st.sampled_from([0, 1, 2])))
def test_a_table_holds_every_cell_in_its_column(rows: list[tuple[str, str, str]], right: set[int]) -> None:
    lines = table(["a", "b", "c"], rows, right=[*right]).splitlines()
    assert [tuple(line.split()) for line in lines] == [("a", "b", "c"), *rows]
