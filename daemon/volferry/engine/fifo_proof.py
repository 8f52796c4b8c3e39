"""Whether a helper has the very FIFOs that we have, found out before anything relies on it.

A path may be another directory for an engine that is confined, or on another machine behind a local socket; and a directory that two kernels
share has the names of FIFOs on either side, and nothing that is written to one of them reaches the other. So the helper's first process
writes a word into a FIFO, by which no open can block: that takes it a moment where it works. How long it may take is nobody's
guess: a helper that has not answered is asked to do so once more by `exec`, and what has not come when that has ended never will.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.engine.client import translated
from volferry.errors import EngineError, EngineUnreachable

if TYPE_CHECKING:
    from volferry.engine.client import Death, Engine
    from volferry.engine.fifo import FifoChannel

_QUICK_SECONDS = 1.0  # then it is asked otherwise, which takes a tenth of a second
_WITHOUT_EXEC_SECONDS = 30.0
_BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"  # of each kernel, since its start (random(4))
_BOOT_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOOK_SCRIPT = f'{{ read -r id <{_BOOT_ID_PATH}; }} 2>/dev/null; echo "$id"'


class NoFifo(EngineError):
    """A helper runs, and does not have our FIFOs."""


def await_answer(engine: Engine, helper_id: str, channel: FifoChannel, death: Death) -> None:
    """Returns once it has answered. Raises NoFifo once it is sure that it cannot."""
    if channel.answered(_QUICK_SECONDS):
        return
    if death.happened:
        raise NoFifo(f"the helper does not see in {channel.directory} what is there ({death.reason})")
    try:
        boot_id = _asked_again(engine, helper_id, channel)
    except EngineUnreachable:
        raise
    except EngineError as error:
        # A proxy that lets no `exec` through, and no proof either.
        if channel.answered(_WITHOUT_EXEC_SECONDS):
            return
        raise NoFifo(
            f"the helper does not answer through {channel.directory}, and cannot be asked why: {error}"
        ) from error
    if channel.answered(0):
        return
    if boot_id is not None and boot_id != _our_boot_id():
        engine.has_another_kernel = True
        raise NoFifo("the engine is on another machine, or in a virtual one")
    raise NoFifo(f"the helper does not have the FIFOs of {channel.directory}")


def _asked_again(engine: Engine, helper_id: str, channel: FifoChannel) -> bytes | None:
    """Has a second process of the helper answer; returns the id of its kernel, or None if that process cannot read it."""
    with translated("the helper"):
        script = f"{channel.answer}; {_LOOK_SCRIPT}"
        asked = engine.api.exec_create(
            helper_id, ["sh", "-c", script, *channel.answer_arguments], stderr=False
        )
        said = bytes(engine.api.exec_start(asked["Id"]))
    found = _BOOT_ID.search(said)
    return found[0] if found else None


def _our_boot_id() -> bytes:
    try:
        return Path(_BOOT_ID_PATH).read_bytes().strip()
    except OSError:
        return b""
