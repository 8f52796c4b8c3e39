"""Owners that an engine's user namespace does not have (`userns-remap`, rootless): files of a container that runs outside of it, with
`--userns=host`, or of somebody else of the machine.

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
_SEEMS = ["(", "-uid", _NOBODY, "-o", "-gid", _NOBODY, ")"]
_TELLING = ["!", "-type", "l", "!", "-perm", "-o+w"]
# The mount point is the fifth word of mountinfo (proc(5)), the file system's own options are the last.
_READ_ONLY_SCRIPT = (
    'while read -r _ _ _ _ point rest; do case "$point,${rest##* }" in "$0,ro"|"$0,ro,"*) echo ro; esac; done '
    "</proc/self/mountinfo"
)
_MAP_SCRIPT = 'while read -r _ first count; do echo "$first $count"; done <"/proc/self/$0"'


def has_one(engine: Engine) -> bool:
    """Whether ids in its containers are others than on its machine, unless a container is outside."""
    return "name=userns" in (engine.info.get("SecurityOptions") or [])


def is_rootless(engine: Engine) -> bool:
    """Whether the engine itself is in a user namespace, and none of its containers can be outside of that."""
    return "name=rootless" in (engine.info.get("SecurityOptions") or [])


def check_owners(
    helper: Helper, volumes: Sequence[str], outside: Callable[[], AbstractContextManager[Helper]]
) -> None:
    """By a helper in the namespace and, where something seems to be nobody's, by one that is outside of it, which knows whether it is. Raises
    EngineError.
    """
    for volume in volumes:
        directory = helper.directory(volume)
        if not _said(helper, ["find", directory, *_SEEMS, "-printf", "x", "-quit"]):
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


def check_owners_rootless(
    helper: Helper, volumes: Sequence[str], writing: Callable[[], AbstractContextManager[Helper]]
) -> None:
    """As `check_owners`, where no helper can be outside: by one that may write, and only looks. The kernel lets its root past permissions of a file
    only if the namespace has the owner and the group (capabilities(7), user_namespaces(7)). Not found are links, what everybody may write,
    and what is root's and of a group that the namespace does not have. Raises EngineError.
    """
    for volume in volumes:
        directory = helper.directory(volume)
        if not _said(helper, ["find", directory, *_SEEMS, *_TELLING, "-printf", "x", "-quit"]):
            continue
        with writing() as other:
            if _is_read_only(other, directory):
                continue
            look = ["find", directory, *_SEEMS, *_TELLING, "!", "-writable", "-printf", r"%P\0", "-quit"]
            found = _said(other, look)
        if found:
            raise EngineError(
                f"volume {volume}: {os.fsdecode(found.rstrip(bytes(1))) or '.'!r} belongs to a user or a group of the machine whom the rootless "
                "engine's user namespace does not have, and nobody could restore that: give it to a user of the container (chown, by the "
                f"machine's root), or set helper.userns = \"host\" to back it up as {_NOBODY}'s"
            )


def _is_read_only(helper: Helper, directory: str) -> bool:
    """Whether its file system is, however it is mounted: nobody may write anything there."""
    return bool(_said(helper, ["sh", "-c", _READ_ONLY_SCRIPT, directory]))


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
