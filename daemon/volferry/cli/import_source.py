"""The source of an import: an archive, or a directory that a helper can mount."""

from __future__ import annotations

import io
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from volferry.errors import EngineError, NoSuchVolume, UsageError, VolferryError, reason
from volferry.model import HostPath, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.cli.session import Session
    from volferry.engine.helper import HelperSettings

_USUAL_PLACE = "/data"
_TAR_NAME = re.compile(r".*\.(tar|t[gbx]z|tar\.\w+|tzst)")


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar stream: a file, stdin, or what an engine makes of a path in a container."""

    name: str
    opened: Any  # () -> BinaryIO
    strip: int = 0
    place: str = _USUAL_PLACE


@dataclass(frozen=True, slots=True)
class Mounted:
    """A volume or directory that a helper can mount, and a path below it."""

    name: str
    what: Volume | HostPath
    below: str = ""
    place: str = _USUAL_PLACE


def source_named(session: Session, settings: HelperSettings, source: str) -> Archive | Mounted:
    """The source that a word names. Raises UsageError, EngineError."""
    from volferry.engine.host_paths import kind_of_path  # noqa: PLC0415
    from volferry.engine.volumes import find_volume  # noqa: PLC0415

    if source == "-":
        return Archive("stdin", lambda: sys.stdin.buffer)
    here = Path(source).expanduser()
    if here.is_file() or here.is_fifo():
        return Archive(source, lambda: _opened(here))
    if "/" in source or source in {".", ".."} or _TAR_NAME.fullmatch(source):
        if _TAR_NAME.fullmatch(source) and not here.is_dir():
            raise UsageError(f"there is no file {source}")
        if not session.engine.shares_our_kernel and not source.startswith("/"):
            raise UsageError(
                f"{source} is to be on the machine of {session.engine.url}: give an absolute path"
            )
        path = str(here.resolve()) if session.engine.shares_our_kernel else source
        if kind_of_path(session.engine, settings.image, path) != "directory":
            raise EngineError(f"there is no directory {path} on the machine of {session.engine.url}")
        return Mounted(path, HostPath("source", path))
    try:
        return Mounted(f"volume {source}", find_volume(session.engine, source))
    except NoSuchVolume as error:
        path = (
            f"./{source}"
            if session.engine.shares_our_kernel
            else f"its absolute path on {session.engine.url}"
        )
        hint = f"; a directory is named by a path: {path}" if here.is_dir() else ""
        raise NoSuchVolume(f"there is no file {source}, and {error}{hint}") from error


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise VolferryError(f"cannot read {path}: {reason(error)}") from error


def source_in_container(session: Session, settings: HelperSettings, text: str) -> Archive | Mounted:
    """The source at a path of a container. Raises UsageError, NoSuchContainer, EngineError."""
    from volferry.engine.host_paths import archive_of_path, kind_in_container, kind_of_path  # noqa: PLC0415
    from volferry.engine.volumes import container_mounts, find_volume  # noqa: PLC0415

    name, colon, path = text.rpartition(":")
    if not colon or not name or not path.startswith("/"):
        raise UsageError(f"--container {text}: it is NAME:PATH, and the path is absolute")
    wanted = PurePosixPath(os.path.normpath(path))
    if wanted == PurePosixPath("/"):
        raise UsageError("a container's whole file system is no volume: name a path in it")
    mounts = container_mounts(session.engine, name)
    best = max(
        (mount for mount in mounts if wanted.is_relative_to(mount["Destination"])),
        key=lambda mount: len(PurePosixPath(mount["Destination"]).parts),
        default=None,
    )
    shown = f"{name}:{wanted}"
    if best is not None and best.get("Type") in {"volume", "bind"}:
        below = str(wanted.relative_to(best["Destination"]))
        if best["Type"] == "volume":
            return Mounted(shown, find_volume(session.engine, best["Name"]), below, str(wanted))
        if kind_of_path(session.engine, settings.image, best["Source"]) == "directory":
            return Mounted(shown, HostPath("source", best["Source"]), below, str(wanted))
    kind = kind_in_container(session.engine, name, str(wanted))
    if kind is None:
        raise EngineError(f"there is no {wanted} in container {name}")
    if kind == "other":
        raise EngineError(f"{wanted} in container {name} is neither a directory nor a file")
    archive = archive_of_path(session.engine, name, str(wanted))
    place = str(wanted if kind == "directory" else wanted.parent)
    return Archive(shown, lambda: _Pieces(archive), strip=1 if kind == "directory" else 0, place=place)


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
