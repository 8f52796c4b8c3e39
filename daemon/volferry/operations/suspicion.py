"""Whether a backup is suspiciously unlike the one before: almost all of it gone, or every file another one
(docs/decisions/0017-suspicious-backups.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from volferry.archive.excludes import CACHE_TAG, Excludes, LeftOut, without_excluded
from volferry.archive.index import file_blocks, files_of
from volferry.archive.listing import path_of, walk_key
from volferry.errors import NoSuchObject, RepositoryError, StoreError
from volferry.layout import files_key
from volferry.model import BackupRef, Finding
from volferry.operations.acceptance import accepted_ids, is_suspicious

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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
# Backups are so far apart; each may be some hours late.
_DAY, _WEEK = timedelta(days=1, hours=6), timedelta(days=8)


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

    `before` is the newest backup, None where it cannot be read; `files` is the new backup's `files` object. Counts are
    compared, which the manifests have. Only where these cannot tell, or nearly all bytes are new ones, is a listing
    read. A backup that has lost its listing is passed over for the one before it. If none can be compared, the observer gets a note, and
    the backup counts as the newest does.
    """
    trouble: Exception | None = None
    like: Finding | None = None
    try:
        for measure in _measures(repository, manifest, before):
            try:
                return _compared(repository, manifest, measure, _Listings(repository, files, cache, spool))
            except (RepositoryError, StoreError, ValueError, OSError) as error:
                trouble = trouble or error
                like = like or _like_the_newest(measure)
    except StoreError as error:
        trouble = trouble or error
    if trouble is not None:
        observer.note(f"the backup could not be compared with the one before: {trouble}")
    return like


@dataclass(frozen=True, slots=True)
class _Measure:
    """A backup to compare with."""

    manifest: Manifest
    later: tuple[Manifest, ...] = ()  # those since, newest first: all of them are suspicious


def _measures(repository: Repository, manifest: Manifest, before: Manifest | None) -> Iterator[_Measure]:
    """Backups that were not suspicious or were accepted, newest first; where there are none, the newest one that can be
    read. More than the newest is only looked for if it does not do. Raises StoreError.
    """
    if before is not None and not is_suspicious(before):
        yield _Measure(before)
    host, volume = manifest.host, manifest.volume.name
    accepted: set[str] | None = None
    later: list[Manifest] = []
    found = before is not None and not is_suspicious(before)
    for ref in reversed(list(repository.refs(host=host, volume=volume))):
        known = before is not None and ref.id == before.id
        if known and found:
            continue
        try:
            each = before if before is not None and known else repository.manifest(ref)
        except (RepositoryError, StoreError):
            continue
        if is_suspicious(each):
            accepted = accepted_ids(repository, host, volume) if accepted is None else accepted
            if each.id not in accepted:
                later.append(each)
                continue
        found = True
        yield _Measure(each, tuple(later))
    if not found and later:
        yield _Measure(later[0])


def _like_the_newest(measure: _Measure) -> Finding | None:
    """The next backup counts as the newest of all does, as long as nobody can tell."""
    if not measure.later:
        return None
    kinds = {finding.kind for finding in measure.later[0].findings}
    detail = f"taken to be like {measure.later[0].id}: the listing of {measure.manifest.id} is lost"
    return Finding("shrunk" if "shrunk" in kinds else "rewritten", b"", detail)


@dataclass(frozen=True, slots=True)
class _Listings:
    """Where the entries of the new backup are, and of an older one."""

    repository: Repository
    new: Path
    cache: IndexCache
    spool: Path

    def of(self, manifest: Manifest) -> Path:
        """Of an older one. Raises DamagedObject, StoreError."""
        ref = BackupRef(manifest.host, manifest.volume.name, manifest.id)
        cached = self.cache.find(ref, manifest)
        if cached is not None:
            return cached.files
        path = self.spool / f"compared.{ref.id}.files"
        if not path.exists():
            self.repository.fetch(files_key(ref), path, expected=manifest.index.files)
        return path


def _compared(
    repository: Repository, manifest: Manifest, measure: _Measure, listings: _Listings
) -> Finding | None:
    """Raises RepositoryError, StoreError, ValueError or OSError if an object that is needed for it is damaged or missing."""
    reference = measure.manifest
    then = _Size.of(reference)
    excludes = _new_excludes(manifest, reference)
    gone = _gone(manifest, reference, then) or _gone_since_unread(repository, manifest, reference, then)
    if gone and excludes is not None:
        # What is excluded now is not gone.
        gone = _gone(manifest, reference, _size_without(reference, listings.of(reference), excludes))
    if gone:
        return _finding("shrunk", gone, manifest, reference)
    if not _is_new(manifest, reference) or _always_changes(repository, manifest, measure, listings):
        return None
    changed = _rewritten(manifest, listings.new, reference, listings, excludes)
    return _finding("rewritten", changed, manifest, reference) if changed else None


def _new_excludes(manifest: Manifest, reference: Manifest) -> Excludes | None:
    """If others are excluded now, and some are: then some may be missing because of that."""
    now, then = (Excludes(each.excluded.patterns, each.excluded.caches) for each in (manifest, reference))
    return now if now != then and manifest.excluded.entries > 0 else None


def _size_without(reference: Manifest, files: Path, excludes: Excludes) -> _Size:
    """Of what would be in a backup if that had been excluded then."""
    entries = regular = source_bytes = 0
    for record in _records(reference, files, excludes):
        path = path_of(record)
        if reference.dumps and path.partition(b"/")[0] == _DUMPS:
            continue
        kind, _, _, _, size, _ = record[len(path) + 2 :].split(b" ", 5)
        entries += 1
        if kind == b"f":
            regular += 1
            source_bytes += int(size)
    return _Size(entries, regular, source_bytes)


def _records(manifest: Manifest, files: Path, excludes: Excludes | None) -> Iterator[bytes]:
    """In walk order, without what is excluded. Of a directory that has the name of a cache's tag it is believed that it is one, since the tag's
    content is not in a listing: less is compared then.
    """
    if excludes is None:
        for _, records in files_of(manifest, file_blocks(files)):
            yield from records
        return
    caches = set()
    if excludes.caches:
        for _, records in files_of(manifest, file_blocks(files)):
            paths = (path_of(record) for record in records)
            caches |= {path.rpartition(b"/")[0] for path in paths if path.rpartition(b"/")[2] == CACHE_TAG}
    records_of_all = (record for _, records in files_of(manifest, file_blocks(files)) for record in records)
    yield from without_excluded(records_of_all, excludes, cache_directories=caches, left_out=LeftOut())


@dataclass(frozen=True, slots=True)
class _Size:
    """Of a volume, without dumps, and without what could not be read."""

    entries: int
    files: int
    source_bytes: int

    @classmethod
    def of(cls, manifest: Manifest) -> _Size:
        counts = manifest.volume_counts
        return cls(
            counts.entries - counts.unread_entries,
            _files(manifest) - counts.unread_entries,
            counts.source_bytes - counts.unread_bytes,
        )


def _files(manifest: Manifest) -> int:
    return manifest.counts.files - len(manifest.dumps)


def _gone(manifest: Manifest, reference: Manifest, then: _Size) -> str:
    """From how much to how much; empty if it is not suspicious."""
    now = _Size.of(manifest)
    if (
        (then.files > 0 and now.files == 0)
        or (then.entries >= _FEWEST_ENTRIES and now.entries <= then.entries * (1 - _GONE))
        or (then.source_bytes >= _FEWEST_BYTES and now.source_bytes <= then.source_bytes * (1 - _GONE))
    ):
        counts = manifest.counts
        unread = (
            f"; {counts.unread_entries:,} more entries and {counts.unread_bytes:,} more bytes could not be read"
            if counts.unread_bytes
            else ""
        )
        return (
            f"from {then.entries:,} to {now.entries:,} entries, "
            f"from {then.source_bytes:,} to {now.source_bytes:,} bytes{unread}"
        )
    dumps = {dump.name: dump.source_bytes for dump in manifest.dumps}
    for dump in reference.dumps:
        left = dumps.get(dump.name, 0)  # none may mean that the container is gone
        if dump.source_bytes >= _FEWEST_BYTES and left <= dump.source_bytes * (1 - _GONE):
            return f"dump {dump.name} from {dump.source_bytes:,} to {left:,} bytes"
    return ""


def _gone_since_unread(repository: Repository, manifest: Manifest, reference: Manifest, then: _Size) -> str:
    """As `_gone`, with what the reference could not read and the new backup does not complain of: it was there, and is read now, or gone. Not
    where a person has accepted the reference without it. Raises StoreError.
    """
    more = reference.counts.unreadable - manifest.counts.unreadable
    if more <= 0 or is_suspicious(reference):
        return ""
    more_bytes = max(reference.counts.unread_bytes - manifest.counts.unread_bytes, 0)
    # Of what kind they were is not known; directories are among the entries already.
    there = _Size(then.entries + more, then.files, then.source_bytes + more_bytes)
    gone = _gone(manifest, reference, there)
    return (
        "" if gone and reference.id in accepted_ids(repository, manifest.host, manifest.volume.name) else gone
    )


def _share(packs: tuple[PackPart, ...], after: str) -> float:
    """Of the bytes that a backup needs, those that were stored after a backup."""
    needed = sum(pack.live_bytes for pack in packs)
    new = sum(pack.live_bytes for pack in packs if pack.name.partition(".")[0] > after)
    return new / needed if needed else 0.0


def _is_new(manifest: Manifest, reference: Manifest) -> bool:
    """Whether nearly all stored bytes are new ones, or next to none of the reference's is needed any longer: what compresses well is small beside
    one file that stays.
    """
    if _files(reference) < _FEWEST_FILES:
        return False
    needed = sum(pack.live_bytes for pack in reference.packs)
    kept = sum(pack.live_bytes for pack in manifest.packs if pack.name.partition(".")[0] <= reference.id)
    return _share(manifest.packs, reference.id) >= _GONE or kept <= needed * (1 - _GONE)


def _always_changes(
    repository: Repository, manifest: Manifest, measure: _Measure, listings: _Listings
) -> bool:
    """Whether each of the last three shares next to nothing with the one before it, and so did the measure: then that is how the volume
    is. A change that stays is none such, nor are new headers of all files, as after `chmod -R`, and then a change. Nor is what became of a volume
    that did not change like that as long as it was good, however often it changes since.
    """
    reference, since = measure.manifest, measure.later[:2]
    if since:
        if not (
            len(since) > 1
            and all(any(finding.kind == "rewritten" for finding in each.findings) for each in since)
            and _changed_wholly(manifest, since[0], listings, listings.new)
            and _changed_wholly(since[0], since[1], listings)
        ):
            return False
    elif reference.base is None:
        return False
    if reference.base is not None:
        try:
            base = repository.manifest(BackupRef(reference.host, reference.volume.name, reference.base))
        except NoSuchObject:  # it was forgotten
            if not _shares_nothing_with_its_base(reference):
                return False
        except RepositoryError:
            return False
        else:
            if not _changed_wholly(reference, base, listings):
                return False
            if not since or base.base is not None:
                return _changed_since_its_base(repository, base, listings)
    next_one = measure.later[-1] if measure.later else manifest
    return _was_new(reference, listings, next_one.listed_at - reference.listed_at)


def _changed_since_its_base(repository: Repository, manifest: Manifest, listings: _Listings) -> bool:
    if manifest.base is None or _shares_nothing_with_its_base(manifest):
        return manifest.base is not None
    try:
        base = repository.manifest(BackupRef(manifest.host, manifest.volume.name, manifest.base))
    except (NoSuchObject, RepositoryError):
        return False
    return _changed_wholly(manifest, base, listings)


def _changed_wholly(newer: Manifest, older: Manifest, listings: _Listings, files: Path | None = None) -> bool:
    """Whether nearly all stored bytes are new ones, or nearly all files others: of a few that stay, the bytes may be most of it, and are stored anew now and then, where
    little of their pack is needed any longer. `files` is the listing of the newer one, if that is not stored yet.
    """
    if _share(newer.packs, older.id) >= _GONE:
        return True
    return bool(_rewritten(newer, files or listings.of(newer), older, listings, None))


def _was_new(reference: Manifest, listings: _Listings, between: timedelta) -> bool:
    """Whether nearly all files had been written not long before, no longer than backups are apart: of a backup of which no other
    is left that could tell how the volume changes, this is all that there is to go by.
    """
    oldest = (reference.listed_at - min(max(between, _DAY), _WEEK)).timestamp()
    total = new = 0
    for content in _contents(_records(reference, listings.of(reference), None), dumps=not reference.dumps):
        total += 1
        new += float(content[1].partition(b" ")[2]) >= oldest
    return new >= total * _GONE


def _shares_nothing_with_its_base(manifest: Manifest) -> bool:
    return manifest.base is not None and _share(manifest.packs, manifest.base) >= _GONE


def _rewritten(
    manifest: Manifest, files: Path, reference: Manifest, listings: _Listings, excludes: Excludes | None
) -> str:
    """How many files have another content, by size and time, or another name; empty if that is not suspicious. `files` is the listing of the newer one. Owners,
    modes and change times count for nothing: of a volume that was restored or migrated, all of the latter are others.
    """
    total = same = 0
    new = _contents(_records(manifest, files, None), dumps=True)
    key, content = next(new, (None, b""))
    older = _records(reference, listings.of(reference), excludes)
    for wanted, before in _contents(older, dumps=not reference.dumps):
        total += 1
        while key is not None and key < wanted:
            key, content = next(new, (None, b""))
        same += key == wanted and content == before
    if total < _FEWEST_FILES or same > total * (1 - _GONE):
        return ""
    return f"{total - same:,} of {total:,} files have another content or name"


def _contents(records: Iterable[bytes], *, dumps: bool) -> Iterator[tuple[bytes, bytes]]:
    """In walk order, each regular file that is not empty: its place in that order, and its size and time."""
    for record in records:
        path = path_of(record)
        kind, _, _, _, size, mtime, _ = record[len(path) + 2 :].split(b" ", 6)
        if kind != b"f" or size == b"0" or not (dumps or path.partition(b"/")[0] != _DUMPS):
            continue
        yield walk_key(path), b"%b %b" % (size, mtime)


def _finding(kind: Suspicious, what: str, manifest: Manifest, reference: Manifest) -> Finding:
    made_anew = manifest.volume.created_at != reference.volume.created_at
    # Of its own volumes, an older engine gives the time at which something was last made or deleted in the root.
    hint = f"; perhaps the volume was made anew, at {manifest.volume.created_at}" if made_anew else ""
    return Finding(kind, b"", f"{what}, compared with {reference.id}{hint}")
