"""A policy that keeps less because of labels waits for a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.checked import value_of
from volferry.errors import VolferryError
from volferry.last_policy import LastPolicy
from volferry.retention import Keep

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MONTH = value_of({"daily": 30, "monthly": 12}, Keep)
ONE = value_of({"last": 1}, Keep)


def settle(directory: Path, wanted: Keep, after: timedelta, by_config: Keep = MONTH) -> tuple[Keep, Any]:
    """One prune, so long after noon."""
    policy = LastPolicy(directory)
    keep = policy.settle(wanted, by_config, NOON + after)
    policy.note()
    return keep, policy.until and policy.until - NOON


def test_what_labels_keep_less_stays_for_a_day(tmp_path: Path) -> None:
    assert settle(tmp_path, MONTH, 0 * HOUR) == (MONTH, None)
    both = value_of({"last": 1, "daily": 30, "monthly": 12}, Keep)
    assert settle(tmp_path, ONE, 24 * HOUR) == (both, 48 * HOUR)
    assert settle(tmp_path, ONE, 47 * HOUR) == (both, 48 * HOUR)
    assert settle(tmp_path, ONE, 48 * HOUR) == (ONE, None)
    assert settle(tmp_path, ONE, 49 * HOUR) == (ONE, None)


def test_it_is_told_what_it_keeps_less_of(tmp_path: Path) -> None:
    settle(tmp_path, MONTH, 0 * HOUR)
    policy = LastPolicy(tmp_path)
    policy.settle(value_of({"daily": 1, "monthly": 12}, Keep), MONTH, NOON)
    assert policy.changes == "daily 30 is now 1"


def test_a_label_that_is_gone_may_keep_less_too(tmp_path: Path) -> None:
    more = value_of({"daily": 90, "monthly": 12}, Keep)
    settle(tmp_path, more, 0 * HOUR)
    assert settle(tmp_path, MONTH, HOUR) == (more, 25 * HOUR)


def test_where_all_was_kept_all_is_kept_for_a_day(tmp_path: Path) -> None:
    settle(tmp_path, Keep(), 0 * HOUR, Keep())
    assert settle(tmp_path, ONE, HOUR, Keep()) == (Keep(), 25 * HOUR)
    assert settle(tmp_path, ONE, 25 * HOUR, Keep()) == (ONE, None)


def test_a_label_that_is_put_back_ends_the_wait(tmp_path: Path) -> None:
    settle(tmp_path, MONTH, 0 * HOUR)
    settle(tmp_path, ONE, HOUR)
    assert settle(tmp_path, MONTH, 2 * HOUR) == (MONTH, None)
    assert settle(tmp_path, ONE, 30 * HOUR)[1] == 54 * HOUR


def test_one_that_keeps_still_less_waits_for_a_day_of_its_own(tmp_path: Path) -> None:
    settle(tmp_path, MONTH, 0 * HOUR)
    assert settle(tmp_path, value_of({"daily": 29, "monthly": 12}, Keep), HOUR)[1] == 25 * HOUR
    assert settle(tmp_path, ONE, 24 * HOUR)[1] == 48 * HOUR


def test_the_configuration_is_obeyed_at_once(tmp_path: Path) -> None:
    settle(tmp_path, MONTH, 0 * HOUR)
    assert settle(tmp_path, ONE, HOUR, ONE) == (ONE, None)


def test_a_clock_that_was_ahead_does_not_shorten_the_day(tmp_path: Path) -> None:
    settle(tmp_path, MONTH, 0 * HOUR)
    settle(tmp_path, ONE, 1000 * HOUR)
    assert settle(tmp_path, ONE, HOUR)[1] == 25 * HOUR


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"last": {"daily": "x"}, "by_config": {}, "less": null}']
)
def test_without_a_last_one_that_of_the_configuration_is_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "policy.json").write_text(content)
    kept, until = settle(tmp_path, ONE, 0 * HOUR)
    assert kept.keeps_all_of(MONTH)
    assert until == 24 * HOUR


def test_what_cannot_be_noted_is_an_error_that_names_the_directory(tmp_path: Path) -> None:
    policy = LastPolicy(tmp_path / "gone")
    policy.settle(ONE, MONTH, NOON)
    with pytest.raises(VolferryError, match="cannot write to the state directory"):
        policy.note()


@given(
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.builds(
                lambda daily, last: value_of({"daily": daily, "last": last}, Keep), *[st.integers(0, 3)] * 2
            ),
        ),
        max_size=12,
    )
)
def test_nothing_is_let_go_that_was_not_told_a_day_before(
    tmp_path_factory: pytest.TempPathFactory, nights: list[tuple[int, Keep]]
) -> None:
    directory = tmp_path_factory.mktemp("state")
    now, in_force = timedelta(), None
    told: list[tuple[timedelta, Keep]] = []  # since what is in force
    for hours, wanted in nights:
        now += hours * HOUR
        keep, until = settle(directory, wanted, now, Keep())
        assert keep.keeps_all_of(wanted)
        if until is not None:
            assert in_force is not None
            assert keep.keeps_all_of(in_force)
            told.append((now, wanted))
            continue
        if in_force is not None and not keep.keeps_all_of(in_force):
            assert any(at <= now - 24 * HOUR and wanted.keeps_all_of(each) for at, each in told)
        in_force, told = keep, []
