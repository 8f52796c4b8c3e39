"""An observer that keeps what it is told."""

from __future__ import annotations

from volferry.observer import Silent


class Told(Silent):
    """Keeps the notes, in order."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
