"""The volume that a restore writes: found or made, and gone again if it was made and the restore failed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from volferry.cli.known_marks import known_marks
from volferry.cli.made_volumes import MadeVolumes, made_volumes
from volferry.cli.output import say
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session
from volferry.errors import EngineError, NoSuchVolume, UsageError, VolumeInUse
from volferry.model import BIND_DRIVER, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from volferry.archive.manifest import Manifest
    from volferry.archive.restore_mark import KnownMarks
    from volferry.engine.helper import Helper, HelperSettings
    from volferry.model import BackupRef
    from volferry.run import Run


@dataclass(frozen=True, slots=True)
class Wishes:
    """How far a volume that is made is to be as it was."""

    options: bool = False  # driver and options too where they lead out of the engine's own data
    every_label: bool = False


def _found_or_new(session: Session, manifest: Manifest, name: str, wishes: Wishes) -> tuple[Volume, bool]:
    """The volume, or what it is to be, and whether it must be made. Raises VolumeInUse, UsageError."""
    from volferry.engine.volumes import find_volume  # noqa: PLC0415

    try:
        volume = find_volume(session.engine, name)
    except NoSuchVolume:
        volume = _like(manifest, name, wishes)
        check_lasting(volume)
        return volume, True
    check_usable(volume)
    return volume, False


@dataclass(frozen=True, slots=True)
class Target:
    """A volume that a restore may write, and what it needs for that."""

    volume: Volume
    new: bool
    empty: bool
    helper: Helper
    observer: TerminalObserver
    session: Session
    marks: KnownMarks  # from before

    def is_half(self) -> bool:
        """Whether the volume holds the rest of a restore, by a mark that counts."""
        from volferry.operations.restore import is_half  # noqa: PLC0415

        return is_half(self.helper, self.helper.directory(self.volume.name), self.marks)

    def recorded(
        self, backup: BackupRef, *, in_part: bool = False
    ) -> AbstractContextManager[Callable[[], None]]:
        """Around what writes the backup, or paths of it, into the volume, as `recorded_restore`."""
        from volferry.operations.restore import content_if_marked, what_is_left  # noqa: PLC0415
        from volferry.restore_record import recorded_restore  # noqa: PLC0415

        name = self.volume.name
        directory = self.session.state_of_content(name)
        content = content_if_marked(self.helper, self.helper.directory(name))
        # A new volume is gone again if this fails.
        return recorded_restore(
            directory,
            str(backup),
            left=lambda: "nothing" if self.new else what_is_left(self.helper, name, self.marks),
            in_part=in_part,
            spared=not in_part
            and not self.new
            and (self.empty or content is None or not self.marks.is_ours(content)),
            store=self.session.store.url if self.session.store_option else "",
            ended=[self.marks.seal_in(content)],
        )

    def check_free(self) -> None:
        """As `check_still_usable`."""
        check_still_usable(self.session, self.volume.name)


@contextmanager
def opened_target(
    session: Session, manifest: Manifest, name: str, run: Run, wishes: Wishes
) -> Iterator[Target]:
    """The volume `name`, made if need be, with a helper that may write. Raises VolumeInUse; VolumeNotEmpty for a new one that holds data;
    UsageError for a volume in memory.
    """
    from volferry.engine.incomplete import say_complete  # noqa: PLC0415
    from volferry.operations.restore import is_empty  # noqa: PLC0415

    volume, new = _found_or_new(session, manifest, name, wishes)
    with (
        session.holding([name], write=True),
        TerminalObserver(name) as observer,
        made_if_new(
            session, run, session.helper_settings(), volume, new=new, or_plain=not wishes.options
        ) as (found, helper),
    ):
        marks = known_marks(session, found)
        marks = marks.of(name, session.repository.id)
        yield Target(found, new, new or is_empty(helper, name), helper, observer, session, marks)
        if found.incomplete:  # what it is now is no half of a migration
            say_complete(session.engine, name)


@contextmanager
def made_if_new(
    session: Session, run: Run, settings: HelperSettings, volume: Volume, *, new: bool, or_plain: bool = False
) -> Iterator[tuple[Volume, Helper]]:
    """The volume to be filled, with a helper that may write. A new one is empty, or it is an error (VolumeNotEmpty), and it is gone again
    if anything fails. If `or_plain`, it is a plain one where the engine cannot make it with its options, as a size without quotas.
    """
    from volferry.engine.helper import open_helper  # noqa: PLC0415

    with made_volumes(session.engine) as made:
        found = _made(made, volume, or_plain=or_plain) if new else volume
        with open_helper(session.engine, run, settings, [found], write=True) as helper:
            made.check_empty(helper)
            yield found, helper


def _made(made: MadeVolumes, volume: Volume, *, or_plain: bool) -> Volume:
    from volferry.operations.new_volume import made_plain, options_note  # noqa: PLC0415

    try:
        return made.make(volume)
    except EngineError as error:
        if not (or_plain and volume.options):
            raise
        say(f"volferry: {error}")
        say(f"volferry: {options_note(volume)}")
        return made.make(made_plain(volume))


def _like(manifest: Manifest, name: str, wishes: Wishes) -> Volume:
    from volferry.operations.new_volume import (  # noqa: PLC0415
        labels_note,
        leads_elsewhere,
        made_plain,
        options_note,
        with_labels_of,
    )

    recorded = manifest.volume
    if recorded.driver == BIND_DRIVER:
        return Volume(name, "local", {}, {}, "local", "")
    original = Volume(
        recorded.name, recorded.driver, recorded.options, recorded.labels, recorded.scope, recorded.created_at
    )
    volume = replace(original, name=name, created_at="")
    if leads_elsewhere(volume) and not wishes.options:
        say(f"volferry: {options_note(volume)}")
        volume = made_plain(volume)
    volume = with_labels_of(original, volume, every=wishes.every_label)
    if note := labels_note(original, volume):
        say(f"volferry: {note}")
    return volume


def check_usable(volume: Volume) -> None:
    """Whether a volume that is there may be written. Raises VolumeInUse; UsageError for a volume in memory."""
    check_lasting(volume)
    running = [use.container for use in volume.uses if use.running]
    if running:
        raise VolumeInUse(
            f"volume {volume.name} is in use by {', '.join(running)}: stop {'it' if len(running) == 1 else 'them'} first"
        )


def check_still_usable(session: Session, name: str) -> None:
    """A container may have been started since, by hand or by its restart policy. Raises VolumeInUse."""
    from volferry.engine.volumes import find_volume  # noqa: PLC0415

    check_usable(find_volume(session.engine, name))


def check_lasting(volume: Volume) -> None:
    """Raises UsageError for a volume in memory: it would be empty again as soon as the helper ends."""
    if volume.in_memory:
        raise UsageError(
            f"volume {volume.name} is in memory (type={volume.options['type']}), and empty when its last container stops: "
            "use a volume on a disk"
        )
