"""A run that was killed, and that the kernel does not let go of, keeps nothing down: nothing of its program is run any longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from volferry import state_lock
from volferry.journal import Halt, Journal, journals_of_the_dead
from volferry.run import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterator

# A run with something stopped, whose turn it is.
RUN = """
import sys
from pathlib import Path
from volferry.journal import Halt, Journal
from volferry.run import begin_run
state = Path(sys.argv[1])
with begin_run(state) as run:
    journal = Journal.of_run(state, run.id)
    journal.alone()
    journal.write(Halt("stop", "c" * 64, "db", 0, "", "done"))
    print(run.id, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def living(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """Its process, and its id."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
        process.kill()


def seen_as(
    monkeypatch: pytest.MonkeyPatch, directory: Path, pid: int, *threads: tuple[str, bool], started: str = ""
) -> None:
    """As the kernel would tell of its threads: state, and whether SIGKILL waits for it."""
    proc = directory / "proc"
    (proc / "self" / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "pid").symlink_to(Path("/proc/self/ns/pid").readlink())
    process = proc / str(pid)
    (process / "task").mkdir(parents=True)
    for number, (state, killed) in enumerate(threads):
        status = process / "task" / str(pid + number) / "status"
        status.parent.mkdir(parents=True)
        pending = 1 << (signal.SIGKILL - 1) if killed else 0
        status.write_text(
            f"Name:\tvolferry\nState:\t{state} (x)\nSigPnd:\t{pending:016x}\nShdPnd:\t{0:016x}\n"
        )
    stat = Path(f"/proc/{pid}/stat").read_text()
    beginning, _, fields = stat.rpartition(")")
    parts = fields.split()
    parts[19] = started or parts[19]
    (process / "stat").write_text(f"{beginning}) {' '.join(parts)}")
    own = proc / str(os.getpid())
    own.mkdir(exist_ok=True)
    (own / "stat").write_text(Path("/proc/self/stat").read_text())
    monkeypatch.setattr(state_lock, "_PROC", proc)


@pytest.mark.parametrize("threads", [(("D", True),), (("Z", True), ("D", True)), (("D", True), ("X", False))])
def test_what_it_has_stopped_is_the_next_ones_to_bring_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    living: tuple[int, str],
    threads: tuple[tuple[str, bool], ...],
) -> None:
    pid, run = living
    assert is_alive(tmp_path, run)
    assert not Journal(tmp_path, "replay").alone(wait=False)
    seen_as(monkeypatch, tmp_path, pid, *threads)
    assert not is_alive(tmp_path, run)
    ((journal, halts),) = journals_of_the_dead(tmp_path)
    assert (journal.run_id, [halt.name for halt in halts]) == (run, ["db"])
    first, second = Journal(tmp_path, "replay"), Journal(tmp_path, "other")
    assert first.alone(wait=False)
    assert not second.alone(wait=False)  # one at a time, as ever
    first.end(over=False)
    assert second.alone()
    second.end(over=False)


@pytest.mark.parametrize(
    "threads",
    [
        (("D", False),),  # it waits for a disk, and goes on
        (("R", True),),
        (("S", True),),
        (("Z", True), ("S", False)),
        (),
    ],
)
def test_one_that_may_still_do_something_is_alive(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    living: tuple[int, str],
    threads: tuple[tuple[str, bool], ...],
) -> None:
    pid, run = living
    seen_as(monkeypatch, tmp_path, pid, *threads)
    assert is_alive(tmp_path, run)
    assert not Journal(tmp_path, "replay").alone(wait=False)


def test_another_process_of_the_same_number_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, living: tuple[int, str]
) -> None:
    pid, run = living
    seen_as(monkeypatch, tmp_path, pid, ("D", True), started="1")
    assert is_alive(tmp_path, run)


def test_of_a_lock_that_does_not_say_who_has_it_nothing_is_known(
    tmp_path: Path, living: tuple[int, str]
) -> None:
    _, run = living
    lock = tmp_path / "runs" / run / "lock"
    assert lock.read_text().split()[0] == str(living[0])
    os.truncate(lock, 0)
    assert is_alive(tmp_path, run)


def test_who_waits_has_its_turn_when_the_one_before_ends(tmp_path: Path, living: tuple[int, str]) -> None:
    os.kill(living[0], signal.SIGKILL)
    waiting = Journal(tmp_path, "replay")
    assert waiting.alone()
    waiting.write(Halt("stop", "c" * 64, "db", 0, ""))
    waiting.end()
