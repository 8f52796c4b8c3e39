"""What people may want to be told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volferry.daemon_config import EventKind
    from volferry.scheduler.loop import Ending
    from volferry.scheduler.moments import Moment


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    kind: EventKind
    volume: str  # empty where it is about none
    what: str  # a sentence
    at: Moment
    ending: Ending | None = None
    urgent: bool = False  # it is told at once, whatever else there is to tell
