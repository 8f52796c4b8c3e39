"""One daemon for each state directory."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from volferry.daemon_lock import daemon_lock
from volferry.errors import DaemonRuns, VolferryError

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from volferry.daemon_lock import daemon_lock
with daemon_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_one_is_told_so_until_the_first_is_gone(tmp_path: Path) -> None:
    """However that ends."""
    state = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(DaemonRuns, match=f"another daemon works with the state directory {state}"):
            daemon_lock(state).__enter__()
        with daemon_lock(tmp_path / "other"):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with daemon_lock(state), pytest.raises(DaemonRuns):
        daemon_lock(state).__enter__()
    with daemon_lock(state):
        pass


def test_its_runs_do_not_keep_it(tmp_path: Path) -> None:
    """A run that outlives its daemon must not keep the next one from starting."""
    with daemon_lock(tmp_path):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
    try:
        assert child.stdout
        child.stdout.readline()  # a process that is only just starting may still have what it was started with
        with daemon_lock(tmp_path):
            pass
    finally:
        child.kill()
        child.communicate()


def test_where_there_can_be_no_file_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VolferryError, match="cannot write to the state directory"):
        daemon_lock(tmp_path / "file" / "state").__enter__()
