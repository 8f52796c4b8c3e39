"""The volume that a restore writes: found or made, and gone again if it was made and the restore failed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session, say
from volferry.errors import NoSuchVolume, VolferryError, VolumeInUse
from volferry.interrupts import held_back
from volferry.model import ANONYMOUS_LABEL, BIND_DRIVER, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.archive.manifest import Manifest
    from volferry.engine.helper import Helper
    from volferry.run import Run


def _found_or_new(session: Session, manifest: Manifest, name: str) -> tuple[Volume, bool]:
    """The volume, or what it is to be, and whether it must be made. Raises VolumeInUse."""
    from volferry.engine.volumes import find_volume  # noqa: PLC0415

    try:
        volume = find_volume(session.engine, name)
    except NoSuchVolume:
        return _like(manifest, name), True
    check_not_in_use(volume)
    return volume, False


@dataclass(frozen=True, slots=True)
class Target:
    """A volume that a restore may write, and what it needs for that."""

    volume: Volume
    new: bool
    empty: bool
    helper: Helper
    observer: TerminalObserver


@contextmanager
def opened_target(session: Session, manifest: Manifest, name: str, run: Run) -> Iterator[Target]:
    """The volume `name`, made if need be, with a helper that may write. Raises VolumeInUse."""
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.engine.incomplete import say_complete  # noqa: PLC0415
    from volferry.operations.restore import is_empty  # noqa: PLC0415

    volume, new = _found_or_new(session, manifest, name)
    settings = session.helper_settings()
    with (
        made_if_new(session, volume, new=new) as found,
        TerminalObserver(name) as observer,
        open_helper(session.engine, run, settings, [found], write=True) as helper,
    ):
        yield Target(found, new, is_empty(helper, name), helper, observer)
        if found.incomplete:  # what it is now is no half of a migration
            say_complete(session.engine, name)


@contextmanager
def made_if_new(session: Session, volume: Volume, *, new: bool) -> Iterator[Volume]:
    """The volume to be filled. A new one is gone again if that fails."""
    from volferry.engine.volumes import create_volume, find_volume, remove_volume  # noqa: PLC0415

    if not new:
        yield volume
        return
    made = False
    try:
        with held_back():
            create_volume(session.engine, volume)
            made = True
        yield find_volume(session.engine, volume.name)
    except BaseException:
        if not made:
            raise
        try:
            remove_volume(session.engine, volume.name)
        except VolferryError as error:
            say(f"volferry: volume {volume.name} is left behind and not complete: {error}")
        raise


def _like(manifest: Manifest, name: str) -> Volume:
    recorded = manifest.volume
    if recorded.driver == BIND_DRIVER:
        return Volume(name, "local", {}, {}, "local", "")
    labels = {key: value for key, value in recorded.labels.items() if key != ANONYMOUS_LABEL}
    return Volume(name, recorded.driver, recorded.options, labels, recorded.scope, "")


def check_not_in_use(volume: Volume) -> None:
    """Raises VolumeInUse."""
    running = [use.container for use in volume.uses if use.running]
    if running:
        raise VolumeInUse(
            f"volume {volume.name} is in use by {', '.join(running)}: stop {'it' if len(running) == 1 else 'them'} first"
        )
