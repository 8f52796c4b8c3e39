"""`volferry restore`: puts a backup back, into a new volume or in place of what a volume holds."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from volferry.cli.options import (
    ConfigOption,
    DumpOption,
    EngineOption,
    HostOption,
    JsonOption,
    LabelsOption,
    OptionalBackupArgument,
    StoreOption,
    every_label,
)
from volferry.cli.output import print_json, say
from volferry.cli.restore_doubt import Doubt, doubt_about
from volferry.cli.restore_selected import (
    Report,
    Safety,
    check_no_own_place,
    restore_dump,
    restore_selected,
    restore_to,
    selected,
)
from volferry.cli.session import Session
from volferry.cli.target_volume import Target, Wishes, opened_target
from volferry.cli.text import count_text, duration_text, size_text
from volferry.errors import FINDINGS_EXIT_CODE, UsageError, VolumeNotEmpty
from volferry.model import BIND_DRIVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.archive.selection import Selection
    from volferry.model import BackupRef, RestoreStats
    from volferry.operations.backup_reader import BackupReader
    from volferry.operations.restore_beside import Room
    from volferry.run import Run


# What the engine itself takes for a volume's name.
VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def restore(
    name: OptionalBackupArgument = None,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...", help="Only these paths, each with all below it; default: the whole backup."
        ),
    ] = None,
    *,
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            "-p",
            metavar="P[@SET]",
            help="In place of BACKUP: all volumes of a compose project, as they were backed up together; the newest set by default.",
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="VOLUME", help="Restore into this volume; it is made if need be."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="Restore into a directory of this machine; - writes a tar to stdout. With --dump, a file or a directory.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Put the backup in place of what the volume holds, which is deleted once the backup is there, where there is room "
            "for both; with PATHs or --to, only what is restored is replaced.",
        ),
    ] = False,
    with_options: Annotated[
        bool,
        typer.Option(
            "--with-options",
            help="Make a missing volume with the driver and options that it had, also where they lead to a directory, device, share "
            "or plugin.",
        ),
    ] = False,
    labels: LabelsOption = None,
    prove_first: Annotated[
        bool | None,
        typer.Option(
            "--prove/--trust",
            help="With --replace, where there is no room to restore beside what is there: read all of the backup once before "
            "anything is deleted; default: where the store is a directory. --trust deletes first, in any case, and restores also what seems not to fit.",
        ),
    ] = None,
    glob: Annotated[bool, typer.Option("--glob", help="PATHs are shell patterns.")] = False,
    dump: DumpOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Restore a backup, or some paths of it. volferry compares what it wrote with the backup. A volume that is not there is made:
    with its labels, and as a plain local volume where its options lead elsewhere.
    """
    _check_usage(into=into, to=to, replace=replace, paths=paths or [], glob=glob, json=json, dump=dump)
    if (name is None) == (project is None):
        raise UsageError("name one: a BACKUP, or --project")
    if project is not None and (into is not None or to is not None or dump is not None):
        raise UsageError(
            "--project restores each volume into one of its own name: leave out --into, --to and --dump"
        )
    wishes = Wishes(options=with_options, every_label=every_label(labels))
    if to is not None and wishes != Wishes():
        raise UsageError("--with-options and --labels are for a volume that is made, and not for --to")
    session = Session.load(config=config, store=store, engine=engine, host=host)
    safety = Safety.of(session.store.url, prove_first=prove_first)
    if project is not None:
        return _restore_project(session, project, wishes, replace=replace, safety=safety, json=json)
    return _restore_one(
        session,
        name or "",
        paths or [],
        into,
        to,
        wishes,
        safety,
        replace=replace,
        glob=glob,
        dump=dump,
        json=json,
    )


def _restore_one(
    session: Session,
    name: str,
    paths: list[str],
    into: str | None,
    to: str | None,
    wishes: Wishes,
    safety: Safety,
    *,
    replace: bool,
    glob: bool,
    dump: str | None,
    json: bool,
) -> int:
    ref = session.backup_ref(name)
    with session.run() as run, session.advising(ref):
        if to is None:
            session.bring_back()
            session.reap(run)
        backup = session.backup_reader(ref, run.spool)
        selection = selected(backup, paths, glob=glob, dump=dump)
        if selection is None and dump is None:
            safety = safety.with_marks(session, backup)
        doubt = doubt_about(session, backup, name, deletes_none=to is not None or selection is not None)
        if dump is not None and to is not None:
            report = restore_dump(backup, dump, to, replace=replace)
        elif to is not None:
            check_no_own_place(session, to)
            report = restore_to(backup, selection, to, replace=replace, safety=safety)
        else:
            report = _into_volume(
                session, backup, selection, into, run, wishes, replace=replace, safety=safety, doubt=doubt
            )
    if json:
        print_json(report.document)
    else:
        if report.line:
            print(report.line)
        if backup.manifest.findings_total:
            say(
                f"this backup has {count_text(backup.manifest.findings_total, 'finding')}: see `volferry show {ref}`"
            )
    if report.warnings:
        say(f"not all of it could be restored as it was: {count_text(len(report.warnings), 'warning')}")
        return FINDINGS_EXIT_CODE
    return 0


def _restore_project(
    session: Session, project: str, wishes: Wishes, *, replace: bool, safety: Safety, json: bool
) -> int:
    from volferry.cli.restore_project import restore_project  # noqa: PLC0415

    with session.run() as run:

        def restore_one(ref: BackupRef, name: str) -> Report:
            with session.advising(ref):
                backup = session.backup_reader(ref, run.spool)
                doubt = doubt_about(session, backup, name, deletes_none=False)
                marked = safety.with_marks(session, backup)
                return _into_volume(
                    session, backup, None, None, run, wishes, replace=replace, safety=marked, doubt=doubt
                )

        return restore_project(session, run, project, restore_one, replace=replace, json=json)


def _into_volume(
    session: Session,
    backup: BackupReader,
    selection: Selection | None,
    into: str | None,
    run: Run,
    wishes: Wishes,
    *,
    replace: bool,
    safety: Safety,
    doubt: Doubt | None,
) -> Report:
    """Raises UsageError for what is of no volume and is to go into none."""
    ref = backup.ref
    if into is None and backup.manifest.volume.driver == BIND_DRIVER:
        path = backup.manifest.volume.options.get("path", ref.volume)
        raise UsageError(
            f"{ref} is of the directory {path}, and no volume: use --into VOLUME, or --to {path}"
        )
    target = into or ref.volume
    if selection is None:
        stats = _restore(
            session,
            backup,
            target,
            run,
            wishes,
            replace=replace,
            named=into is not None,
            safety=safety,
            doubt=doubt,
        )
    else:
        stats = restore_selected(
            session, backup, selection, target, run, replace=replace, wishes=wishes, safety=safety
        )
    compared = "compared and equal" if not stats.warnings else "compared"
    return Report(
        _document(stats),
        f"restored {ref} into volume {target}: {count_text(stats.entries, 'entry', 'entries')}, "
        f"{size_text(stats.source_bytes)}, {compared}, in {duration_text(stats.seconds)}",
        stats.warnings,
    )


def _check_usage(
    *,
    into: str | None,
    to: str | None,
    replace: bool,
    paths: list[str],
    glob: bool,
    json: bool,
    dump: str | None,
) -> None:
    """Raises UsageError for what cannot go together."""
    if dump is not None and paths:
        raise UsageError("--dump and PATHs exclude each other: a dump is one file")
    if into is not None and not VOLUME_NAME.fullmatch(into):
        raise UsageError(
            f"{into!r} cannot be a volume's name: letters, digits, and then also _ . - (two at least)"
        )
    if glob and not paths:
        raise UsageError("--glob says how PATHs are read: give one")
    if to is None:
        return
    if into is not None:
        raise UsageError("--into and --to exclude each other: a volume, or a directory of this machine")
    if not to:
        raise UsageError("--to needs a directory, or - for stdout")
    if to == "-" and replace:
        raise UsageError("--replace has no meaning for a tar on stdout")
    if to == "-" and json:
        raise UsageError("--json and a tar cannot both go to stdout: give a directory to --to")
    if to == "-" and sys.stdout.isatty():
        raise UsageError("a tar would not look well on a terminal: give a directory to --to, or a pipe")


def _restore(
    session: Session,
    backup: BackupReader,
    target: str,
    run: Run,
    wishes: Wishes,
    *,
    replace: bool,
    named: bool,
    safety: Safety,
    doubt: Doubt | None,
) -> RestoreStats:
    """`doubt` is about a backup that nobody may want in place of what the volume holds."""
    from volferry.operations.restore import mark_text  # noqa: PLC0415
    from volferry.operations.unfinished_paths import rest_of  # noqa: PLC0415

    with opened_target(session, backup.manifest, target, run, wishes) as found:
        if not found.empty and not replace:
            rest = rest_of(mark_text(found.helper, target))[0] if found.is_half() else ""
            raise VolumeNotEmpty(_not_empty(target, named=named, rest=rest))
        if doubt is not None:
            doubt.check(target, replaces=not found.empty, named=named)
        with found.recorded(backup.ref) as changes:
            return _put(backup, target, found, safety, changes)


def _put(
    backup: BackupReader, target: str, found: Target, safety: Safety, changes: Callable[[], None]
) -> RestoreStats:
    """In place of what the volume holds, if anything. `changes` is called before that is touched."""
    from volferry.operations.restore import prove, restore_backup  # noqa: PLC0415
    from volferry.operations.restore_beside import make_room, restore_beside  # noqa: PLC0415
    from volferry.operations.room import Wanted, check_volume_room, disk_usage  # noqa: PLC0415

    helper, observer = found.helper, found.observer
    room = None
    if not found.empty:
        if safety.beside:
            room = make_room(helper, target, backup.manifest.volume_counts)
        if room is not None and room.enough:
            return restore_beside(
                backup,
                target,
                helper=helper,
                observer=observer,
                check_free=found.check_free,
                changes=changes,
                marks=found.marks,
            )
    if safety.looks_for_room:
        wanted = Wanted(backup, None, backup.manifest.volume_counts.tar_bytes)
        check_volume_room(
            wanted, target, helper=helper, freed=lambda: disk_usage(helper, helper.directory(target))[1]
        )
    if not found.empty:
        observer.note(_deletes_first(room, proves=safety.proves))
        if safety.proves:
            prove(backup.volume_stream(), backup.manifest.volume_counts.tar_bytes, observer)
    if not found.new:
        changes()
    try:
        return restore_backup(
            backup,
            target,
            helper=helper,
            observer=observer,
            empty_first=not found.empty,
            check_free=found.check_free,
            marks=found.marks,
        )
    except BaseException:
        if not found.new:
            say(f"volume {target} does not hold the whole backup: run the restore again, with --replace")
        raise


def _deletes_first(room: Room | None, *, proves: bool) -> str:
    """Why the volume's content goes before the backup is there."""
    how = "what it holds is deleted before the backup is restored"
    if proves:
        how = f"the backup is read whole, and then {how}"
    if room is None:
        return how
    why = room.why_not or (f"{size_text(room.needed_bytes)} needed, {size_text(room.free_bytes)} free")
    return f"there is no room for both ({why}): {how}{'' if proves else '; --prove reads all of it first'}"


def _not_empty(volume: str, *, named: bool, rest: str) -> str:
    what = f"the rest of an interrupted {rest}" if rest else "data"
    other = "" if named else ", or --into NAME restores into another volume"
    return f"volume {volume} holds {what}: --replace puts the backup in its place{other}"


def _document(stats: RestoreStats) -> dict[str, object]:
    return {
        "id": stats.ref.id,
        "host": stats.ref.host,
        "volume": stats.volume,
        "source_volume": stats.ref.volume,
        "entries": stats.entries,
        "source_bytes": stats.source_bytes,
        "fetched_bytes": stats.fetched_bytes,
        "seconds": stats.seconds,
        "warnings": list(stats.warnings),
    }
