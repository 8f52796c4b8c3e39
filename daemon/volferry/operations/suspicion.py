"""Whether a backup is suspiciously unlike the one before: almost all of it gone, or every file another one
(docs/decisions/0017-suspicious-backups.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.excludes import Excludes
from volferry.archive.index import file_blocks, files_of
from volferry.archive.listing import path_of, walk_key
from volferry.errors import RepositoryError, StoreError
from volferry.layout import files_key
from volferry.model import BackupRef, Finding
from volferry.operations.acceptance import accepted_ids, is_suspicious

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from volferry.archive.manifest import Manifest, PackPart
    from volferry.index_cache import IndexCache
    from volferry.model import Suspicious
    from volferry.observer import Observer
    from volferry.repository import Repository

# Nine tenths of something must be gone, or be other bytes.
_GONE = 0.9
# Of less, nine tenths come and go in every service: a few temporary files, one log that was rotated.
_FEWEST_ENTRIES = 20
_FEWEST_BYTES = 1 << 20
# One database of a few files changes wholly with every write.
_FEWEST_FILES = 10
_DUMPS = b".volferry"


def suspicion(
    repository: Repository,
    manifest: Manifest,
    before: Manifest | None,
    *,
    files: Path,
    cache: IndexCache,
    spool: Path,
    observer: Observer,
) -> Finding | None:
    """Compares a backup that is about to exist with the last one of its volume that was not suspicious, or was accepted.

    `before` is the newest backup, None where there is none that can be read; `files` is the new backup's `files`
    object. Counts are compared, which the manifests have. Only where nearly all bytes are new ones are the two
    listings compared, entry by entry. Backups that cannot be read are passed over, and said.
    """
    if before is None:
        return None
    try:
        reference, rewritten_before = _reference(repository, before)
        if _leaves_out_more(manifest, reference):
            return None
        gone = _gone(manifest, reference)
        if gone:
            return _finding("shrunk", gone, manifest, reference)
        if rewritten_before or not _is_new(manifest, reference) or _always_changes(reference):
            return None
        changed = _rewritten(repository, manifest, reference, files, cache, spool)
    except (RepositoryError, StoreError, ValueError, OSError) as error:
        observer.note(f"the backup could not be compared with the one before: {error}")
        return None
    return _finding("rewritten", changed, manifest, reference) if changed else None


def _reference(repository: Repository, newest: Manifest) -> tuple[Manifest, bool]:
    """What to compare with, and whether both of the newest two were found to be rewritten already: then the volume is
    one that always is. Where no backup is left that was not suspicious, it is the newest.
    """
    if not is_suspicious(newest):
        return newest, False
    host, volume = newest.host, newest.volume.name
    accepted = accepted_ids(repository, host, volume)
    kinds: list[set[str]] = []
    for ref in reversed(list(repository.refs(host=host, volume=volume))):
        try:
            manifest = newest if ref.id == newest.id else repository.manifest(ref)
        except (RepositoryError, StoreError):
            continue
        if ref.id in accepted or not is_suspicious(manifest):
            return manifest, len(kinds) > 1 and all("rewritten" in each for each in kinds[:2])
        kinds.append({finding.kind for finding in manifest.findings})
    return newest, False


def _leaves_out_more(manifest: Manifest, reference: Manifest) -> bool:
    """Whether something is missing because it is excluded now, which is not counted entry by entry."""
    now, then = manifest.excluded, reference.excluded
    return Excludes(now.patterns, now.caches) != Excludes(then.patterns, then.caches) and now.entries > 0


def _files(manifest: Manifest) -> int:
    return manifest.counts.files - len(manifest.dumps)


def _gone(manifest: Manifest, reference: Manifest) -> str:
    """From how much to how much; empty if it is not suspicious."""
    now, then = manifest.volume_counts, reference.volume_counts
    if (
        (_files(reference) > 0 and _files(manifest) == 0)
        or (then.entries >= _FEWEST_ENTRIES and now.entries <= then.entries * (1 - _GONE))
        or (then.source_bytes >= _FEWEST_BYTES and now.source_bytes <= then.source_bytes * (1 - _GONE))
    ):
        return (
            f"from {then.entries:,} to {now.entries:,} entries, "
            f"from {then.source_bytes:,} to {now.source_bytes:,} bytes"
        )
    dumps = {dump.name: dump.source_bytes for dump in manifest.dumps}
    for dump in reference.dumps:
        left = dumps.get(dump.name)
        if (
            left is not None
            and dump.source_bytes >= _FEWEST_BYTES
            and left <= dump.source_bytes * (1 - _GONE)
        ):
            return f"dump {dump.name} from {dump.source_bytes:,} to {left:,} bytes"
    return ""


def _share(packs: tuple[PackPart, ...], after: str) -> float:
    """Of the bytes that a backup needs, those that were stored after a backup."""
    needed = sum(pack.live_bytes for pack in packs)
    new = sum(pack.live_bytes for pack in packs if pack.name.partition(".")[0] > after)
    return new / needed if needed else 0.0


def _is_new(manifest: Manifest, reference: Manifest) -> bool:
    return _files(reference) >= _FEWEST_FILES and _share(manifest.packs, reference.id) >= _GONE


def _always_changes(reference: Manifest) -> bool:
    """Whether it shared next to nothing with the one before it, either."""
    return reference.base is not None and _share(reference.packs, reference.base) >= _GONE


def _rewritten(
    repository: Repository,
    manifest: Manifest,
    reference: Manifest,
    files: Path,
    cache: IndexCache,
    spool: Path,
) -> str:
    """How many files have another content, by size and time, or another name; empty if that is not suspicious. Owners,
    modes and change times count for nothing: of a volume that was restored or migrated, all of the latter are others.
    """
    ref = BackupRef(reference.host, reference.volume.name, reference.id)
    cached = cache.find(ref, reference)
    then = cached.files if cached else spool / f"compared.{ref.id}.files"
    if cached is None:
        repository.fetch(files_key(ref), then, expected=reference.index.files)
    total = same = 0
    new = _contents(manifest, files, dumps=True)
    key, content = next(new, (None, b""))
    for wanted, before in _contents(reference, then, dumps=not reference.dumps):
        total += 1
        while key is not None and key < wanted:
            key, content = next(new, (None, b""))
        same += key == wanted and content == before
    if total < _FEWEST_FILES or same > total * (1 - _GONE):
        return ""
    return f"{total - same:,} of {total:,} files have another content or name"


def _contents(manifest: Manifest, files: Path, *, dumps: bool) -> Iterator[tuple[bytes, bytes]]:
    """In walk order, each regular file that is not empty: its place in that order, and its size and time."""
    for _, records in files_of(manifest, file_blocks(files)):
        for record in records:
            path = path_of(record)
            kind, _, _, _, size, mtime, _ = record[len(path) + 2 :].split(b" ", 6)
            if kind != b"f" or size == b"0" or not (dumps or path.partition(b"/")[0] != _DUMPS):
                continue
            yield walk_key(path), b"%b %b" % (size, mtime)


def _finding(kind: Suspicious, what: str, manifest: Manifest, reference: Manifest) -> Finding:
    made_anew = manifest.volume.created_at != reference.volume.created_at
    hint = f"; the volume was made anew at {manifest.volume.created_at}" if made_anew else ""
    return Finding(kind, b"", f"{what}, compared with {reference.id}{hint}")
