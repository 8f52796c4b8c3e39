"""Whether an engine runs the health checks of its containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volferry.engine.client import Engine


def why_perhaps_none(engine: Engine) -> str:
    """Why it may be that it runs none; empty if it does. Podman has timers of systemd run them, and does not say whether there is one: where it has
    control groups of systemd's, there is.
    """
    if not engine.is_podman or engine.info.get("CgroupDriver") == "systemd":
        return ""
    return "Podman runs no health checks on a machine without systemd"
