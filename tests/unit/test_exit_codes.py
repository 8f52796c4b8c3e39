"""Exit codes of commands that need no engine: 2 for what must be typed or configured otherwise, 1 for what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path

# Of which each needs a store, though not what is in it.
ABOUT_A_STORE = (
    ("list",),
    ("show", "vol"),
    ("ls", "vol"),
    ("find", "*"),
    ("diff", "vol"),
    ("export", "vol", "-o", "out.tar"),
    ("restore", "vol", "--to", "out"),
    ("verify",),
    ("copy", "--to", "elsewhere"),
    ("accept", "vol"),
    ("forget", "vol@1"),
    ("prune",),
    ("status",),
)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """No engine is needed where a host is named."""
    return Cli("unix:///nowhere", tmp_path / "store", tmp_path / "state", tmp_path)


@pytest.mark.parametrize("command", ABOUT_A_STORE, ids=" ".join)
def test_a_store_that_nobody_has_ever_seen_is_mistyped(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    nowhere = str(tmp_path / "nosuch")
    done = cli(*command, "--host", "host", "--store", nowhere)
    done.fails_with("there is no volferry store at", nowhere, code=2)
    assert done.stdout == ""
    assert not (tmp_path / "nosuch").exists()


def test_a_store_that_is_yet_to_be_made_is_no_fault_of_the_daemons_host(cli: Cli) -> None:
    status = cli("status", "--host", "host")
    assert "there is no volferry store" not in status.stderr
    assert "Nothing was backed up" in status.stdout
    cli("verify", "--share", "--host", "host").exits(0)
