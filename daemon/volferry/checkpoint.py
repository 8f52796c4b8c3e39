"""What a run that has not finished yet has already stored: kept in the state directory, so that the next run can go on
from there, however this one ends.

`frames` and `groups` grow with the run; after each pack is committed, a line in `packs` says how far they are good, and
vouches for every byte up to there: what is damaged is not gone on from.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from os import fsync
from typing import TYPE_CHECKING, Self

from blake3 import blake3

from volferry.archive.digests import digested
from volferry.archive.excludes import Excludes
from volferry.archive.index import distrusted, file_blocks, group_bytes, parse_frames, parse_groups
from volferry.archive.listing import path_of, walk_key
from volferry.archive.sealed import seal, unseal
from volferry.errors import CommandFailed, VolferryError, reason
from volferry.model import PackInfo, is_backup_id, is_pack_name, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from volferry.archive.index import FrameLocation

_VERSION = 3
_MOST_USABLE = 8


class _GrowingFile:
    """A file that is only appended to, and the digest of what is in it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = blake3()
        self._size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def sync(self) -> str:
        """All of it on stable storage. Returns its size and digest, as they stand in `packs`."""
        self._file.flush()
        fsync(self._file.fileno())
        return f"{self._size} {self._digest.hexdigest()}"

    def close(self) -> None:
        self._file.close()


class CheckpointWriter:
    """The index of a run while it grows. Its two files are what the final index is made from."""

    def __init__(self, directory: Path, *, packs: Mapping[str, PackInfo], excludes: Excludes) -> None:
        """`packs` are those of earlier runs that this one may refer to."""
        self._directory = directory
        earlier = [[pack.name, pack.stored_bytes, pack.digest] for pack in packs.values()]
        try:
            directory.mkdir(parents=True, mode=0o700)
            (directory / "run.json").write_bytes(
                seal(
                    {
                        "version": _VERSION,
                        "packs": earlier,
                        "exclude": list(excludes.patterns),
                        "exclude_caches": excludes.caches,
                    }
                )
            )
            self._frames = _GrowingFile(directory / "frames")
            self._groups = _GrowingFile(directory / "groups")
            self._packs = _GrowingFile(directory / "packs")
            self._doubted = (directory / "doubted").open("wb", buffering=0)
        except OSError as error:
            raise _cannot_write(directory, error) from error
        self._group = -1
        self._records: list[bytes] = []
        self._last: tuple[int, bytes | None] = (-1, None)  # group and place in the walk of the last entry
        self._is_in_doubt: Exception | None = None

    def entry(self, group: int, record: bytes) -> None:
        """The next entry that was read. Raises CommandFailed, once the group ends, if it does not come in the order of the walk: such an index would be damaged."""
        if group != self._group:
            self._flush_group()
            self._group = group
        self._records.append(record)

    def group(self, number: int, records: list[bytes]) -> None:
        """The next group, as a whole. Raises as `entry` does."""
        self._flush_group()
        self._check_order(number, [records[0], records[-1]] if len(records) > 1 else records)
        self._write(self._groups, group_bytes(number, records))

    def doubt(self, path: bytes) -> None:
        """An entry, recorded or not yet, must be read again, whatever becomes of the run. May be called from any thread."""
        try:
            self._doubted.write(path + b"\0")
            fsync(self._doubted.fileno())
        except (OSError, ValueError) as error:  # full, or closed: then nothing may be gone on from
            self._is_in_doubt = error

    def frame(self, location: FrameLocation) -> None:
        """The next frame. Its pack is one of earlier runs, or one that is being written."""
        self._write(self._frames, location.line)

    def all_there(self) -> None:
        """No entry comes any more: the last group is whole with the next pack that is committed."""
        self._flush_group()

    def pack_committed(self, pack: PackInfo) -> None:
        """All frames so far are in packs that are on stable storage."""
        if self._is_in_doubt is not None:
            raise VolferryError(
                f"cannot write to the state directory {self._directory}: {self._is_in_doubt}"
            ) from self._is_in_doubt
        try:
            line = (
                f"{pack.name} {pack.stored_bytes} {pack.digest} {self._frames.sync()} {self._groups.sync()}"
            )
            self._packs.write(f"{line} {blake3(line.encode()).hexdigest()}\n".encode())
            self._packs.sync()
        except OSError as error:
            raise _cannot_write(self._directory, error) from error

    def finish(self) -> None:
        """All entries and frames are there; `frames` and `groups` may be read now."""
        self._flush_group()
        try:
            self._frames.close()
            self._groups.close()
        except OSError as error:
            raise _cannot_write(self._directory, error) from error

    def frame_blocks(self) -> Iterator[bytes]:
        return file_blocks(self._directory / "frames")

    def group_blocks(self) -> Iterator[bytes]:
        return file_blocks(self._directory / "groups")

    def _flush_group(self) -> None:
        if self._records:
            self._check_order(self._group, self._records)
            self._write(self._groups, group_bytes(self._group, self._records))
            self._records = []

    def _check_order(self, group: int, records: Sequence[bytes]) -> None:
        last_group, last = self._last
        for record in records:
            key = walk_key(path_of(record))
            if group <= last_group or (last is not None and key <= last):
                raise CommandFailed(
                    f"storing the volume failed: {printable(path_of(record))!r} came out of order"
                )
            last = key
        self._last = group, last

    def _write(self, file: _GrowingFile, data: bytes) -> None:
        try:
            file.write(data)
        except OSError as error:
            raise _cannot_write(self._directory, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._frames, self._groups, self._packs, self._doubted):
            try:
                file.close()
            except OSError:  # it could not be flushed: only what `packs` vouches for will be used
                continue


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run that died has left: packs, the frames in them, and the groups that these frames make whole."""

    directory: Path
    packs: dict[str, PackInfo]
    excludes: Excludes
    whole_groups: int  # groups with a lower number have all their frames
    frames_bytes: int
    groups_bytes: int
    doubted: frozenset[bytes] = frozenset()  # paths of entries that must be read again

    def frames(self) -> Iterator[FrameLocation]:
        return parse_frames(file_blocks(self.directory / "frames", self.frames_bytes))

    def groups(self) -> Iterator[tuple[int, list[bytes]]]:
        blocks = file_blocks(self.directory / "groups", self.groups_bytes)
        for number, records in parse_groups(distrusted(blocks, self.doubted)):
            if number >= self.whole_groups:
                return
            yield number, records


def find_checkpoints(directory: Path) -> list[Checkpoint]:
    """The usable ones of those in `directory`, which are named by backup ids, newest last: each has something that the
    others may lack; of many, the newest few have nearly all. Unusable ones are no error. How old they are says nothing of
    the packs that they name, which the store's clock says.
    """
    try:
        names = sorted(path.name for path in directory.iterdir() if is_backup_id(path.name))
    except OSError:
        return []
    usable: list[Checkpoint] = []
    for name in reversed(names):
        if len(usable) == _MOST_USABLE:
            break
        try:
            found = _load(directory / name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if found is not None:
            usable.append(found)
    return usable[::-1]


def any_packs(directory: Path) -> bool:
    """Whether a run whose checkpoint is in `directory` has committed a pack. Nothing is read, however large the checkpoints are."""
    try:
        return any(path.stat().st_size for path in directory.glob("*/packs"))
    except OSError:
        return False


def remove_checkpoints(directory: Path) -> None:
    """All those of a volume, or the one in `directory`, once they are worth nothing."""
    shutil.rmtree(directory, ignore_errors=True)


def _load(directory: Path) -> Checkpoint | None:
    """None if no pack was committed. Raises ValueError, KeyError, TypeError, AttributeError or OSError for what is damaged."""
    document = unseal((directory / "run.json").read_bytes())
    if document["version"] != _VERSION:
        return None
    packs = {name: PackInfo(name, size, size, digest) for name, size, digest in document["packs"]}
    frames = groups = (0, "")
    for line in (directory / "packs").read_text().splitlines(keepends=True):
        text, _, digest = line.rpartition(" ")
        if digest != f"{blake3(text.encode()).hexdigest()}\n":
            break  # cut off when the run died; what came before it is good
        name, size, pack_digest, frames_size, frames_digest, groups_size, groups_digest = text.split(" ")
        packs[name] = PackInfo(name, int(size), int(size), pack_digest)
        frames, groups = (int(frames_size), frames_digest), (int(groups_size), groups_digest)
    if not frames[0]:
        return None
    if not all(is_pack_name(name) for name in packs):
        raise ValueError("it names what is no pack")
    for part, (size_bytes, expected) in (("frames", frames), ("groups", groups)):
        if digested(file_blocks(directory / part, size_bytes)).hex != expected:
            raise ValueError(f"{part} is damaged")
    last = -1
    for location in parse_frames(file_blocks(directory / "frames", frames[0])):
        last = location.group
    # The group of the last frame may have been cut short; its frames are known by name all the same.
    excludes = Excludes(tuple(document["exclude"]), bool(document["exclude_caches"]))
    doubted = frozenset((directory / "doubted").read_bytes().split(b"\0")[:-1])
    return Checkpoint(directory, packs, excludes, last, frames[0], groups[0], doubted)


def _cannot_write(directory: Path, error: OSError) -> VolferryError:
    return VolferryError(f"cannot write to the state directory {directory}: {reason(error)}")
