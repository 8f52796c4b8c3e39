"""What says on an engine that a volume is not complete yet: a container, never started, with a label, that mounts it. A volume's own labels
cannot be changed, and as long as it is mounted, the volume cannot be removed by mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import docker.errors
from docker.types import LogConfig, Mount

from volferry.engine.client import Engine, translated
from volferry.engine.helper_containers import remove_container
from volferry.engine.labels import INCOMPLETE, incomplete_name, marks_incomplete

if TYPE_CHECKING:
    from typing import Any


def say_incomplete(engine: Engine, image: str, volume: str, text: str) -> None:
    """The volume must exist. `text` says what it is waiting for. Does nothing if it is said already."""
    with translated(f"volume {volume}"):
        api = engine.api
        if _found(engine, volume):
            return
        try:
            api.create_container(
                image,
                command=["true"],
                name=incomplete_name(volume),
                labels={INCOMPLETE: text},
                network_disabled=True,
                host_config=api.create_host_config(
                    mounts=[Mount("/volume", volume, type="volume", no_copy=True)],
                    network_mode="none",
                    log_config=LogConfig(type="none"),
                ),
            )
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise


def say_complete(engine: Engine, volume: str) -> None:
    for each in _found(engine, volume):
        remove_container(engine, each["Id"])


def _found(engine: Engine, volume: str) -> list[Any]:
    with translated(f"volume {volume}"):
        found: list[Any] = engine.api.containers(all=True, filters={"label": [INCOMPLETE], "volume": volume})
    return [each for each in found if marks_incomplete(each) == volume]
