"""Where the two ends of a transfer are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volferry.engine.helper import Helper


@dataclass(frozen=True, slots=True)
class Place:
    """A directory in a helper: a volume, or what is to become one."""

    helper: Helper
    directory: str
