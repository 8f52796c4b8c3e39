"""`volferry show`: what is known of one backup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.cli.backup_sets import set_line, sets_of
from volferry.cli.inspect import accepted_of, say_trouble
from volferry.cli.options import (
    BackupArgument,
    ConfigOption,
    EngineOption,
    HostOption,
    JsonOption,
    StoreOption,
)
from volferry.cli.output import print_json
from volferry.cli.session import Session
from volferry.cli.text import count_text, duration_text, local_time_text, size_text

if TYPE_CHECKING:
    from volferry.archive.manifest import DumpPart, Manifest
    from volferry.damage import Trouble
    from volferry.model import BackupRef
    from volferry.sets import BackupSet

_MOST_FINDINGS = 20


def show(
    name: BackupArgument,
    *,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Show what is known of one backup. With --json: its manifest. Exit code 1 if it cannot be restored as a whole."""
    session = Session.load(config=config, store=store, engine=engine, host=host)
    repository = session.repository
    ref = session.backup_ref(name)
    with session.advising(ref):
        manifest = repository.manifest(ref)
    trouble = _trouble_of(session, ref, manifest)
    if json:
        print_json(manifest.document)
    else:
        in_set = sets_of(repository, [(ref, manifest)]).get(ref)
        accepted = bool(accepted_of(session, [(ref, manifest)]))
        _print_manifest(ref, manifest, trouble=trouble, in_set=in_set, accepted=accepted)
    return 1 if trouble else 0


def _stood_still(manifest: Manifest) -> str:
    """Whether containers that write to the volume did, and for how long."""
    if manifest.consistency == "none":
        return "no"
    return f"{manifest.consistency}, for {duration_text(manifest.downtime_seconds)}"


def _left_out(manifest: Manifest) -> str:
    excluded = manifest.excluded
    why = [
        *excluded.patterns,
        *(["caches"] if excluded.caches else []),
        *(["mounts"] if excluded.one_file_system else []),
    ]
    what = f"{count_text(excluded.entries, 'entry', 'entries')}, {size_text(excluded.source_bytes)}"
    return f"{what} ({' '.join(why)})"


def _dump(dump: DumpPart) -> str:
    return f"{dump.name}, {size_text(dump.source_bytes)} from container {dump.container} in {duration_text(dump.seconds)}"


def _print_manifest(
    ref: BackupRef, manifest: Manifest, *, trouble: Trouble | None, in_set: BackupSet | None, accepted: bool
) -> None:
    counts, volume = manifest.counts, manifest.volume
    options = " ".join(f"{key}={value}" for key, value in volume.options.items())
    needed = size_text(sum(pack.live_bytes for pack in manifest.packs))
    stored = f"{size_text(counts.stored_bytes)} of its own; needs {needed} in {count_text(len(manifest.packs), 'pack')}"
    lines = [
        ("Backup", str(ref)),
        ("Taken", f"{local_time_text(manifest.started_at)}, in {duration_text(manifest.seconds)}"),
        ("Volume", f"{volume.name} (driver {volume.driver}{', ' + options if options else ''})"),
        ("Labels", " ".join(f"{key}={value}" for key, value in volume.labels.items()) or "none"),
        ("Content", f"{count_text(counts.entries, 'entry', 'entries')}, {size_text(counts.source_bytes)}"),
        (
            "",
            f"{count_text(counts.files, 'file')}, {count_text(counts.directories, 'directory', 'directories')}, "
            f"{count_text(counts.symlinks, 'symlink')}, {count_text(counts.others, 'other')}"
            + (
                f"; {count_text(counts.sockets_left_out, 'socket')} left out"
                if counts.sockets_left_out
                else ""
            ),
        ),
        ("Stored", stored),
        *([("Whole", f"no: {trouble.text}")] if trouble else []),
        ("Stood still", _stood_still(manifest)),
        *([("Set", set_line(in_set))] if in_set else []),
        (
            "Used by",
            ", ".join(
                f"{each.name} ({each.state}, at {each.destination}{'' if each.read_write else ', read-only'})"
                for each in manifest.containers
            )
            or "no container",
        ),
        ("Written by", f"{manifest.written_by} on {manifest.engine}"),
        *(
            [("Left out", _left_out(manifest))]
            if manifest.excluded.patterns or manifest.excluded.caches or manifest.excluded.one_file_system
            else []
        ),
        *(("Dump", _dump(dump)) for dump in manifest.dumps),
        ("Findings", str(manifest.findings_total or "none")),
    ]
    for label, value in lines:
        print(f"{label:<13}{value}")
    for finding in manifest.findings[:_MOST_FINDINGS]:
        print(f"  {finding.kind}: {finding.path or '(root)'}: {finding.detail}")
    if manifest.findings_total > _MOST_FINDINGS:
        print(f"  … and {manifest.findings_total - _MOST_FINDINGS} more (--json lists up to 1,000)")
    if accepted:
        print(f"{'Accepted':<13}yes")


def _trouble_of(session: Session, ref: BackupRef, manifest: Manifest) -> Trouble | None:
    """The same of one backup. The others of its volume are looked at only where that is of use."""
    from volferry.archive.manifest import Manifest  # noqa: PLC0415
    from volferry.damage import Condition, troubled  # noqa: PLC0415

    repository = session.repository
    condition = Condition.of(repository, ref.host, ref.volume)
    if ref not in troubled(repository, condition, [(ref, manifest)]):
        return None
    others = repository.manifests(host=ref.host, volume=ref.volume, cache=session.manifest_cache(repository))
    backups = {each: found for each, found in others if isinstance(found, Manifest)} | {ref: manifest}
    trouble = troubled(repository, condition, backups.items()).get(ref)
    if trouble is not None:
        say_trouble(session, ref, trouble)
    return trouble
