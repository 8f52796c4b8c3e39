"""Commands before and after a backup: in containers that mount the volume, and on this machine.

Which of them are to be run afterwards is in the journal first: each is run whatever happens, if need be by the next run, once its container is up, and once.
The journal says which, and no more: the commands are those of the labels and the configuration at that time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from volferry.engine.containers import await_healthy, find_container, find_successor
from volferry.engine.exec import run_in_container, said_of
from volferry.errors import EngineError, EngineUnreachable, HookFailed, VolferryError
from volferry.host_command import run_on_host
from volferry.interrupts import Impatience, held_back
from volferry.journal import Halt
from volferry.operations.coming_back import HEALTHY_SECONDS
from volferry.operations.not_back import HOOK_OF, NotBack
from volferry.operations.retrying import pauses, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from volferry.engine.client import Engine
    from volferry.engine.containers import Container
    from volferry.journal import Journal
    from volferry.labels import ContainerCommand
    from volferry.volume_settings import HostHooks

_MOST_LINES = 20
HOST = "this machine"
_SEPARATOR = "\n"  # of volumes, in the journal


@dataclass(slots=True)
class Hooks:
    """Those that some volumes have, all of which are backed up together. `after` must be called once `before` was, whatever happened."""

    engine: Engine
    volumes: Sequence[str]  # that have them
    pre: Sequence[ContainerCommand]
    post: Sequence[ContainerCommand]
    on_error: Sequence[ContainerCommand]
    host: HostHooks
    environment: Mapping[str, str]
    journal: Journal
    note: Callable[[str], None]
    patience_seconds: float
    problems: list[str] = field(default_factory=list)  # what failed afterwards
    down: list[NotBack] = field(default_factory=list)  # what is still to be run
    _posts: list[tuple[Halt, ContainerCommand | None]] = field(default_factory=list)
    begun: bool = False  # `before` was called, and not `after` yet

    def __post_init__(self) -> None:
        self.note = quiet(self.note)
        self.environment = {**self.environment, "VOLFERRY_VOLUME": " ".join(self.volumes)}

    def before(self) -> None:
        """On this machine first, then in containers. Raises HookFailed: then nothing must be read; VolferryError where the
        journal cannot be written.
        """
        self.begun = True
        pre = [each for each in self.pre if self._is_there(each)]
        with held_back():
            self._posts = self._to_run()
            if self._posts:
                self.journal.write(*(halt for halt, _ in self._posts))
        if self.host.pre:
            run_host_hook("pre", self.host.pre, self.host.timeout.delta, self.environment)
        for command in pre:
            run_hook(self.engine, "pre", command, self.environment)

    def after(self, error: str | None) -> None:
        """With `error`, what is to be run where a backup has failed; then, where `before` was called, what is to be run after one."""
        if not self.begun:
            if error is not None:
                with held_back():
                    self._run_on_error({**self.environment, "VOLFERRY_ERROR": error})
            return
        with held_back():
            self.begun = False
            environment = {**self.environment, **({"VOLFERRY_ERROR": error} if error is not None else {})}
            if error is not None:
                self._run_on_error(environment)
            for halt, command in self._posts:
                self._run_post(halt, command, environment)
            self.journal.end(over=not self.down)

    def _is_there(self, command: ContainerCommand) -> bool:
        """One that has ended since it was listed is no reason to back up nothing."""
        found = find_container(self.engine, command.container_id)
        if found is None or not found.runs:
            self.note(f"no hook pre in container {command.container}: it has ended")
            return False
        return True

    def _run_on_error(self, environment: Mapping[str, str]) -> None:
        for command in self.on_error:
            try:
                run_hook(self.engine, "on-error", command, environment)
            except VolferryError as error:
                self.problems.append(str(error))
        if self.host.on_error:
            try:
                run_host_hook("on-error", self.host.on_error, self.host.timeout.delta, environment)
            except VolferryError as error:
                self.problems.append(str(error))

    def _run_post(self, halt: Halt, command: ContainerCommand | None, environment: Mapping[str, str]) -> None:
        """What has failed is over; what could not be tried is left."""
        try:
            if command is None:
                run_host_hook("post", self.host.post or "", self.host.timeout.delta, environment)
            else:
                self._run_where_it_is(halt, command, environment)
        except HookFailed as error:
            self.problems.append(str(error))
        except EngineError as error:
            self._leave(halt, error)
            return
        self._write(replace(halt, state="over"))

    def _run_where_it_is(self, halt: Halt, command: ContainerCommand, environment: Mapping[str, str]) -> None:
        """Once the engine answers. Raises HookFailed, EngineError where it cannot be run."""
        waited = 0.0
        with Impatience() as impatience:
            for pause in pauses():
                try:
                    run_post(self.engine, halt, command, environment)
                except EngineUnreachable:
                    waited += pause
                    if waited > self.patience_seconds or impatience.sleeps(pause):
                        raise
                else:
                    return

    def _leave(self, halt: Halt, error: EngineError) -> None:
        self._write(replace(halt, error=str(error)))
        left = NotBack(self.journal.run_id, f"{HOOK_OF}{halt.name}", str(error))
        self.down.append(left)
        self.problems.append(f"{left.name} is still to be run: {error}")

    def _write(self, halt: Halt) -> None:
        try:
            self.journal.write(halt)
        except VolferryError as error:
            self.problems.append(str(error))

    def _to_run(self) -> list[tuple[Halt, ContainerCommand | None]]:
        volume = _SEPARATOR.join(self.volumes)
        found: list[tuple[Halt, ContainerCommand | None]] = []
        for order, command in enumerate(self.post[::-1]):
            container = find_container(self.engine, command.container_id)
            place = container.place if container is not None else ""
            halt = Halt(
                "hook", command.container_id, command.container, order, volume, "under way", service=place
            )
            found.append((halt, command))
        if self.host.post:
            found.append((Halt("hook", "", HOST, len(found), volume, "under way"), None))
        return found


def volumes_of(halt: Halt) -> list[str]:
    """That have the hook."""
    return halt.before.split(_SEPARATOR)


def run_post(engine: Engine, halt: Halt, command: ContainerCommand, environment: Mapping[str, str]) -> None:
    """In its container, or in the one that has taken its place, once that is healthy. Raises HookFailed, EngineError where it cannot be run now."""
    container = container_of(engine, halt)
    if container is None or not container.runs:
        state = f"is {container.state}" if container is not None else "is gone"
        raise EngineError(f"container {halt.name} {state}")
    await_healthy(engine, container, seconds=HEALTHY_SECONDS)
    run_hook(engine, "post", replace(command, container_id=container.id), environment)


def container_of(engine: Engine, halt: Halt) -> Container | None:
    """That of a hook, or the one that has taken its place. Raises EngineError."""
    return find_container(engine, halt.id) or find_successor(engine, halt.id, halt.name, halt.service)


def run_hook(engine: Engine, when: str, command: ContainerCommand, environment: Mapping[str, str]) -> None:
    """Raises HookFailed, EngineUnreachable where it was not run."""
    what = f"hook {when} of container {command.container}"
    lines: deque[bytes] = deque(maxlen=_MOST_LINES)
    try:
        status = run_in_container(
            engine,
            command,
            environment=environment,
            on_stdout=lambda _: None,
            on_stderr=lambda data: lines.extend(data.splitlines()),
            whole=False,
        )
    except EngineUnreachable:
        raise
    except EngineError as error:
        raise HookFailed(f"{what} failed: {error}") from error
    if status:
        raise HookFailed(f"{what} failed with status {status}{said_of(engine, command, reversed(lines))}")


def run_host_hook(when: str, line: str, timeout: timedelta, environment: Mapping[str, str]) -> None:
    """Raises HookFailed."""
    status, said = run_on_host(line, timeout=timeout, environment=environment)
    if status is None:
        raise HookFailed(f"hook {when} on this machine took longer than its timeout, {timeout}: it was ended")
    if status:
        raise HookFailed(
            f"hook {when} on this machine failed with status {status}{f': {said}' if said else ''}"
        )
