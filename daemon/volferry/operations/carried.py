"""Containers, images and networks that move along with volumes, as the target is to make them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CarriedContainer:
    """One container, as it is to be made."""

    id: str  # on the source
    name: str
    ran: bool
    body: Document  # of the call that makes it
    networks: dict[str, Document]  # endpoints, by network; the body has the first one, too


@dataclass(frozen=True, slots=True)
class CarriedImage:
    reference: str  # a name, if that is this image's, or the id
    id: str
    size_bytes: int
    details: Document  # as the source's engine describes it


@dataclass(slots=True)
class Carried:
    containers: list[CarriedContainer] = field(default_factory=list)
    images: list[CarriedImage] = field(default_factory=list)  # that the target lacks
    networks: list[Document] = field(default_factory=list)  # that the target lacks
    obstacles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)  # containers that an interrupted run has made, by id

    def in_the_way(self, container: str, text: str) -> None:
        self.obstacles.append(f"container {container}: {text}")

    def lost(self, container: str, what: str) -> None:
        """That the target's engine cannot do."""
        self.notes.append(
            f"container {container} is made without {what}: the target's engine does not have that"
        )
