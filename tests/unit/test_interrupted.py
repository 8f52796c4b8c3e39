"""What status says of interrupted work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from volferry.cli.interrupted import past_error, restore_line
from volferry.history import UNFINISHED, PastRun
from volferry.restore_record import BegunRestore

BEGAN = datetime(2026, 11, 23, 22, 20, tzinfo=UTC)
REF = "db1/data@20261123T222016Z-0dd092"
HOLDS = "it holds the rest of an interrupted restore: `volferry restore x --replace` completes it"


def run_with(error: str, cause: str) -> PastRun:
    return PastRun(
        "run", "db1", "data", BEGAN, BEGAN, "failed" if error else "done", None, error, cause=cause
    )


def test_what_is_over_is_no_longer_said_as_if_it_were_so() -> None:
    refused = run_with(HOLDS, UNFINISHED)
    assert past_error(refused, None, gone=False) == ""
    assert past_error(refused, BEGAN - timedelta(1), gone=False) == ""
    for text in (past_error(refused, BEGAN + timedelta(1), gone=False), past_error(refused, None, gone=True)):
        assert "it held the rest" in text
        assert "completes it" not in text
    assert past_error(run_with("the store is full", ""), BEGAN + timedelta(1), gone=False) == ""
    gone = past_error(run_with("the store is full", ""), None, gone=True)
    assert gone == "the store is full; the volume is gone since"
    assert past_error(run_with("", ""), None, gone=True) == ""


@pytest.mark.parametrize(("name", "into"), [("data", ""), ("other", " --into other")])
def test_a_restore_that_was_interrupted_is_named_with_the_command_that_completes_it(
    name: str, into: str
) -> None:
    line = restore_line(name, BegunRestore(REF, BEGAN))
    assert line.endswith(f"`volferry restore {REF}{into} --replace` completes it")
    assert f"{REF}{into} --replace --store '/mnt/a b'`" in restore_line(
        name, BegunRestore(REF, BEGAN, store="/mnt/a b")
    )
    spared = restore_line(name, BegunRestore(REF, BEGAN, spared=True))
    assert "holds what it held" in spared
    assert "holds the rest" not in spared
    assert f"`volferry restore {REF}{into} --replace` deletes that" in spared
    # All of the backup is not what a restore of paths was to put there.
    assert REF + into + " --replace" not in restore_line(name, BegunRestore(REF, BEGAN, in_part=True))
    assert restore_line(name, BegunRestore(REF, BEGAN, running=True, spared=True)).startswith(
        f"{name}: {REF} is being restored into it"
    )


def test_an_import_is_called_one() -> None:
    command = "volferry import 'my files.tar' --into data"
    line = restore_line("data", BegunRestore("", BEGAN, command=command))
    assert "the rest of an import" in line
    assert f"`{command}` deletes that and begins anew" in line
    running = restore_line("data", BegunRestore("", BEGAN, running=True, command=command))
    assert running.startswith(f"data: `{command}` has been at work since")
