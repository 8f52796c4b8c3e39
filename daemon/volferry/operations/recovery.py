"""Brings back what runs that died have left down, and runs what was to be run after them, by their journals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from volferry.engine.containers import find_container
from volferry.engine.engine_lock import abandoned
from volferry.engine.helper_containers import remove_container
from volferry.engine.swarm import replicas_of
from volferry.errors import EngineError, HookFailed, VolferryError
from volferry.journal import Journal, Unwritten, halts_of, journals_of_the_dead, unreadable_journals
from volferry.operations.coming_back import ComingBack
from volferry.operations.hooks import run_host_hook, run_post, volumes_of
from volferry.operations.not_back import HOOK_OF, NotBack
from volferry.operations.retrying import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta
    from pathlib import Path

    from volferry.engine.client import Engine
    from volferry.journal import Halt
    from volferry.labels import ContainerCommand

WAITS = "what an interrupted run had stopped is brought back once another run, which has services stopped too, is over"
_INTERRUPTED = "the run was interrupted"


class PostHooks(Protocol):
    """As labels and configuration say them now. Both raise VolferryError where that cannot be known, and give None where there is none any longer."""

    def of_container(self, engine: Engine, halt: Halt) -> ContainerCommand | None: ...
    def of_machine(self, engine: Engine, volume: str, config: str) -> tuple[str, timedelta] | None:
        """By that file, where it is still there."""


@dataclass(slots=True)
class Recovery:
    """Of one state directory, on one engine after another."""

    state_directory: Path
    hooks: PostHooks
    note: Callable[[str], None]
    patience_seconds: float
    left: list[NotBack] = field(default_factory=list)
    brought_back: list[str] = field(default_factory=list)  # names
    _seen: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.note = quiet(self.note)

    def on(self, engine: Engine, *, wait: bool = True) -> None:
        """Of what they have left there, once no run that lives has anything stopped, or else, without `wait`, by that one. Raises VolferryError where a
        journal cannot be read.
        """
        if not any(is_of(engine, journal, halts) for journal, halts in self._unseen()):
            return
        turn = Journal(self.state_directory, "replay")
        try:
            # A run that lives may have paused the same container again.
            if not turn.alone(wait=False):
                if not wait:
                    self._seen |= {journal.path for journal, _ in self._unseen()}
                    self.left.append(NotBack("", "what an interrupted run had stopped", WAITS))
                    return
                self.note(f"waiting: {WAITS}")
                turn.alone()
            self.with_the_turn(engine)
        finally:
            turn.end(over=False)

    def with_the_turn(self, engine: Engine) -> None:
        """As `on`, by a run that may have something stopped."""
        for journal, halts in self._unseen():
            if is_of(engine, journal, halts):
                self._seen.add(journal.path)
                self._replay(engine, journal, halts)

    def of_others(self, engine: Engine, owner: str) -> None:
        """What a volferry with another state directory than `owner` has left down on that engine, by its lock: one on a laptop, say, that was moving
        containers from one server to another. Raises EngineError.
        """
        while (found := abandoned(engine, owner)) is not None:
            try:
                halts = [halt for halt in halts_of(found.stops) if _is_as_left(engine, halt)]
            except ValueError as error:
                self.left.append(NotBack(found.run, "what another volferry had stopped", str(error)))
                return
            if halts:
                self.note(f"bringing back what another volferry had stopped, which has died: {_names(halts)}")
            coming = ComingBack(
                engine, halts, Unwritten(self.state_directory, found.run), self.note, sure=False
            )
            coming.start(self.patience_seconds)
            left = coming.await_up()
            self.brought_back += [halt.name for halt in coming.halts if halt.state == "over"]
            if left:
                self.left += left
                return
            remove_container(engine, found.container_id)

    def elsewhere(self) -> list[str]:
        """How the other engines are reached on which there is something. Raises VolferryError."""
        return sorted({journal.engine[1] for journal, _ in self._unseen() if journal.engine[1]})

    def unreachable(self, url: str, error: VolferryError) -> None:
        """Of an engine that could not be asked."""
        for journal, halts in self._unseen():
            if journal.engine[1] == url:
                self._seen.add(journal.path)
                names = _names(halts)
                self.left.append(
                    NotBack(
                        journal.run_id,
                        names,
                        f"its engine, {url}, cannot be asked ({error}); {_forget(journal.run_id)}",
                    )
                )

    def finish(self) -> None:
        """What was found on no engine, and what cannot be believed. Raises VolferryError."""
        for journal, halts in self._unseen():
            if not any(halt.state != "planned" for halt in halts):
                journal.end()
                continue
            why = f"no engine that answers has it; it was on {journal.engine[1] or 'an engine that nobody knows'}"
            self.left.append(NotBack(journal.run_id, _names(halts), f"{why}; {_forget(journal.run_id)}"))
        for each in unreadable_journals(self.state_directory):
            error = f"nothing of it is brought back: {each.why}; {_forget(each.run_id)}"
            self.left.append(NotBack(each.run_id, f"journal {each.path}", error))

    def _unseen(self) -> list[tuple[Journal, list[Halt]]]:
        found = journals_of_the_dead(self.state_directory)
        return [(journal, halts) for journal, halts in found if journal.path not in self._seen]

    def _replay(self, engine: Engine, journal: Journal, halts: Sequence[Halt]) -> None:
        touched = [halt for halt in halts if halt.state != "planned"]
        stopped = [halt for halt in touched if halt.action != "hook"]
        hooks = [halt for halt in touched if halt.action == "hook"]
        if stopped:
            self.note(f"bringing back what an interrupted run had stopped: {_names(stopped)}")
        if hooks:
            self.note(
                f"running hooks that an interrupted run had left to be run after it: post of {_names(hooks)}"
            )
        coming = ComingBack(engine, stopped, journal, self.note, sure=False)
        coming.start(self.patience_seconds)
        left = coming.await_up()
        self.brought_back += [halt.name for halt in coming.halts if halt.state == "over"]
        for halt in sorted(hooks, key=lambda each: each.order):
            try:
                self._run(engine, journal, halt)
            except HookFailed as error:
                self.note(str(error))
            except VolferryError as error:
                left.append(NotBack(journal.run_id, f"{HOOK_OF}{halt.name}", str(error)))
                continue
            _write(journal, replace(halt, state="over"))
        journal.end(over=not left)
        self.left += left

    def _run(self, engine: Engine, journal: Journal, halt: Halt) -> None:
        """Raises HookFailed where it ran and failed, and another VolferryError where it could not be run."""
        environment = {
            "VOLFERRY_VOLUME": " ".join(volumes_of(halt)),
            "VOLFERRY_HOST": journal.host,
            "VOLFERRY_RUN": journal.run_id,
            "VOLFERRY_ERROR": _INTERRUPTED,
        }
        if not halt.id:
            each_has = (self.hooks.of_machine(engine, volume, journal.config) for volume in volumes_of(halt))
            found = next(filter(None, each_has), None)  # one of them may be gone
            if found is None:
                self.note(f"no hook post is configured any longer for {', '.join(volumes_of(halt))}")
            else:
                run_host_hook("post", *found, environment)
            return
        command = self.hooks.of_container(engine, halt)
        if command is None:
            self.note(f"container {halt.name} has no hook post any longer")
        else:
            run_post(engine, halt, command, environment)


def is_of(engine: Engine, journal: Journal, halts: Sequence[Halt]) -> bool:
    """Whether it is about things of that engine: by the engine's id, or, since the name of a machine and the place of an engine's data may change, by
    the ids of what it has.
    """
    if journal.engine[0] in {"", engine.id}:
        return True
    try:
        return any(
            replicas_of(engine, halt.id) is not None
            if halt.action == "scale"
            else bool(halt.id) and find_container(engine, halt.id) is not None
            for halt in halts
        )
    except EngineError:
        return False


def _is_as_left(engine: Engine, halt: Halt) -> bool:
    """Whether nobody has started it since."""
    if halt.action == "scale":
        return True
    container = find_container(engine, halt.id)
    return container is None or (
        container.started_at == halt.before and (container.stopping or not container.runs)
    )


def _names(halts: Sequence[Halt]) -> str:
    return ", ".join(halt.name for halt in halts if halt.state != "planned")


def _forget(run: str) -> str:
    return f"`volferry recover --forget {run}` forgets it"


def _write(journal: Journal, halt: Halt) -> None:
    try:
        journal.write(halt)
    except VolferryError:
        pass  # the journal goes as a whole, or the hook runs once more
