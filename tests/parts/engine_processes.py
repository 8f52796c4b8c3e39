"""Processes and mounts of a private engine, found by what nothing else has: its directory in their command lines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Containers, and the programs that watch over each of them, run below these; nothing else is ever found by its command line.
ENGINE_PROGRAMS = (b"dockerd", b"containerd", b"rootlesskit", b"podman", b"conmon")
_END_SECONDS = 60.0
_POLL_SECONDS = 0.05


class ProcessesLeft(Exception):
    """Some do not end."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Process ids of an engine's own programs, and of what runs in its containers."""

    programs: frozenset[int]
    containers: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        return self.programs | self.containers


def signal_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_processes(root: Path) -> None:
    """SIGKILL all that runs for the engine at `root`: a killed dockerd leaves shims and containers behind."""
    deadline = time.monotonic() + _END_SECONDS
    while True:
        processes = engine_processes(root)
        left = processes.all
        if not left:
            return
        if time.monotonic() > deadline:
            raise ProcessesLeft(f"{root}: processes that do not end: {sorted(left)}")
        signal_all(left)
        time.sleep(_POLL_SECONDS)


def engine_processes(root: Path) -> Processes:
    """The engine's own programs, which name `root` in their command line, and all processes below them."""
    mark = os.fsencode(root) + b"/"
    children: dict[int, list[int]] = {}
    programs: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            # the fields after the program's name, which may hold blanks and parentheses; see proc(5)
            state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == b"Z":
            continue
        children.setdefault(int(parent), []).append(int(entry.name))
        program = arguments[0].rpartition(b"/")[2]
        if program.startswith(ENGINE_PROGRAMS) and any(mark in argument for argument in arguments):
            programs.add(int(entry.name))
    below: set[int] = set()
    pending = list(programs)
    while pending:
        for child in children.get(pending.pop(), []):
            if child not in below:
                below.add(child)
                pending.append(child)
    return Processes(frozenset(programs), frozenset(below - programs))


def unmount_below(root: Path) -> None:
    """Detach all mounts below `root`, the innermost first."""
    mark = os.fsencode(root) + b"/"
    # the fifth field, with blanks and the like as octal escapes; `root` never holds any. See proc(5)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(mark):
            target = mount.decode("unicode_escape").encode("latin-1")
            subprocess.run(["umount", "--lazy", target], check=True)
