"""What the state directory remembers of restores into volumes."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from volferry.errors import VolferryError
from volferry.restore_record import (
    KnownWhole,
    begun_restore,
    known_whole,
    last_completed,
    note_backed_up,
    note_completed,
    recorded_restore,
    settle_after_backup,
)

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.restore_record import Left

REF = "db1/data@20261123T222016Z-0dd092"
OTHER = "db1/data@20261124T222016Z-31c2aa"


class Killed(BaseException):
    """Nothing can be found out after it, as after SIGKILL."""


def kill(directory: Path, *, spared: bool, changes: bool) -> None:
    def left() -> Left:
        raise VolferryError("the helper is gone")

    with suppress(Killed), recorded_restore(directory, REF, left=left, spared=spared) as begins:
        if changes:
            begins()
        raise Killed


def fails(directory: Path, left: Left, *, in_part: bool = False, backup: str = REF) -> None:
    with (
        pytest.raises(VolferryError),
        recorded_restore(directory, backup, left=lambda: left, in_part=in_part, spared=not in_part),
    ):
        raise VolferryError("the store is gone")


@pytest.mark.parametrize(
    ("spared", "changes", "expected"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_the_record_says_whether_the_volume_holds_what_it_held(
    tmp_path: Path, spared: bool, changes: bool, expected: bool
) -> None:
    kill(tmp_path, spared=spared, changes=changes)
    begun = begun_restore(tmp_path)
    assert begun is not None
    assert (begun.backup, begun.volume, begun.spared, begun.running) == (REF, "data", expected, False)


def test_after_a_failure_it_says_what_is_left(tmp_path: Path) -> None:
    fails(tmp_path, "nothing")
    assert begun_restore(tmp_path) is None
    cases: list[tuple[Left, bool]] = [("beside", True), ("half", False)]
    for left, spared in cases:
        fails(tmp_path, left)
        begun = begun_restore(tmp_path)
        assert begun is not None
        assert begun.spared is spared


def test_a_restore_that_ends_well_leaves_none(tmp_path: Path) -> None:
    kill(tmp_path, spared=True, changes=True)
    with recorded_restore(tmp_path, OTHER, left=lambda: "nothing"):
        begun = begun_restore(tmp_path)
        assert begun is not None
        assert begun.backup == OTHER
    assert begun_restore(tmp_path) is None


def test_a_backup_forgets_it_only_once_nothing_is_left_beside(tmp_path: Path) -> None:
    def unknown() -> Left:
        raise VolferryError("the helper is gone")

    kill(tmp_path, spared=True, changes=False)
    settle_after_backup(tmp_path, lambda: "beside")
    settle_after_backup(tmp_path, unknown)
    begun = begun_restore(tmp_path)
    assert begun is not None
    assert begun.spared
    settle_after_backup(tmp_path, lambda: "nothing")
    assert begun_restore(tmp_path) is None

    # Killed between the record and the mark: the backup shows that nothing was changed.
    kill(tmp_path, spared=True, changes=True)
    settle_after_backup(tmp_path, lambda: "beside")
    begun = begun_restore(tmp_path)
    assert begun is not None
    assert begun.spared
    kill(tmp_path, spared=True, changes=True)
    settle_after_backup(tmp_path, unknown)
    assert begun_restore(tmp_path) is None


def test_without_a_record_a_backup_does_not_ask(tmp_path: Path) -> None:
    def left() -> Left:
        raise AssertionError

    settle_after_backup(tmp_path, left)


@pytest.mark.parametrize("well", [True, False])
def test_a_restore_of_paths_leaves_the_record_of_what_is_left_beside(tmp_path: Path, well: bool) -> None:
    kill(tmp_path, spared=True, changes=False)
    if well:
        with recorded_restore(tmp_path, OTHER, left=lambda: "beside", in_part=True):
            pass
    else:
        fails(tmp_path, "beside", in_part=True, backup=OTHER)
    begun = begun_restore(tmp_path)
    assert begun is not None
    assert (begun.backup, begun.spared, begun.in_part) == (REF, True, False)


def test_a_restore_of_paths_that_leaves_a_mark_keeps_its_own_record(tmp_path: Path) -> None:
    with recorded_restore(tmp_path, OTHER, left=lambda: "half", in_part=True):
        pass
    begun = begun_restore(tmp_path)
    assert begun is not None
    assert (begun.backup, begun.spared, begun.in_part) == (OTHER, False, True)


def test_a_record_of_an_earlier_version_is_that_of_half_a_restore(tmp_path: Path) -> None:
    (tmp_path / "restore.json").write_text(f'{{"backup": "{REF}", "began": "2026-11-23T22:20:16+00:00"}}')
    begun = begun_restore(tmp_path)
    assert begun is not None
    assert (begun.spared, begun.in_part, begun.running) == (False, False, False)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"backup": "x", "began": 5}', "\xff"])
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "restore.json").write_text(text)
    assert begun_restore(tmp_path) is None


def test_when_what_was_written_was_whole_last_is_kept(tmp_path: Path) -> None:
    fails(tmp_path, "half")
    with recorded_restore(tmp_path, REF, left=lambda: "half", in_part=True):
        pass
    assert last_completed(tmp_path) is None
    before = datetime.now(UTC)
    with recorded_restore(tmp_path, REF, left=lambda: "nothing"):
        pass
    completed = last_completed(tmp_path)
    assert completed is not None
    assert before <= completed <= datetime.now(UTC)
    fails(tmp_path, "half")
    with recorded_restore(tmp_path, REF, left=lambda: "nothing", in_part=True):
        pass
    again = last_completed(tmp_path)
    assert again is not None
    assert again >= completed


def test_marks_that_are_over_are_remembered_with_it_and_not_without_end(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    note_backed_up(tmp_path, began)
    with suppress(Killed), recorded_restore(tmp_path, REF, left=lambda: "half", ended=["no"]):
        raise Killed
    assert known_whole(tmp_path).ended == ()
    with recorded_restore(tmp_path, REF, left=lambda: "nothing", ended=["one", ""]):
        pass
    for number in range(200):
        note_completed(tmp_path, [f"seal{number}", "one"])
    whole = known_whole(tmp_path)
    assert (len(whole.ended), whole.ended[-1], whole.backed_up) == (64, "seal199", began)
    note_backed_up(tmp_path, began + timedelta(days=1))
    assert known_whole(tmp_path).completed == whole.completed
    assert sorted(each.name for each in tmp_path.iterdir()) == ["completed.json"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b'{"completed": 5}', b'{"ended": 5}', b'{"backed_up": "x"}', b"\xff"]
)
def test_a_damaged_record_knows_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "completed.json").write_bytes(content)
    assert known_whole(tmp_path) == KnownWhole()
    (tmp_path / "completed.json").write_text(
        '{"completed": "2026-11-23T22:20:16+00:00"}'
    )  # of an earlier version
    assert known_whole(tmp_path).completed == datetime(2026, 11, 23, 22, 20, 16, tzinfo=UTC)
