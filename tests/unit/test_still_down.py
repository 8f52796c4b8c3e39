"""What runs that died have left down, as the journals say."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from volferry.cli.interrupted import down_line
from volferry.history import History
from volferry.journal import Halt, Journal
from volferry.operations.still_down import Down, still_down
from volferry.run import begin_run

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.journal import Action

DEAD = "0123456789ab"


def journal(state: Path, run: str = DEAD) -> Journal:
    lock = state / "runs" / run / "lock"  # of a run that there was
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    return Journal.of_run(state, run, ("ENGINE", "unix:///var/run/docker.sock"))


def test_what_was_done_or_begun_and_is_not_over_is_down_since_then(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    written = journal(tmp_path)
    names = ("done", "begun", "planned", "over")
    halts = [Halt("stop", name, name, order, "") for order, name in enumerate(names)]
    written.write(*halts)
    for halt, state in zip(halts, ("done", "under way", "planned", "over"), strict=True):
        written.write(replace(halt, state=state))  # type: ignore[arg-type]
    written.end(over=False)
    after = datetime.now(UTC)
    # A replay that could not bring back everything has written to it, too.
    again = Journal(tmp_path, next((tmp_path / "journal").glob("*.jsonl")).stem, ("ENGINE", "x"))
    again.write(replace(halts[3], state="over"))
    again.end(over=False)

    found = still_down(tmp_path, None)

    assert [(each.name, each.run) for each in found] == [("done", DEAD), ("begun", DEAD)]
    assert all(before <= each.since <= after for each in found)
    assert list((tmp_path / "journal").glob("*.jsonl"))


def test_a_run_that_lives_has_left_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        run = stack.enter_context(begin_run(tmp_path))
        written = journal(tmp_path, run.id)
        written.write(Halt("pause", "one", "one", 0, "", "done"))
        assert still_down(tmp_path, None) == []
    written.end(over=False)
    assert [each.name for each in still_down(tmp_path, None)] == ["one"]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("pause", "container db is still paused, since "),
        ("stop", "container db is still stopped, since "),
        ("scale", "Swarm service db is still scaled to 0, since "),
        ("hook", "hook post of db is still to be run: "),
    ],
)
def test_each_is_named_with_the_run_and_the_commands_that_bring_it_back(
    tmp_path: Path, action: Action, words: str
) -> None:
    history = History(tmp_path)
    down = Down(action, "db", DEAD, datetime.now(UTC), "")
    assert f"run {DEAD}" in down_line(down, history)
    history.begin(DEAD, "host", "pgdata", datetime.now(UTC))
    line = down_line(down, history)
    assert line.startswith(f"volferry: {words}")
    assert f"the backup of pgdata (run {DEAD})" in line
    assert "the next `volferry backup`" in line
    assert " on ssh://admin@db1 " in down_line(replace(down, elsewhere="ssh://admin@db1"), history)
