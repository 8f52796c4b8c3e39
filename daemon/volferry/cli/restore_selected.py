"""The parts of `volferry restore` for chosen paths, and for other places than a volume."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.cli.export import opened_output
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session, say
from volferry.cli.target_volume import Wishes, opened_target
from volferry.cli.text import count_text, size_text
from volferry.errors import PathExists, UsageError, VolumeNotEmpty

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
    prove_first: bool,
) -> RestoreStats:
    """Into a volume, whose other content stays."""
    from volferry.operations.excerpt import BackupExcerpt  # noqa: PLC0415
    from volferry.operations.restore import prove  # noqa: PLC0415
    from volferry.operations.restore_paths import restore_paths  # noqa: PLC0415
    from volferry.operations.unfinished_paths import unfinished_paths  # noqa: PLC0415

    excerpt = BackupExcerpt(backup, selection)
    with opened_target(session, backup.manifest, target, run, wishes) as found:
        helper, observer, empty = found.helper, found.observer, found.empty
        if found.new and not empty:
            raise VolumeNotEmpty(
                f"a new volume like {backup.ref.volume} would not be empty: restore it whole first"
            )
        if not empty:
            unfinished_paths(
                helper, target
            )  # what nothing but a restore of everything completes, is refused before anything is read
        if prove_first and replace and not empty:
            prove(excerpt.tar_stream(frozenset()), excerpt.source_bytes, observer)
        try:
            return restore_paths(
                excerpt,
                target,
                helper=helper,
                observer=observer,
                replace=replace,
                empty=empty,
                check_free=found.check_free,
            )
        except PathExists:
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
    backup: BackupReader, selection: Selection | None, to: str, *, replace: bool, prove_first: bool
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
        if prove_first and replace and _holds_something(directory):
            if selection is None:
                prove(backup.volume_stream(), backup.manifest.volume_counts.tar_bytes, observer)
            else:
                chosen = BackupExcerpt(backup, selection)
                prove(chosen.tar_stream(frozenset()), chosen.source_bytes, observer)
        restored = restore_into_directory(backup, selection, directory, observer=observer, replace=replace)
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
        f"{size_text(restored.source_bytes)}",
        restored.warnings,
    )


def _holds_something(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except OSError:
        return False  # what is wrong with it, the restore says
