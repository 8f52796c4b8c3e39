"""`volferry restore --project`: puts back all volumes of a compose project, as they were at one time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.cli.output import print_json, say
from volferry.cli.session import Session
from volferry.cli.target_volume import check_usable
from volferry.cli.text import count_text
from volferry.errors import (
    FINDINGS_EXIT_CODE,
    NoSuchBackup,
    NoSuchVolume,
    UsageError,
    VolferryError,
    VolumeInUse,
    VolumeNotEmpty,
)
from volferry.model import BIND_DRIVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.archive.manifest import Manifest
    from volferry.cli.restore_selected import Report
    from volferry.model import BackupRef
    from volferry.run import Run
    from volferry.sets import Chosen


def chosen_backups(session: Session, named: str) -> tuple[Chosen, dict[BackupRef, Manifest]]:
    """By `P` or `P@SET`; and the manifests of the host. Raises UsageError, NoSuchBackup, AmbiguousBackup."""
    from volferry.archive.manifest import Manifest  # noqa: PLC0415
    from volferry.sets import choose  # noqa: PLC0415

    project, at, start = named.partition("@")
    if not project or (at and not start):
        raise UsageError(f"--project {named!r}: use PROJECT, or PROJECT@SET")
    repository = session.repository
    found = repository.manifests(host=session.host, cache=session.manifest_cache(repository))
    manifests = {ref: each for ref, each in found if isinstance(each, Manifest)}
    for ref, each in found:
        if isinstance(each, VolferryError):
            say(f"volferry: {ref}: {each}")
    return choose(project, start or None, manifests), manifests


def restore_project(
    session: Session,
    run: Run,
    named: str,
    restore_one: Callable[[BackupRef, str], Report],
    *,
    replace: bool,
    json: bool,
) -> int:
    """Each into its own volume. Nothing is written before all of them have been looked at. Raises VolferryError."""
    session.bring_back()
    session.reap(run)
    chosen, manifests = chosen_backups(session, named)
    binds = [ref for ref in chosen.refs if manifests[ref].volume.driver == BIND_DRIVER]
    for ref in binds:
        say(f"left out: {ref} is of a directory, and no volume: `volferry restore {ref} --to DIR`")
    refs = [ref for ref in chosen.refs if ref not in binds]
    if not refs:
        raise NoSuchBackup(f"there is nothing to restore: {named} has no volumes")
    _check_targets(session, run, refs, replace=replace)
    for note in chosen.notes:
        say(note)
    for each in chosen.sets:
        say(f"set {each.id}: {', '.join(map(str, each.backups.values()))}")
    reports: list[Report] = []
    try:
        for ref in refs:
            reports.append(restore_one(ref, str(ref) if "@" in named else ref.volume))
            if not json:
                print(reports[-1].line, flush=True)
    except BaseException:
        say(f"volferry: {_what_was_done(chosen, named, refs, len(reports))}")
        raise
    finally:
        if json:
            print_json(
                {
                    "project": named.partition("@")[0],
                    "sets": [each.id for each in chosen.sets],
                    "restored": [report.document for report in reports],
                    "not_restored": [str(ref) for ref in refs[len(reports) :]],
                    "left_out": [str(ref) for ref in binds],
                }
            )
    warnings = sum(len(report.warnings) for report in reports)
    if warnings:
        say(f"not all of it could be restored as it was: {count_text(warnings, 'warning')}")
    return FINDINGS_EXIT_CODE if warnings or binds else 0


def _what_was_done(chosen: Chosen, named: str, refs: list[BackupRef], count: int) -> str:
    """Of a restore that broke off, and how it is done whole."""
    done = ", ".join(each.volume for each in refs[:count]) or "none"
    left = ", ".join(each.volume for each in refs[count:])
    if len(chosen.sets) == 1 and set(chosen.sets[0].backups.values()) >= set(refs):
        # By its id: there may be a newer one by then.
        again = f"`volferry restore --project {named.partition('@')[0]}@{chosen.sets[0].id} --replace`"
    else:
        again = ", ".join(f"`volferry restore {ref} --replace`" for ref in refs[count:])
    return f"restored: {done}; not restored: {left}; to go on: {again}"


def _check_targets(session: Session, run: Run, refs: list[BackupRef], *, replace: bool) -> None:
    """Raises VolumeInUse, VolumeNotEmpty, UsageError, with all that is in the way."""
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.engine.volumes import find_volume  # noqa: PLC0415
    from volferry.operations.restore import is_empty  # noqa: PLC0415

    in_use, full = [], []
    for ref in refs:
        try:
            volume = find_volume(session.engine, ref.volume)
        except NoSuchVolume:
            continue
        try:
            check_usable(volume)
        except VolumeInUse as error:
            in_use.append(str(error))
            continue
        if not replace:
            with open_helper(session.engine, run, session.helper_settings(), [volume]) as helper:
                if not is_empty(helper, volume.name):
                    full.append(volume.name)
    if in_use:
        raise VolumeInUse(f"{'; '.join(in_use)}: nothing was restored")
    if full:
        holds = "holds" if len(full) == 1 else "hold"
        raise VolumeNotEmpty(
            f"{', '.join(full)} {holds} data: nothing was restored; --replace puts the backups in their place"
        )
