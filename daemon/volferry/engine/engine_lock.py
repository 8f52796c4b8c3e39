"""One volferry at a time has containers of an engine stopped, whatever its state directory is: one in a container and one on the host, say. Each
would take what the other has stopped for what does not run, and one would start what the other is reading.

The lock is a container with a fixed name, which is never started: an engine gives a name once.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import docker.errors
from docker.types import LogConfig

from volferry.engine.client import Engine, translated
from volferry.engine.container_labels import is_own
from volferry.engine.helper_containers import remove_container
from volferry.engine.labels import OWNER, ROLE, RUN, STANDSTILL
from volferry.engine.reap import left_over, own_containers
from volferry.errors import EngineBusy, EngineError
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from volferry.run import Run

LOCK_NAME = "volferry-standstill"
_WHAT = "taking the engine's lock"
_LOOK_SECONDS = 2.0
_SOON_SECONDS = 0.5
_ATTEMPTS = 10
_ABANDONED_SECONDS = 120  # a run whose helper has died may still be bringing back by itself


@contextmanager
def engine_lock(
    engine: Engine,
    image: str,
    run: Run,
    state_directory: Path,
    *,
    seconds: float,
    note: Callable[[str], object] = lambda _: None,
    stops: Callable[[], str] = str,
) -> Iterator[None]:
    """Held until the end of the block. Waits for another volferry for so long, and says so by `note`; what a dead one has left is
    removed. `image` is the helper's; `stops` gives what is about to be stopped, for `abandoned`.

    Raises EngineBusy, and EngineError.
    """
    lock = _taken(engine, image, run, state_directory, time.monotonic() + seconds, note, stops)
    try:
        yield
    finally:
        with held_back():
            _release(engine, lock)


def _taken(
    engine: Engine,
    image: str,
    run: Run,
    state_directory: Path,
    until: float,
    note: Callable[[str], object],
    stops: Callable[[], str],
) -> str:
    told = False
    while True:
        with held_back():
            lock = _created(engine, image, run, stops())
        if lock is not None:
            return lock
        holder = _holder(engine)
        if holder is None:  # it has just been removed, or a proxy does not show it
            if time.monotonic() >= until:
                raise EngineBusy(
                    f"the name {LOCK_NAME} is taken on {engine.url}, and nothing there has it: see `docker ps --all`"
                )
            time.sleep(_SOON_SECONDS)
            continue
        if (
            is_own(engine, holder) and holder["Labels"][RUN] == run.id
        ):  # of another volume: it could not be removed
            remove_container(engine, holder["Id"])
            time.sleep(_SOON_SECONDS)
            continue
        if not is_own(engine, holder):
            raise EngineError(
                f"container {LOCK_NAME} on {engine.url} is none of volferry's, and has the name of its lock: rename or remove it"
            )
        if any(each["Id"] == holder["Id"] for each in left_over(engine, state_directory, run.owner)):
            remove_container(engine, holder["Id"])
            continue
        labels = holder["Labels"]
        words = f"another volferry (state directory {labels[OWNER]}, run {labels[RUN]}) has containers of {engine.url} stopped"
        if time.monotonic() >= until:
            raise EngineBusy(f"{words}: wait for its end, or remove container {LOCK_NAME} if it is dead")
        if not told:
            note(f"waiting: {words}")
            told = True
        time.sleep(_LOOK_SECONDS)


def _release(engine: Engine, lock: str) -> None:
    """Where the engine does not answer for a moment, as when it restarts, it is asked again; what stays is removed by the next run."""
    for _ in range(_ATTEMPTS):
        remove_container(engine, lock)
        try:
            holder = _holder(engine)
            if holder is None or holder["Id"] != lock:
                return
        except EngineError:
            pass
        time.sleep(_SOON_SECONDS)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The lock of a run that died on another machine, or with another state directory."""

    container_id: str
    run: str
    stops: str  # as it was given


def abandoned(engine: Engine, owner: str) -> Abandoned | None:
    """What a volferry with another state directory than `owner` has left, which has died: its helper ended with it. Raises EngineError."""
    found = own_containers(engine)
    locks = [each for each in found if each["Labels"][ROLE] == "lock" and each["Labels"][OWNER] != owner]
    alive = {each["Labels"][RUN] for each in found if each.get("State") == "running"}
    for each in locks:
        labels = each["Labels"]
        is_old = engine.now().timestamp() - each.get("Created", 0) > _ABANDONED_SECONDS
        if is_old and labels[RUN] not in alive and labels.get(STANDSTILL):
            return Abandoned(each["Id"], labels[RUN], labels[STANDSTILL])
    return None


def _created(engine: Engine, image: str, run: Run, stops: str) -> str | None:
    """Its id; None if there is one."""
    api = engine.api
    with translated(_WHAT):
        try:
            found = api.create_container(
                image,
                command=["true"],
                name=LOCK_NAME,
                labels={ROLE: "lock", RUN: run.id, OWNER: run.owner, STANDSTILL: stops},
                network_disabled=True,
                host_config=api.create_host_config(network_mode="none", log_config=LogConfig(type="none")),
            )
        except docker.errors.APIError as error:
            if error.status_code == 409:
                return None
            raise
    return str(found["Id"])


def _holder(engine: Engine) -> dict[str, Any] | None:
    with translated(_WHAT):
        found = engine.api.containers(all=True, filters={"name": f"^/?{LOCK_NAME}$"})
    return next((each for each in found if f"/{LOCK_NAME}" in (each.get("Names") or [])), None)
