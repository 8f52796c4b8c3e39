"""volferry on a machine whose clock is wrong by so many days: `python -m tests.parts.other_clock DAYS ARGUMENTS…`. It is the clock that
engines' times are compared with; files and engines have the right one.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import volferry.engine.client
from volferry.cli.entry import run

if TYPE_CHECKING:
    from datetime import tzinfo


def clock_off_by(span: timedelta) -> type[datetime]:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + span

    return Wrong


if __name__ == "__main__":
    vars(volferry.engine.client)["datetime"] = clock_off_by(timedelta(days=float(sys.argv.pop(1))))
    run()
