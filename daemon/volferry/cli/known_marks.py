"""Which marks of interrupted restores keep a volume from being backed up or moved: those of the stores and restores that this machine knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volferry.archive.restore_mark import KnownMarks
    from volferry.cli.session import Session
    from volferry.engine.client import Engine


def known_marks(session: Session, volume: str, engine: Engine | None = None) -> KnownMarks:
    from volferry.archive.restore_mark import KnownMarks  # noqa: PLC0415 -- slow to import
    from volferry.restore_record import begun_restore, last_completed  # noqa: PLC0415

    directory = session.state_of_content(volume, engine)
    begun = begun_restore(directory, running=False)
    return KnownMarks(
        stores=session.known_stores.ids(),
        unfinished=begun is not None and not begun.spared,
        completed=last_completed(directory),
    )
