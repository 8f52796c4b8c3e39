"""Journals: sealed with a key that is made once, and never more than they say."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from volferry.errors import VolferryError
from volferry.journal import (
    Halt,
    Journal,
    forget,
    forgotten,
    halts_of,
    journals_of_the_dead,
    text_of,
    unreadable_journals,
)

if TYPE_CHECKING:
    from pathlib import Path

DEAD = "0123456789ab"
HALT = Halt("stop", "f" * 64, "db", 0, "", "done", "yesterday")
WRITES = """
import sys
from pathlib import Path
from volferry.journal import Halt, Journal
sys.stdin.readline()
journal = Journal.of_run(Path(sys.argv[1]), sys.argv[2])
journal.write(Halt("stop", "f" * 64, "db", 0, "", "done", "yesterday"))
journal.end(over=False)
"""


def left(state: Path, run: str = DEAD) -> Path:
    """A journal of a run that there was."""
    known(state, run)
    journal = Journal.of_run(state, run, ("ENGINE", "unix:///nowhere"))
    journal.write(HALT)
    journal.end(over=False)
    return journal.path


def known(state: Path, run: str) -> None:
    lock = state / "runs" / run / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()


def test_runs_that_begin_at_the_same_time_seal_with_one_key(tmp_path: Path) -> None:
    runs = [f"{number:012x}" for number in range(6)]
    for run in runs:
        known(tmp_path, run)
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path), run], stdin=subprocess.PIPE)
        for run in runs
    ]
    for process in processes:
        assert process.stdin
        process.stdin.close()
    assert [process.wait() for process in processes] == [0] * len(runs)
    assert sorted(journal.run_id for journal, _ in journals_of_the_dead(tmp_path)) == runs
    assert unreadable_journals(tmp_path) == []


@pytest.mark.parametrize("odd", ["directory", "symlink", "later", "unknown", "another key"])
def test_one_that_says_nothing_keeps_no_other_from_being_read_and_can_be_forgotten(
    tmp_path: Path, odd: str
) -> None:
    left(tmp_path)
    run = "aaaaaaaaaaaa"
    if odd == "another key":
        other = left(tmp_path / "other", run)
        known(tmp_path, run)
        (tmp_path / "journal" / other.name).write_bytes(other.read_bytes())
    elif odd in {"later", "unknown"}:
        known(tmp_path, run)
        journal = Journal.of_run(tmp_path, run)
        document = {"version": 99} if odd == "later" else {"halt": {"action": "sing"}}
        journal.write()
        with journal.path.open("ab") as file:
            file.write(journal._sealed(document))
        journal.end(over=False)
    else:
        path = tmp_path / "journal" / f"{run}.000001.jsonl"
        path.mkdir() if odd == "directory" else path.symlink_to(tmp_path / "nowhere")
    assert [journal.run_id for journal, _ in journals_of_the_dead(tmp_path)] == [DEAD]
    assert [each.run_id for each in unreadable_journals(tmp_path)] == [run]
    assert forget(tmp_path, run) == []
    assert unreadable_journals(tmp_path) == []
    assert forgotten(tmp_path) == {run}
    assert forget(tmp_path, DEAD) == ["db"]
    assert forgotten(tmp_path) == {run, DEAD}
    with pytest.raises(VolferryError, match="has left nothing down"):
        forget(tmp_path, DEAD)


def test_what_an_engine_is_told_of_a_standstill_is_read_as_stopped() -> None:
    (halt,) = halts_of(text_of([HALT]))
    assert (halt.id, halt.state, halt.after) == (HALT.id, "done", "")
    for text in ("", "[1]", '[{"action": "hook"}]', text_of([Halt("hook", "", "x", 0, "")])):
        with pytest.raises(ValueError, match=r"\w"):
            halts_of(text)


def test_no_run_at_all_is_none_that_can_be_forgotten(tmp_path: Path) -> None:
    """As a variable of a script that is not set."""
    path = left(tmp_path)
    with pytest.raises(VolferryError, match="has left nothing down"):
        forget(tmp_path, "")
    assert path.exists()
