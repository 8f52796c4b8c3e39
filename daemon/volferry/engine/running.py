"""Containers that run, by the engine's list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volferry.engine.client import Engine

# Podman's and Docker's words. Any other one counts as running: what is taken for off is read, or written, while it writes.
_OFF = frozenset({"configured", "created", "dead", "exited", "initialized", "removing", "stopped"})
_IN_DOCKERS_WORDS = {"configured": "created", "initialized": "created", "stopped": "exited"}


def in_dockers_words(state: str) -> str:
    """A state as Docker calls it; `stopping` is Podman's alone."""
    return _IN_DOCKERS_WORDS.get(state, state)


def running_containers(engine: Engine) -> list[dict[str, Any]]:
    """As the engine lists them. Without `all`, Podman leaves out those that are being stopped ("stopping"): they run for as long as they take, and
    for good where Podman's service died meanwhile.
    """
    return [each for each in engine.api.containers(all=True) if each.get("State") not in _OFF]
