"""Whether what is to be written is the very data that is to be read: a share that both engines reach, a directory of one machine."""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from volferry.archive.commands import probe_command
from volferry.archive.probe_scripts import (
    PROBE_NAME,
    holds_command,
    inodes_command,
    look_command,
    plain_take_command,
    put_command,
    roots_command,
    take_command,
)
from volferry.errors import CommandFailed, VolferryError
from volferry.interrupts import held_back
from volferry.operations.broken_off import has_names
from volferry.operations.streams import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from volferry.engine.helper import Helper

_TRIES = 3  # somebody may write to a directory between a look at one side and at the other
_LOOKING = "looking for the data of the source in the target"
_TAKING = "taking away what was put into the target"


@dataclass(frozen=True, slots=True)
class Overlap:
    """A source and a target that are not apart."""

    source: str
    target: str
    how: Literal["is", "is in", "holds"]  # the target, of the source


def look_alike(reading: Helper, source: str, writing: Helper, target: str) -> bool:
    """Whether two directories have the same inode and times: they are one, or one is a copy of the other's disk. Nothing is written."""
    for _ in range(_TRIES):
        one, other = (
            run(reading, roots_command([source]), _LOOKING),
            run(writing, roots_command([target]), _LOOKING),
        )
        if one == other:
            return True
        if one.split()[0] != other.split()[0]:
            break
    return False


def holds_something(helper: Helper, directory: str) -> bool:
    """Whether the directory holds more than a killed `find_overlap` has left there. Raises CommandFailed, also if its names cannot be read."""
    looking = "looking into the volume"
    if run(helper, holds_command(directory), looking):
        return True
    # Of what is left, some names were given.
    return not run(helper, probe_command(directory), looking) and has_names(helper, directory)


def find_overlap(
    reading: Helper,
    sources: Sequence[str],
    writing: Helper,
    targets: Sequence[str],
    *,
    below: bool,
    full: Sequence[str] = (),
) -> Overlap | None:
    """The first of the directories to write that is one to read; with `below`, or is in one, or, of those that are `full`, holds one.
    Nothing stays of what is put into the targets for that. Raises CommandFailed.
    """
    candidates = _with_inodes_of(reading, sources, writing, full) if below and full else []
    probed = [*targets, *(path for _, path in candidates)]
    with _probes(writing, probed) as name:
        found = run(reading, look_command(name, len(probed), sources, below=below), _LOOKING).split(b"\0")[
            :-1
        ]
    for place, number in zip(found[::2], found[1::2], strict=True):
        path, at = place.decode("utf-8", "surrogateescape"), int(number)
        if at < len(targets):
            # Of sources that are in each other, the nearest one.
            source = max((each for each in sources if f"{path}/".startswith(f"{each}/")), key=len)
            return Overlap(source, targets[at], "is" if path == source else "is in")
        if path in sources:
            return Overlap(path, candidates[at - len(targets)][0], "holds")
    return None


@contextmanager
def _probes(writing: Helper, directories: Sequence[str]) -> Iterator[str]:
    """A file in each, of that name, a dash and its number."""
    name = PROBE_NAME + secrets.token_hex(8)
    times: list[tuple[str, str, str]] = []
    try:
        with held_back():
            put = (
                run(writing, put_command(name, directories), "putting a file into the target")
                .decode()
                .split()
            )
            times = list(zip(directories, put[::2], put[1::2], strict=True))
        yield name
    except BaseException:
        with suppress(VolferryError):
            _take(writing, name, directories, times)
        raise
    _take(writing, name, directories, times)


def _take(
    writing: Helper, name: str, directories: Sequence[str], times: Sequence[tuple[str, str, str]]
) -> None:
    with held_back():
        try:
            if times:
                run(writing, take_command(name, times), _TAKING)
                return
        except CommandFailed:  # the image lacks volferry's Python
            pass
        run(writing, plain_take_command(name, directories), _TAKING)


def _with_inodes_of(
    reading: Helper, sources: Sequence[str], writing: Helper, targets: Sequence[str]
) -> list[tuple[str, str]]:
    """Targets, and directories below them that may be one of the sources."""
    roots = run(reading, roots_command(sources), _LOOKING).split(b"\0")[:-1]
    inodes = sorted({root.split()[0].decode() for root in roots})
    return [
        (target, path.decode("utf-8", "surrogateescape"))
        for target in targets
        for path in run(writing, inodes_command(target, inodes), _LOOKING).split(b"\0")[:-1]
    ]
