"""`volferry import`: a tar, a directory, an anonymous volume, or what a container has, into a new named volume."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from volferry.cli.options import ConfigOption, EngineOption, JsonOption
from volferry.cli.progress import TerminalObserver
from volferry.cli.restore import VOLUME_NAME
from volferry.cli.session import Session, print_json, say
from volferry.cli.target_volume import check_still_usable, check_usable, made_if_new
from volferry.cli.text import count_text, duration_text, size_text
from volferry.errors import (
    FINDINGS_EXIT_CODE,
    EngineError,
    NoSuchVolume,
    RestoreMismatch,
    UsageError,
    VolferryError,
    VolumeNotEmpty,
    reason,
)
from volferry.model import HostPath, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.archive.foreign_tar import Strip
    from volferry.engine.helper import HelperSettings
    from volferry.operations.places import Place
    from volferry.run import Run

_PASSES = 3
_USUAL_PLACE = "/data"
_TAR_NAME = re.compile(r".*\.(tar|t[gbx]z|tar\.\w+|tzst)")


def import_volume(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A tar (plain, gz, bz2, xz, zst; - for stdin), a directory of the engine's machine, or a volume.",
        ),
    ] = None,
    *,
    into: Annotated[
        str,
        typer.Option("--into", metavar="VOLUME", help="The volume to make; one that is there must be empty."),
    ],
    container: Annotated[
        str | None,
        typer.Option(
            "--container",
            metavar="NAME:PATH",
            help="What a container has at a path: a mount, or what is in its own layer.",
        ),
    ] = None,
    strip: Annotated[
        str | None,
        typer.Option(
            "--strip",
            metavar="N|PATH",
            help="Leave out so many leading parts of the names in a tar; or take only what is below PATH.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label of the new volume.")
    ] = None,
    json: JsonOption = False,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Make a named volume of what is none yet, and compare the two."""
    if (source is None) == (container is None):
        raise UsageError("name what to import: a tar, a directory or a volume, or --container NAME:PATH")
    if not VOLUME_NAME.fullmatch(into):
        raise UsageError(
            f"{into!r} cannot be a volume's name: letters, digits, and then also _ . - (two at least)"
        )
    session = Session.load(config=config, engine=engine)
    labels = dict(_label(text) for text in label or [])
    with session.run() as run:
        session.bring_back()
        session.reap(run)
        settings = session.helper_settings()
        found = (
            _of_container(session, settings, container)
            if container is not None
            else _found(session, settings, source or "")
        )
        if strip is not None and not isinstance(found, _Archive):
            raise UsageError("--strip is for archives: a directory's names are already below it")
        report = _imported(session, run, settings, found, _strip(strip), into, labels)
    if json:
        print_json(report.document)
    else:
        report.print()
    if report.warnings:
        say(f"not all of it could be imported as it was: {count_text(len(report.warnings), 'warning')}")
        return FINDINGS_EXIT_CODE
    return 0


@dataclass(frozen=True, slots=True)
class _Archive:
    """A tar stream: a file, stdin, or what an engine makes of a path in a container."""

    name: str
    opened: Any  # () -> BinaryIO
    strip: int = 0
    place: str = _USUAL_PLACE


@dataclass(frozen=True, slots=True)
class _Mounted:
    """A volume or directory that a helper can mount, and a path below it."""

    name: str
    what: Volume | HostPath
    below: str = ""
    place: str = _USUAL_PLACE


@dataclass(slots=True)
class _Report:
    source: str
    volume: str
    entries: int
    source_bytes: int
    seconds: float
    place: str
    hint: str = ""
    warnings: tuple[str, ...] = ()  # what the volume's file system cannot hold

    @property
    def document(self) -> dict[str, object]:
        return {
            "source": self.source,
            "volume": self.volume,
            "entries": self.entries,
            "source_bytes": self.source_bytes,
            "seconds": self.seconds,
            "warnings": list(self.warnings),
        }

    def print(self) -> None:
        compared = "compared" if self.warnings else "compared and equal"
        print(
            f"imported {self.source} into volume {self.volume}: {count_text(self.entries, 'entry', 'entries')}, "
            f"{size_text(self.source_bytes)}, {compared}, in {duration_text(self.seconds)}"
        )
        print(f"docker run:  -v {self.volume}:{self.place}")
        print(
            f"compose:     volumes: [{self.volume}:{self.place}]   and, at the top level:   "
            f"volumes: {{{self.volume}: {{external: true}}}}"
        )
        if self.hint:
            say(self.hint)


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise UsageError(f"--label {text}: it is KEY=VALUE")
    return key, value


def _strip(text: str | None) -> Strip:
    from volferry.archive.foreign_tar import Strip  # noqa: PLC0415 -- only where it is needed

    if text is None:
        return Strip()
    if text.isdecimal():
        return Strip(int(text))
    parts = tuple(part for part in text.split("/") if part not in {"", "."})
    if not parts or ".." in parts:
        raise UsageError(f"--strip {text}: it is a number, or a path in the archive")
    return Strip(below=parts)


def _found(session: Session, settings: HelperSettings, source: str) -> _Archive | _Mounted:
    """The source that a word names. Raises UsageError, EngineError."""
    from volferry.engine.host_paths import kind_of_path  # noqa: PLC0415
    from volferry.engine.volumes import find_volume  # noqa: PLC0415

    if source == "-":
        return _Archive("stdin", lambda: sys.stdin.buffer)
    here = Path(source).expanduser()
    if here.is_file() or here.is_fifo():
        return _Archive(source, lambda: _opened(here))
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
        return _Mounted(path, HostPath("source", path))
    try:
        return _Mounted(f"volume {source}", find_volume(session.engine, source))
    except NoSuchVolume as error:
        raise NoSuchVolume(f"there is no file {source}, and {error}") from error


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise VolferryError(f"cannot read {path}: {reason(error)}") from error


def _of_container(session: Session, settings: HelperSettings, text: str) -> _Archive | _Mounted:
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
            return _Mounted(shown, find_volume(session.engine, best["Name"]), below, str(wanted))
        if kind_of_path(session.engine, settings.image, best["Source"]) == "directory":
            return _Mounted(shown, HostPath("source", best["Source"]), below, str(wanted))
    kind = kind_in_container(session.engine, name, str(wanted))
    if kind is None:
        raise EngineError(f"there is no {wanted} in container {name}")
    if kind == "other":
        raise EngineError(f"{wanted} in container {name} is neither a directory nor a file")
    archive = archive_of_path(session.engine, name, str(wanted))
    place = str(wanted if kind == "directory" else wanted.parent)
    return _Archive(shown, lambda: _Stream(archive), strip=1 if kind == "directory" else 0, place=place)


class _Stream(io.RawIOBase):
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


def _imported(
    session: Session,
    run: Run,
    settings: HelperSettings,
    found: _Archive | _Mounted,
    strip: Strip,
    into: str,
    labels: dict[str, str],
) -> _Report:
    from volferry.archive.foreign_tar import ForeignTar, Strip, decompressed  # noqa: PLC0415
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.operations.archive_members import ArchiveMembers  # noqa: PLC0415
    from volferry.operations.places import Place  # noqa: PLC0415
    from volferry.operations.tar_import import import_tar  # noqa: PLC0415

    started = time.monotonic()
    with ExitStack() as stack:
        observer = stack.enter_context(TerminalObserver(into))
        if isinstance(found, _Archive):
            chosen = strip if strip.count else Strip(found.strip)
            stream = io.BufferedReader(cast("io.RawIOBase", found.opened()), 1 << 20)
            # Its beginning is looked at before anything is made.
            members = stack.enter_context(ArchiveMembers(run.spool / "members"))
            archive = ForeignTar(decompressed(stream), chosen, members.add)
            target = stack.enter_context(_target(session, run, settings, into, labels))
            free = partial(check_still_usable, session, into)
            warnings = import_tar(archive, members, chosen.count, target, into, run.spool, observer, free)
            seen = archive.seen
            if chosen.below and not seen.tops:
                raise EngineError(f"nothing in {found.name} is below {'/'.join(chosen.below)}")
            if chosen.count and not seen.tops:
                raise EngineError(f"--strip {chosen.count} leaves nothing of the names in {found.name}")
            hint = ""
            if only := archive.only_directory if not strip.count else None:
                hint = (
                    f"all of it is in the directory {only}: --strip {chosen.count + 1} would leave that out"
                )
            return _Report(
                found.name,
                into,
                seen.entries,
                seen.source_bytes,
                _since(started),
                found.place,
                hint,
                warnings,
            )
        reading = stack.enter_context(open_helper(session.engine, run, settings, [found.what]))
        directory = reading.directory(found.what.name)
        source = Place(reading, f"{directory}/{found.below}" if found.below not in {"", "."} else directory)
        _check_directory(source, found)
        target = stack.enter_context(_target(session, run, settings, into, labels))
        entries, size = _copied(session, source, target, into, run, observer)
        return _Report(found.name, into, entries, size, _since(started), found.place)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _check_directory(source: Place, found: _Mounted) -> None:
    from volferry.archive.commands import kind_command  # noqa: PLC0415
    from volferry.errors import CommandFailed  # noqa: PLC0415
    from volferry.operations.transfer import run as run_there  # noqa: PLC0415

    try:
        kind = run_there(source, kind_command(source.directory), "looking")
    except CommandFailed as error:
        raise EngineError(f"there is no {found.name}") from error
    if kind != b"d":
        raise EngineError(f"{found.name} is no directory")


def _copied(
    session: Session, source: Place, target: Place, volume: str, run: Run, observer: TerminalObserver
) -> tuple[int, int]:
    """Entries and bytes. What is written meanwhile is sent again; a source that does not hold still is an error."""
    from volferry.operations.restore import unmark  # noqa: PLC0415
    from volferry.operations.transfer import Transfer  # noqa: PLC0415

    transfer = Transfer(source, target, run.spool / "import", observer)
    for left in reversed(range(_PASSES)):
        transfer.run(last=not left)
        try:
            listing = transfer.check(checksum=False)
        except RestoreMismatch as error:
            if not left:
                raise RestoreMismatch(
                    f"{error}: it is written to meanwhile; stop what writes to it, and import it again"
                ) from error
            observer.note("it has changed meanwhile: once more")
        else:
            check_still_usable(session, volume)
            unmark(target.helper, volume)
            transfer.settle_root()
            return listing.entries, listing.source_bytes
    raise AssertionError


@contextmanager
def _target(
    session: Session, run: Run, settings: HelperSettings, into: str, labels: dict[str, str]
) -> Iterator[Place]:
    """The volume to fill, made if need be, with a helper that may write; gone again if it was made and something fails."""
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.engine.volumes import find_volume  # noqa: PLC0415
    from volferry.operations.places import Place  # noqa: PLC0415
    from volferry.operations.restore import is_empty, mark  # noqa: PLC0415

    try:
        volume, new = find_volume(session.engine, into), False
    except NoSuchVolume:
        volume, new = Volume(into, "local", {}, labels, "local", ""), True
    check_usable(volume)
    with (
        made_if_new(session, volume, new=new) as found,
        open_helper(session.engine, run, settings, [found], write=True) as helper,
    ):
        if not new and not is_empty(helper, into):
            raise VolumeNotEmpty(f"volume {into} holds data: import into a new one")
        try:
            # Half of it must not be taken for the whole, whatever happens to us.
            mark(helper, into, "import")
            yield Place(helper, helper.directory(into))
        except BaseException:
            if not new:
                say(f"volume {into}, which was there and empty, holds a part of it")
            raise
