"""Commands before and after a backup: in containers that mount the volume, and on this machine.

What is to be run afterwards is in the journal first: it is run whatever happens, if need be by the next run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from volferry.engine.exec import run_in_container
from volferry.errors import EngineError, EngineUnreachable, HookFailed, VolferryError
from volferry.host_command import run_on_host
from volferry.interrupts import held_back
from volferry.journal import Halt
from volferry.labels import ContainerCommand
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from volferry.engine.client import Engine
    from volferry.journal import Journal
    from volferry.volume_settings import HostHooks

_MOST_LINES = 20


@dataclass(slots=True)
class Hooks:
    """Of one backup. `after` must be called once `before` was, whatever happened."""

    engine: Engine
    pre: Sequence[ContainerCommand]
    post: Sequence[ContainerCommand]
    on_error: Sequence[ContainerCommand]
    host: HostHooks
    environment: Mapping[str, str]
    journal: Journal
    problems: list[str] = field(default_factory=list)  # what failed afterwards
    _begun: bool = False

    def before(self) -> None:
        """On this machine first, then in containers. Raises HookFailed: then nothing must be read; VolferryError where the
        journal cannot be written.
        """
        self._begun = True
        with held_back():
            if posts := self._posts():
                self.journal.write(*posts)
        if self.host.pre:
            run_host_hook("pre", self.host.pre, self.host.timeout.delta, self.environment)
        for command in self.pre:
            run_hook(self.engine, "pre", command, self.environment)

    def after(self, error: str | None) -> None:
        """With `error`, what is to be run where a backup has failed; then, in any case, what is to be run after one."""
        if not self._begun:
            return
        with held_back():
            self._begun = False
            environment = {**self.environment, **({"VOLFERRY_ERROR": error} if error is not None else {})}
            if error is not None:
                self._run("on-error", self.on_error, self.host.on_error, environment)
            self._run("post", self.post[::-1], self.host.post, environment)
            self.journal.end()

    def _run(
        self,
        when: str,
        commands: Sequence[ContainerCommand],
        host: str | None,
        environment: Mapping[str, str],
    ) -> None:
        for command in commands:
            try:
                run_hook(self.engine, when, command, environment)
            except VolferryError as error:
                self.problems.append(str(error))
        if host:
            try:
                run_host_hook(when, host, self.host.timeout.delta, environment)
            except VolferryError as error:
                self.problems.append(str(error))

    def _posts(self) -> list[Halt]:
        found = [
            Halt("hook", command.container_id, command.container, order, _text(command, self.environment), "under way")
            for order, command in enumerate(self.post[::-1])
        ]  # fmt: skip
        if self.host.post:
            seconds = int(self.host.timeout.delta.total_seconds())
            before = json.dumps(["", [self.host.post], "", seconds, dict(self.environment)])
            found.append(Halt("hook", "", "this machine", len(found), before, "under way"))
        return found


def run_journaled(engine: Engine, halt: Halt, note: Callable[[str], None]) -> None:
    """What a run that died would have run after it, once: that it fails is noted. Raises EngineUnreachable."""
    container, arguments, user, seconds, environment = json.loads(halt.before)
    timeout = timedelta(seconds=seconds) if seconds else None
    try:
        if halt.id:
            command = ContainerCommand(container, halt.id, tuple(arguments), user, timeout)
            run_hook(engine, "post", command, environment)
        else:
            run_host_hook("post", arguments[0], timedelta(seconds=seconds), environment)
    except HookFailed as error:
        if isinstance(error.__cause__, EngineUnreachable):
            raise error.__cause__ from None
        note(str(error))


def run_hook(engine: Engine, when: str, command: ContainerCommand, environment: Mapping[str, str]) -> None:
    """Raises HookFailed."""
    what = f"hook {when} of container {command.container}"
    lines: list[bytes] = []

    def keep(data: bytes) -> None:
        lines.extend(data.splitlines()[: max(0, _MOST_LINES - len(lines))])

    try:
        status = run_in_container(
            engine, command, environment=environment, on_stdout=lambda _: None, on_stderr=keep
        )
    except EngineError as error:
        raise HookFailed(f"{what} failed: {error}") from error
    if status:
        said = f": {printable(lines[-1])}" if lines else ""
        raise HookFailed(f"{what} failed with status {status}{said}")


def run_host_hook(when: str, line: str, timeout: timedelta, environment: Mapping[str, str]) -> None:
    """Raises HookFailed."""
    status, said = run_on_host(line, timeout=timeout, environment=environment)
    if status is None:
        raise HookFailed(f"hook {when} on this machine took longer than its timeout, {timeout}: it was ended")
    if status:
        raise HookFailed(
            f"hook {when} on this machine failed with status {status}{f': {said}' if said else ''}"
        )


def _text(command: ContainerCommand, environment: Mapping[str, str]) -> str:
    seconds = int(command.timeout.total_seconds()) if command.timeout else 0
    return json.dumps([command.container, list(command.arguments), command.user, seconds, dict(environment)])
