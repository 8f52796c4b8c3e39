"""The parts of `volferry restore` for chosen paths, and for other places than a volume."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.cli.export import opened_output
from volferry.cli.output import say
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session
from volferry.cli.target_volume import Wishes, opened_target
from volferry.cli.text import count_text, size_text
from volferry.errors import NoRoom, PathExists, UsageError

if TYPE_CHECKING:
    from volferry.archive.selection import Selection
    from volferry.model import RestoreStats
    from volferry.operations.backup_reader import BackupReader
    from volferry.run import Run


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a restore: as JSON, and for people."""

    document: dict[str, object]
    line: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Safety:
    """The precautions of a restore before it deletes anything of a volume."""

    beside: bool  # where there is room, the backup is restored and compared first
    proves: bool  # else it is read once
    looks_for_room: bool  # where it cannot fit, nothing is deleted or written

    @staticmethod
    def of(store: str, *, prove_first: bool | None) -> Safety:
        """As `--prove/--trust` has it. A directory is near; all of what is elsewhere would be fetched twice."""
        if prove_first is None:
            return Safety(beside=True, proves=not store.startswith(("s3://", "sftp://")), looks_for_room=True)
        return Safety(beside=prove_first, proves=prove_first, looks_for_room=prove_first)

    def with_marks(self, session: Session, backup: BackupReader) -> Safety:
        """Where `verify` found damaged what the backup needs, it is read before anything is deleted, whatever was asked for. It is not
        refused for that: whoever can write the store can say so of anything.
        """
        from volferry.damage import found_damaged  # noqa: PLC0415

        damaged = found_damaged(session.repository, backup.ref, backup.manifest)
        if not damaged:
            return self
        say(
            f"verify found {damaged[0]} damaged, and {backup.ref} needs it: the restore fails there, unless it can be read by now"
        )
        return replaced(self, proves=True)


def selected(
    backup: BackupReader, paths: list[str], *, glob: bool, dump: str | None = None
) -> Selection | None:
    """The entries that `paths` choose, or a dump; None for all of the backup. Raises NoSuchPath."""
    from volferry.operations.export import selected_dump  # noqa: PLC0415
    from volferry.operations.selecting import select_matching, select_paths  # noqa: PLC0415

    if dump is not None:
        return selected_dump(backup, dump)
    if not paths:
        return None
    selection = select_matching(backup, paths) if glob else select_paths(backup, paths)
    return None if selection.everything else selection


def restore_selected(
    session: Session,
    backup: BackupReader,
    selection: Selection,
    target: str,
    run: Run,
    *,
    replace: bool,
    wishes: Wishes,
    safety: Safety,
) -> RestoreStats:
    """Into a volume, whose other content stays."""
    from volferry.operations.excerpt import BackupExcerpt  # noqa: PLC0415
    from volferry.operations.restore import prove  # noqa: PLC0415
    from volferry.operations.restore_paths import restore_paths  # noqa: PLC0415
    from volferry.operations.unfinished_paths import unfinished_paths  # noqa: PLC0415

    excerpt = BackupExcerpt(backup, selection)
    with opened_target(session, backup.manifest, target, run, wishes) as found:
        helper, observer, empty = found.helper, found.observer, found.empty
        if not empty:
            unfinished_paths(
                helper, target, found.marks
            )  # what nothing but a restore of everything completes, is refused before anything is read
        if safety.proves and replace and not empty:
            prove(excerpt.tar_stream(frozenset()), excerpt.source_bytes, observer)
        try:
            with found.recorded(backup.ref, in_part=True):
                return restore_paths(
                    excerpt,
                    target,
                    helper=helper,
                    observer=observer,
                    replace=replace,
                    empty=empty,
                    looks_for_room=safety.looks_for_room,
                    check_free=found.check_free,
                    marks=found.marks,
                )
        except (PathExists, NoRoom):
            raise
        except BaseException:
            if not found.new:
                say(
                    f"volume {target} may hold the chosen paths in part: run the restore again, with --replace"
                )
            raise


def restore_dump(backup: BackupReader, name: str, to: str, *, replace: bool) -> Report:
    """As a file of this machine, in `to` where that is a directory, or to stdout."""
    from volferry.operations.export import export_dump  # noqa: PLC0415

    ref = backup.ref
    place = to if to == "-" or not Path(to).is_dir() else str(Path(to) / name)
    with (
        TerminalObserver(ref.volume) as observer,
        opened_output(place, replace=replace, option="--replace") as file,
    ):
        total = export_dump(backup, name, file.write, observer=observer)
    if place == "-":
        return Report({}, "")
    document: dict[str, object] = {
        "id": ref.id,
        "host": ref.host,
        "source_volume": ref.volume,
        "dump": name,
        "to": place,
        "source_bytes": total,
        "fetched_bytes": backup.fetched_bytes,
        "warnings": [],
    }
    return Report(document, f"restored dump {name} of {ref} as {place}: {size_text(total)}")


def check_no_own_place(session: Session, to: str) -> None:
    """Raises UsageError for a directory in a store, or in the state directory."""
    if to == "-":
        return
    place = Path(to).absolute().resolve()
    urls = [session.store.url, *(store.url for store in session.config.stores.values())]
    own = [Path(url) for url in urls if "://" not in url]
    for each in (*own, session.config.state_dir):
        if place.is_relative_to(each.absolute().resolve()):
            raise UsageError(f"{to} is in {each}, which is volferry's own: restore into another directory")


def restore_to(
    backup: BackupReader, selection: Selection | None, to: str, *, replace: bool, safety: Safety
) -> Report:
    """Into a directory of this machine, or to stdout as a tar."""
    from volferry.operations.excerpt import BackupExcerpt  # noqa: PLC0415
    from volferry.operations.restore import prove  # noqa: PLC0415
    from volferry.operations.restore_directory import restore_into_directory  # noqa: PLC0415
    from volferry.operations.streams import counted  # noqa: PLC0415

    ref = backup.ref
    with TerminalObserver(ref.volume) as observer:
        if to == "-":
            pieces = (
                backup.volume_stream()
                if selection is None
                else (excerpt := BackupExcerpt(backup, selection)).tar_stream(
                    excerpt.selection.parents - {b""}
                )
            )
            observer.phase("restoring")
            for piece in counted(pieces, observer):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return Report({}, "")
        directory = Path(to).absolute()
        if safety.proves and replace and _holds_something(directory):
            if selection is None:
                prove(backup.volume_stream(), backup.manifest.volume_counts.tar_bytes, observer)
            else:
                chosen = BackupExcerpt(backup, selection)
                prove(chosen.tar_stream(frozenset()), chosen.source_bytes, observer)
        restored = restore_into_directory(
            backup,
            selection,
            directory,
            observer=observer,
            replace=replace,
            looks_for_room=safety.looks_for_room,
        )
    document: dict[str, object] = {
        "id": ref.id,
        "host": ref.host,
        "source_volume": ref.volume,
        "to": str(directory),
        "entries": restored.entries,
        "source_bytes": restored.source_bytes,
        "fetched_bytes": backup.fetched_bytes,
        "warnings": list(restored.warnings),
    }
    return Report(
        document,
        f"restored {ref} into {directory}: {count_text(restored.entries, 'entry', 'entries')}, "
        f"{size_text(restored.source_bytes)}, compared{' and equal' if not restored.warnings else ''}",
        restored.warnings,
    )


def _holds_something(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except OSError:
        return False  # what is wrong with it, the restore says
