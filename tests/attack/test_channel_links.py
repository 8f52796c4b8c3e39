"""The shared directory of the FIFO channel, in which a helper that was led astray has put links and files in place of FIFOs."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest

from volferry.engine.fifo import FifoChannel
from volferry.errors import HelperDied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.attack.conftest import Outside


class Alive:
    """In place of `Death`."""

    reason = "it ended"

    def __init__(self) -> None:
        self.event = os.eventfd(0)

    def fileno(self) -> int:
        return self.event


def started(channel: FifoChannel, death: Alive) -> None:
    channel.watch(cast("Any", death))
    channel.start(["true"], stdin=True, on_stderr=lambda _: None)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "shared"
    directory.mkdir()
    return directory


@pytest.fixture
def channel(shared: Path) -> Iterator[FifoChannel]:
    """To a shell of this machine."""
    found = FifoChannel(shared, str(shared))
    death = Alive()
    found.watch(cast("Any", death))
    with subprocess.Popen(found.shell, start_new_session=True) as shell:
        yield found
        os.killpg(shell.pid, signal.SIGKILL)  # also what waits for a FIFO that is gone
    os.eventfd_write(death.event, 1)
    found.close()
    os.close(death.event)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_nothing_is_written_through_what_took_the_place_of_a_fifo(
    channel: FifoChannel, shared: Path, outside: Outside, kind: str
) -> None:
    process = channel.start(["tr", "-d", ""], stdin=True, on_stderr=lambda _: None)
    (shared / "1.in").unlink()
    if kind == "link":
        (shared / "1.in").symlink_to(outside.secret)
    else:
        (shared / "1.in").write_bytes(b"")
    with pytest.raises(HelperDied, match="something has taken the place of"):
        process.write(b"planted")


@pytest.mark.parametrize("name", ["control", "1.out", "1.err", "1.status", "1.in"])
def test_a_link_that_comes_before_the_fifo_is_opened_is_not_followed(
    shared: Path, outside: Outside, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkfifo

    def mkfifo(path: Path) -> None:
        if path.name == name:
            path.symlink_to(outside.secret)
        else:
            real(path)

    monkeypatch.setattr(os, "mkfifo", mkfifo)
    death = Alive()
    with pytest.raises(HelperDied, match="something has taken the place of"):
        started(FifoChannel(shared, str(shared)), death)
    os.close(death.event)


def test_both_ends_work_where_nobody_meddles(channel: FifoChannel) -> None:
    process = channel.start(["tr", "a", "b"], stdin=True, on_stderr=lambda _: None)
    process.write(b"abc")
    process.close_stdin()
    assert (process.read(10), process.wait()) == (b"bbc", 0)
