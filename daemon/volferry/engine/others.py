"""Other volferrys that work with an engine, as far as they can be seen there: those whose state directory is another one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from volferry.engine.client import Engine, translated
from volferry.engine.labels import NOBODY, OWNER, RUN
from volferry.engine.reap import own_containers
from volferry.engine.running import running_containers
from volferry.engine.volumes import container_name

if TYPE_CHECKING:
    from collections.abc import Collection

_DAEMON = re.compile(r"(^|[ /])volferry daemon\b")


def others(engine: Engine, owner: str, own: Collection[str]) -> list[str]:
    """Each in a line. `owner` is our state directory, `own` are ids of containers that we run in. One on the host shows only while it has
    something on the engine.
    """
    runs = {
        (each["Labels"][OWNER], each["Labels"][RUN])
        for each in own_containers(engine)
        if each["Labels"][OWNER] not in {owner, NOBODY}
    }
    found = [
        f"another volferry (state directory {of}, run {run}) is at work on this engine"
        for of, run in sorted(runs)
    ]
    with translated("looking for other daemons"):
        listed = running_containers(engine)
    daemons = sorted(
        container_name(each)
        for each in listed
        if each["Id"] not in own and _DAEMON.search(str(each.get("Command", "")))
    )
    return found + [
        f"container {name} is a daemon of volferry, and works with this engine, too" for name in daemons
    ]
