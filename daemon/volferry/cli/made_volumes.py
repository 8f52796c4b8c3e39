"""Volumes that a command makes: looked into before anything is written there, and gone again if the command fails."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from volferry.cli.output import say
from volferry.errors import Interrupted, VolferryError, VolumeNotEmpty
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volferry.engine.client import Engine
    from volferry.engine.helper import Helper
    from volferry.model import Volume


class MadeVolumes:
    """Those of one engine."""

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self._where = where
        self._made: dict[str, Volume] = {}
        self._empty: set[str] = set()  # when they were looked into
        self._full: set[str] = set()

    def make(self, volume: Volume) -> Volume:
        """As the engine has it then. Raises EngineError, also if it is there."""
        from volferry.engine.volumes import create_volume, find_volume  # noqa: PLC0415

        with held_back():
            create_volume(self._engine, volume)
            self._made[volume.name] = volume
        return find_volume(self._engine, volume.name)

    def holding_data(self, helper_of: Callable[[str], Helper]) -> list[str]:
        """Those whose options, or driver, lead to what was there before."""
        from volferry.operations.restore import is_empty  # noqa: PLC0415

        for name in self._made:
            (self._empty if is_empty(helper_of(name), name) else self._full).add(name)
        return sorted(self._full)

    def check_empty(self, helper: Helper) -> None:
        """Raises VolumeNotEmpty."""
        from volferry.operations.new_volume import place_of  # noqa: PLC0415

        for name in self.holding_data(lambda _: helper):
            raise VolumeNotEmpty(
                f"the new volume {name} would not be empty: it leads to {place_of(self._made[name])}, which holds data already"
            )

    def doubt(self) -> None:
        """They may be what somebody else has, though they were empty."""
        self._empty.clear()

    def keep(self) -> None:
        """They stay, whatever happens."""
        self._made.clear()

    def remove(self, *, told: bool = False) -> None:
        """Removes them, and no data that was there before. With `told`, reports each that it has removed."""
        from volferry.engine.volumes import remove_volume  # noqa: PLC0415

        with held_back():
            for name, volume in self._made.items():
                if self._may_hold_what_was_there(volume):
                    say(
                        f"volferry: volume {name} is left behind{self._where}: it may hold what was there before"
                    )
                    continue
                try:
                    remove_volume(self._engine, name)
                except VolferryError as error:
                    say(f"volferry: volume {name} is left behind{self._where} and not complete: {error}")
                    continue
                if told:
                    say(f"the new volume {name}{self._where} was removed again")

    def _may_hold_what_was_there(self, volume: Volume) -> bool:
        """And lose it with the volume. The engine's own driver removes nothing of a place that options lead to; another one may. One of the
        engine's own data that held something is one that somebody else made at the same moment: the engine does not say so.
        """
        from volferry.operations.new_volume import leads_elsewhere  # noqa: PLC0415

        if volume.driver != "local":
            return volume.name not in self._empty
        return volume.name in self._full and not leads_elsewhere(volume)


@contextmanager
def made_volumes(engine: Engine, where: str = "") -> Iterator[MadeVolumes]:
    """`where` ends the message about a volume that cannot be removed: ` on the target`."""
    made = MadeVolumes(engine, where)
    try:
        yield made
    except BaseException as error:
        made.remove(told=isinstance(error, Interrupted))  # an error says itself why there is no volume
        raise
