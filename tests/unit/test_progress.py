"""Findings as they are said on the terminal while a backup is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.cli.progress import TerminalObserver
from volferry.model import Finding

if TYPE_CHECKING:
    import pytest


def test_a_finding_of_the_volume_as_a_whole_is_seen_after_many_of_its_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with TerminalObserver("vol") as observer:
        for number in range(30):
            observer.finding(Finding("vanished", b"file%d" % number, "gone"))
        observer.finding(Finding("shrunk", b"", "from 31 to 1 entries"))
    said = capsys.readouterr().err
    assert "  shrunk: (root): from 31 to 1 entries\n" in said
    assert said.count("vanished") == 20
    assert "… and 10 more (see `volferry show`)" in said
