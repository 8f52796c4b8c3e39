"""Moves volumes to another engine: passes while the services run, a last one while they stand still, and a comparison of both sides."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from volferry.operations.restore import mark, unmark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from volferry.engine.helper import Helper
    from volferry.observer import Observer
    from volferry.operations.transfer import Sent, Transfer

# A pass that takes less is not worth one more while the services run.
_SHORT_SECONDS = 1.0
_MUCH_SHORTER = 0.5
_MOST_PASSES = 10


class Stillness(Protocol):
    """What keeps volumes from changing."""

    def begin(self) -> None:
        """Raises VolferryError."""

    def check(self) -> None:
        """Raises Disturbed where they have changed all the same."""


@dataclass(slots=True)
class Leg:
    """One volume's way."""

    volume: str
    target: str
    target_helper: Helper
    transfer: Transfer
    holds_something: bool  # the target, from before
    mark_text: str
    passes: list[Sent] = field(default_factory=list)

    @property
    def sent_bytes(self) -> int:
        return sum(each.sent_bytes for each in self.passes)


def pass_by_pass(legs: Sequence[Leg], observer: Observer, *, checksum: bool) -> None:
    """While the services run: everything, then what changed meanwhile, for as long as each round takes much less time than the one
    before. After the first, what a target's file system cannot hold ends it: nothing is stopped by then. Raises VolferryError.
    """
    for leg in legs:
        mark(leg.target_helper, leg.target, leg.mark_text)
        if leg.holds_something:
            leg.transfer.compare_first()
    before = None
    if not legs:  # containers without data
        return
    for _ in range(_MOST_PASSES):
        began = time.monotonic()
        for leg in legs:
            leg.passes.append(leg.transfer.run())
        took = time.monotonic() - began
        entries = sum(leg.passes[-1].entries for leg in legs)
        observer.note(
            f"pass {len(legs[0].passes)}: {entries:,} {'entry' if entries == 1 else 'entries'} in {took:.1f} s"
        )
        if before is None:
            for leg in legs:
                leg.transfer.check_holds(leg.target, checksum=checksum)
        if took < _SHORT_SECONDS or (before is not None and took > before * _MUCH_SHORTER):
            return
        before = took


def cut_over(legs: Sequence[Leg], still: Stillness, *, checksum: bool) -> None:
    """The last pass, with the services stopped, and the comparison. The targets are equal when it returns, and on disk, and still marked. Raises
    VolferryError; the services are as `still` left them.
    """
    still.begin()
    for leg in legs:
        leg.passes.append(leg.transfer.run(last=True))
    for leg in legs:
        leg.transfer.check(checksum=checksum)
    still.check()


def unmark_all(legs: Sequence[Leg]) -> None:
    """Once they are equal. Raises VolferryError."""
    for leg in legs:
        unmark(leg.target_helper, leg.target)
        leg.transfer.settle_root()
