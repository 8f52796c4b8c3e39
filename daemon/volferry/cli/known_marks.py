"""Which marks of interrupted restores keep a volume from being backed up or moved: those of the stores and restores that this machine knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volferry.archive.restore_mark import KnownMarks
    from volferry.cli.session import Session
    from volferry.engine.client import Engine
    from volferry.model import Volume


def known_marks(session: Session, volume: Volume, engine: Engine | None = None) -> KnownMarks:
    """Of a volume of the engine, or of another one."""
    from volferry.archive.restore_mark import KnownMarks, digest_of  # noqa: PLC0415 -- slow to import
    from volferry.restore_record import begun_restore, known_whole  # noqa: PLC0415
    from volferry.run import owner_of  # noqa: PLC0415

    directory = session.state_of_content(volume.name, engine)
    begun = begun_restore(directory, running=False)
    whole = known_whole(directory)
    return KnownMarks(
        stores=session.known_stores.ids(),
        volume=volume.name,
        engine=digest_of((engine or session.engine).docker_id),
        shared=bool(volume.bind or volume.options) or volume.driver != "local",
        machine=digest_of(owner_of(session.config.state_dir)),
        unfinished=begun is not None and not begun.spared,
        completed=whole.completed,
        backed_up=whole.backed_up,
        ended=frozenset(whole.ended),
    )
