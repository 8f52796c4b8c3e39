"""The options of `volferry migrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Wanted:
    """The command line's options."""

    names: list[str]
    everything: bool
    project: str | None
    to: str
    renamed: Mapping[str, str]
    drivers: Mapping[str, str]
    options: Mapping[str, Mapping[str, str | None]]
    every_label: bool
    into_existing: bool
    dry_run: bool
    checksum: bool
    start: list[str]
    with_containers: bool
    binds: Mapping[str, str]  # volumes of the target, by paths of the source
    kept_binds: frozenset[str]
    leave_stopped: bool
    remove_source: bool
    yes: bool
    json: bool

    @property
    def takes_over(self) -> bool:
        """Whether the source's services stay stopped once both sides are equal."""
        return bool(self.start) or self.with_containers or self.leave_stopped or self.remove_source
