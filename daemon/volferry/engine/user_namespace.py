"""Owners that an engine's user namespace does not have (`userns-remap`): files of a container that runs outside of it, with `--userns=host`.

A helper sees each of them as the user 65534, and may not read files that only their owner may. A backup that recorded 65534 would give
them to another user when it is restored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from volferry.engine.channel import READ_BYTES
from volferry.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from volferry.engine.client import Engine
    from volferry.engine.helper import Helper

_NOBODY = "65534"  # overflowuid and overflowgid of proc(5), by default
_MAP_SCRIPT = 'while read -r _ first count; do echo "$first $count"; done <"/proc/self/$0"'


def has_one(engine: Engine) -> bool:
    """Whether ids in its containers are others than on its machine, unless a container is outside."""
    return "name=userns" in (engine.info.get("SecurityOptions") or [])


def check_owners(
    helper: Helper, volumes: Sequence[str], outside: Callable[[], AbstractContextManager[Helper]]
) -> None:
    """By a helper in the namespace and, where something seems to be nobody's, by one that is outside of it, which knows whether it is. Raises
    EngineError.
    """
    for volume in volumes:
        directory = helper.directory(volume)
        seems = ["find", directory, "(", "-uid", _NOBODY, "-o", "-gid", _NOBODY, ")", "-printf", "x", "-quit"]
        if not _said(helper, seems):
            continue
        unknown = ["!", "(", *_of_map(helper, "uid"), ")", "-o", "!", "(", *_of_map(helper, "gid"), ")"]
        with outside() as other:
            found = _said(other, ["find", directory, "(", *unknown, ")", "-printf", r"%U:%G %P\0", "-quit"])
        if found:
            owner, _, path = found.rstrip(b"\0").partition(b" ")
            raise EngineError(
                f"volume {volume}: {os.fsdecode(path) or '.'!r} belongs to {owner.decode()} of the machine, whom the engine's user "
                'namespace does not have, and nobody could restore that: set helper.userns = "host" to keep the ids '
                "of the machine, or give it to a user of the container"
            )


def _of_map(helper: Helper, kind: str) -> list[str]:
    """Tests of `find`: the ids of the machine that the helper's namespace has."""
    tests: list[str] = []
    for line in _said(helper, ["sh", "-c", _MAP_SCRIPT, f"{kind}_map"]).decode().splitlines():
        first, count = map(int, line.split())
        least = [f"-{kind}", f"+{first - 1}"] if first else []
        tests += ["-o", *least, f"-{kind}", f"-{first + count}"]
    return tests[1:]


def _said(helper: Helper, command: Sequence[str]) -> bytes:
    process = helper.start(command, on_stderr=lambda _: None)
    out = b""
    while data := process.read(READ_BYTES):
        out += data
    process.wait()
    return out
