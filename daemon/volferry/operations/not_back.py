"""What is not up again, or still to be run, in people's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volferry.journal import Halt

HOOK_OF = "hook post of "  # how one that is still to be run is named


@dataclass(frozen=True, slots=True)
class NotBack:
    """A service that is not up, or a hook that was not run."""

    run: str
    name: str
    error: str

    @property
    def text(self) -> str:
        if self.name.startswith(HOOK_OF):
            return f"{self.name} is still to be run: {self.error}"
        return f"{self.name} is not up again: {self.error}"


def why_down(halt: Halt, run_id: str) -> str:
    """Why it is not up; of what only a person can settle, with what he is to do. Empty where nobody knows."""
    if halt.state == "handed" and halt.error:
        return f"{halt.error}; where it runs on neither, start it on one; then `volferry recover --forget {run_id}` ends this"
    return halt.error
