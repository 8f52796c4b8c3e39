"""Hooks of the runs that died: their commands, as labels and configuration say them now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from volferry.config import load_config
from volferry.errors import EngineError, NoSuchVolume

if TYPE_CHECKING:
    from datetime import timedelta

    from volferry.config import Config
    from volferry.engine.client import Engine
    from volferry.journal import Halt
    from volferry.labels import ContainerCommand


class ConfiguredHooks:
    """Implements `PostHooks`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def of_container(self, engine: Engine, halt: Halt) -> ContainerCommand | None:
        from volferry.engine.containers import as_user  # noqa: PLC0415 -- docker-py is slow to import
        from volferry.labels import hooks_of  # noqa: PLC0415
        from volferry.operations.hooks import container_of  # noqa: PLC0415

        container = container_of(engine, halt)
        if container is None:
            raise EngineError(f"container {halt.name} is gone")
        use = as_user(engine, container.id)
        uses = [self._config.labels.heard_of(use)] if use is not None else []
        return next(iter(hooks_of(uses, "post")), None)

    def of_machine(self, engine: Engine, volume: str, config: str) -> tuple[str, timedelta] | None:
        from volferry.engine.volumes import find_volume  # noqa: PLC0415
        from volferry.model import Volume  # noqa: PLC0415

        try:
            found = find_volume(engine, volume)
        except NoSuchVolume:  # it is gone, or a bind mount: rules may still name it
            found = Volume(volume, "", {}, {}, "local", "")
        there = config and Path(config).exists()
        hooks = (load_config(Path(config)) if there else self._config).settings_of(found).hooks
        return (hooks.post, hooks.timeout.delta) if hooks is not None and hooks.post else None
