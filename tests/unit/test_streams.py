"""Streams from one helper to another, where one side ends before the other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import pytest

from tests.parts.local_helper import LocalHelper, LocalProcess
from volferry.errors import CommandFailed
from volferry.observer import Silent
from volferry.operations.places import Place
from volferry.operations.streams import send

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from volferry.engine.helper import Helper


class Ending(LocalHelper):
    """Its programs end as one does that the kernel has killed."""

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: bool = False,
        on_stderr: Callable[[bytes], None],
        bulk: str | None = None,
    ) -> LocalProcess:
        del command
        killed = ["sh", "-c", "head -c 100 >/dev/null; echo killed >&2; exit 137"]
        return super().start(killed, stdin=stdin, on_stderr=on_stderr, bulk=bulk)


@pytest.mark.parametrize("widens", [False, True])
def test_a_target_that_ends_early_ends_the_source_too(tmp_path: Path, widens: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    names = [f"file{number}" for number in range(40)]
    for name in names:
        (source / name).write_bytes(os.urandom(200_000))
    reading, writing = LocalHelper(source, tmp_path), Ending(tmp_path, tmp_path)
    paths = (b"./" + name.encode() for name in names)
    here, there = (
        Place(cast("Helper", helper), directory)
        for helper, directory in ((reading, str(source)), (writing, "/nowhere"))
    )
    with pytest.raises(CommandFailed, match="killed"):
        send(here, there, paths, Silent(), widens=widens)
    reading.end()
    writing.end()
