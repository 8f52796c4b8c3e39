"""Packs: store objects made of frames, one after another; each is a valid `.tar.zst` continuation of the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from volferry.archive.digests import ObjectHasher
from volferry.archive.index import FrameLocation
from volferry.model import PackInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.archive.frames import Frame

PACK_BYTES = 1 << 30
PACK_DIGEST = "xxh128"
_SMALLEST_PACK_BYTES = 64 << 20
_SHARE_OF_RUN = 16


class ObjectSink(Protocol):
    """An object that is being written. It exists once `commit` returned, and not at all after `abort`."""

    def write(self, data: bytes) -> None: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...


class PackWriter:
    """Writes frames into packs of up to about `pack_bytes`, and says where each went.

    Packs grow with the run: a sixteenth of what it has stored so far, at least 64 MiB. So a run that dies loses little
    of its work, and a large volume does not become thousands of objects. A new pack starts at a group's first frame,
    or inside a group that alone fills a pack. `open_pack(name)` opens the object; a pack is committed before the next one is opened, so that a run that dies leaves whole packs behind, and
    `on_committed` is told before any frame of the next one is placed.
    """

    def __init__(
        self,
        backup_id: str,
        open_pack: Callable[[str], ObjectSink],
        *,
        on_committed: Callable[[PackInfo], None],
        pack_bytes: int = PACK_BYTES,
    ) -> None:
        self._backup_id = backup_id
        self._open_pack = open_pack
        self._on_committed = on_committed
        self._pack_bytes = pack_bytes
        self._sink: ObjectSink | None = None
        self._hasher = ObjectHasher(PACK_DIGEST)
        self._offset = 0
        self._group = -1
        self._group_bytes = 0
        self._committed_bytes = 0
        self.packs: list[PackInfo] = []

    def add(self, frame: Frame) -> FrameLocation:
        if frame.group != self._group:
            self._group = frame.group
            self._group_bytes = 0
            boundary = True
        else:
            boundary = self._group_bytes >= self._target_bytes
        if self._sink is not None and self._offset >= self._target_bytes and boundary:
            self._finish_pack()
        if self._sink is None:
            self._sink = self._open_pack(self._name)
        location = FrameLocation(
            frame.group, self._name, self._offset, len(frame.stored), frame.raw_bytes, frame.digest
        )
        self._sink.write(frame.stored)
        self._hasher.update(frame.stored)
        self._offset += len(frame.stored)
        self._group_bytes += len(frame.stored)
        return location

    @property
    def is_open(self) -> bool:
        """Whether there is a pack that is not committed yet."""
        return self._sink is not None

    def finish(self) -> None:
        """Commits the last pack."""
        if self._sink is not None:
            self._finish_pack()

    def abort(self) -> None:
        """Drops the pack that is being written. Packs that were committed stay."""
        if self._sink is not None:
            self._sink.abort()
            self._sink = None

    @property
    def _target_bytes(self) -> int:
        return min(self._pack_bytes, max(_SMALLEST_PACK_BYTES, self._committed_bytes // _SHARE_OF_RUN))

    @property
    def _name(self) -> str:
        return f"{self._backup_id}.{len(self.packs):04d}"

    def _finish_pack(self) -> None:
        assert self._sink is not None  # noqa: S101 -- for the type checker; both callers have looked
        self._sink.commit()
        self.packs.append(PackInfo(self._name, self._offset, self._offset, self._hasher.digest))
        self._sink = None
        self._hasher = ObjectHasher(PACK_DIGEST)
        self._committed_bytes += self._offset
        self._offset = 0
        self._on_committed(self.packs[-1])
