"""Where operations report to: the terminal, the log and the tests each bring their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from volferry.model import Finding


class Observer(Protocol):
    """All of it is called from the thread that runs the operation, and must not raise."""

    def phase(self, name: str, *, total_bytes: int | None = None, total_entries: int | None = None) -> None:
        """A new part of the work begins; its totals, where they are known."""

    def advance(self, *, done_bytes: int, done_entries: int) -> None:
        """How much of the phase is done, from its start (not since the last call)."""

    def finding(self, finding: Finding) -> None:
        """Something about one entry."""

    def note(self, message: str) -> None:
        """One line that a person should see, though nothing failed."""


class Silent:
    """Reports to nobody."""

    def phase(self, name: str, *, total_bytes: int | None = None, total_entries: int | None = None) -> None:
        pass

    def advance(self, *, done_bytes: int, done_entries: int) -> None:
        pass

    def finding(self, finding: Finding) -> None:
        pass

    def note(self, message: str) -> None:
        pass
