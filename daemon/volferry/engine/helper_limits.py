"""How much of its machine a helper may take, and which limits an engine cannot set.

An engine may refuse a limit, in words of its own, because the kernel lacks `io.weight`, because a controller is not delegated to the user, or because of its
runtime. So once it has failed to start a helper, volferry tries each limit with a container that has no volume.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from volferry.engine.client import Engine, translated
from volferry.engine.helper_containers import create_helper, remove_container
from volferry.errors import EngineError, EngineUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# By docker-py's names, the most important one first.
_NAMES = {
    "mem_limit": ("memory limit", "memory"),
    "pids_limit": ("limit of processes", ""),
    "cpu_shares": ("CPU weight", "cpu_shares"),
    "blkio_weight": ("I/O weight", "io_weight"),
}
_IO = "blkio_weight"  # what is lacking most often


@dataclass(frozen=True, slots=True)
class _Refused:
    names: tuple[str, ...] = ()
    why: str = ""


_refused: WeakKeyDictionary[Engine, _Refused] = WeakKeyDictionary()
_trying = threading.Lock()


def accepted(engine: Engine, limits: Mapping[str, int]) -> dict[str, int]:
    """Those that the engine is not known to refuse."""
    names = _refused.get(engine, _Refused()).names
    return {name: value for name, value in limits.items() if name not in names}


def left_out(engine: Engine) -> str:
    """Which limits helpers go without on an engine, and why; empty for none."""
    found = _refused.get(engine, _Refused())
    if not found.names:
        return ""
    names = [_NAMES[name][0] for name in found.names]
    keys = [f'helper.{key} = "off"' for _, key in map(_NAMES.__getitem__, found.names) if key]
    spared = f" ({', '.join(keys)} spares the try)" if keys else ""
    return (
        f"helpers run without {' and '.join(names)} on {engine.url}, which refuses that: {found.why}{spared}"
    )


def are_the_reason(engine: Engine, image: str, labels: Mapping[str, str], limits: Mapping[str, int]) -> bool:
    """Whether a helper was not started because of some of its `limits`: `accepted` leaves them out from now on. Raises EngineUnreachable."""
    with _trying:
        if engine not in _refused:
            _refused[engine] = _found(engine, image, labels, limits)
        return len(accepted(engine, limits)) < len(limits)


def _found(engine: Engine, image: str, labels: Mapping[str, str], limits: Mapping[str, int]) -> _Refused:
    def fault(names: Sequence[str]) -> str:
        return _fault(engine, image, labels, {name: limits[name] for name in names})

    ordered = [name for name in _NAMES if name in limits]
    why = fault(ordered)
    if not why or fault([]):
        return _Refused()
    kept = [name for name in ordered if name != _IO]
    if len(kept) == len(ordered) or fault(kept):
        kept = []
        for name in ordered:
            if not fault([*kept, name]):
                kept.append(name)
    return _Refused(tuple(name for name in ordered if name not in kept), why)


def _fault(engine: Engine, image: str, labels: Mapping[str, str], limits: Mapping[str, int]) -> str:
    """The engine's words, if it does not start such a container."""
    made = ""
    try:
        with translated("a helper"):
            made = create_helper(engine, image, labels, ["sh", "-c", ":"], limits, write=False)
            engine.api.start(made)
    except EngineUnreachable:
        raise
    except EngineError as error:
        return str(error).removeprefix("a helper: ")
    finally:
        if made:
            remove_container(engine, made)
    return ""
