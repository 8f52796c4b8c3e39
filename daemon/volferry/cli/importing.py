"""`volferry import`: a tar, a directory, an anonymous volume, or what a container has, into a new named volume."""

from __future__ import annotations

import io
import os
import shlex
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

import typer

from volferry.cli.import_source import Archive, Mounted, source_in_container, source_named
from volferry.cli.options import ConfigOption, EngineOption, JsonOption
from volferry.cli.output import print_json, say
from volferry.cli.progress import TerminalObserver
from volferry.cli.restore import VOLUME_NAME
from volferry.cli.session import Session
from volferry.cli.target_volume import check_still_usable, check_usable, made_if_new
from volferry.cli.text import count_text, duration_text, size_text
from volferry.errors import (
    FINDINGS_EXIT_CODE,
    DamagedArchive,
    EngineError,
    NoSuchVolume,
    RestoreMismatch,
    SameData,
    UsageError,
    VolumeNotEmpty,
)
from volferry.model import Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volferry.archive.foreign_tar import Strip
    from volferry.engine.helper import Helper, HelperSettings
    from volferry.operations.places import Place
    from volferry.operations.squashed import Ground
    from volferry.run import Run

_PASSES = 3


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
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="First delete what an interrupted import has left in the volume, and whatever was written to it since.",
        ),
    ] = False,
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
            source_in_container(session, settings, container)
            if container is not None
            else source_named(session, settings, source or "")
        )
        if strip is not None and not isinstance(found, Archive):
            raise UsageError("--strip is for archives: a directory's names are already below it")
        filling = _Filling(into, labels, _command(source, container, strip, into, engine), replace=replace)
        report = _imported(session, run, settings, found, _strip(strip), filling)
    if json:
        print_json(report.document)
    else:
        report.print()
    if report.warnings:
        say(f"not all of it could be imported as it was: {count_text(len(report.warnings), 'warning')}")
        return FINDINGS_EXIT_CODE
    return 0


@dataclass(frozen=True, slots=True)
class _Filling:
    """The volume to fill, the labels that it gets if it is new, and the command that fills it."""

    into: str
    labels: dict[str, str]
    command: str
    replace: bool


def _command(
    source: str | None, container: str | None, strip: str | None, into: str, engine: str | None
) -> str:
    """As a person types it, for the next time, wherever that is: labels are on the volume by then."""
    here = os.path.abspath(source) if source is not None and os.path.isfile(source) else source  # noqa: PTH100, PTH113 -- as text
    which = [here] if here is not None else ["--container", container or ""]
    stripped = ["--strip", strip] if strip is not None else []
    there = ["--engine", engine] if engine is not None else []
    return shlex.join(["volferry", "import", *which, *stripped, "--into", into, "--replace", *there])


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


@contextmanager
def _named_if_damaged(archive: str) -> Iterator[None]:
    try:
        yield
    except DamagedArchive as error:
        raise DamagedArchive(f"{archive}: {error}") from error


def _imported(
    session: Session,
    run: Run,
    settings: HelperSettings,
    found: Archive | Mounted,
    strip: Strip,
    filling: _Filling,
) -> _Report:
    from volferry.archive.foreign_tar import ForeignTar, Strip, decompressed  # noqa: PLC0415
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.operations.archive_members import ArchiveMembers  # noqa: PLC0415
    from volferry.operations.tar_import import import_tar  # noqa: PLC0415

    started = time.monotonic()
    into = filling.into
    with ExitStack() as stack:
        stack.enter_context(_named_if_damaged(found.name))
        observer = stack.enter_context(TerminalObserver(into))
        if isinstance(found, Archive):
            chosen = strip if strip.count else Strip(found.strip)
            stream = io.BufferedReader(cast("io.RawIOBase", found.opened()), 1 << 20)
            # Its beginning is looked at before anything is made.
            members = stack.enter_context(ArchiveMembers(run.spool / "members"))
            archive = ForeignTar(decompressed(stream), chosen, members.add)
            # As a file system leaves a file whose data it had not written when the power failed.
            if archive.is_empty:
                raise DamagedArchive(
                    "it holds nothing but the zeros with which a tar ends: is it the right file?"
                )
            target, ground = stack.enter_context(_target(session, run, settings, filling))
            free = partial(check_still_usable, session, into)
            warnings = import_tar(
                archive, members, chosen.count, target, into, run.spool, observer, free, ground
            )
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
        if isinstance(found.what, Volume) and found.what.name != into:
            stack.enter_context(session.holding([found.what.name]))
        reading = stack.enter_context(open_helper(session.engine, run, settings, [found.what]))
        source = _place(reading, reading.directory(found.what.name), found)
        apart = partial(_check_apart, found.name, source, into)
        target, ground = stack.enter_context(_target(session, run, settings, filling, check=apart))
        entries, size, warnings = _copied(session, source, target, ground, into, run, observer)
        return _Report(found.name, into, entries, size, _since(started), found.place, warnings=warnings)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _place(helper: Helper, mounted: str, found: Mounted) -> Place:
    """The directory to import. Raises EngineError where there is none: a link that somebody has made in the volume may lead to what is the helper's own."""
    from volferry.archive.commands import real_path_command  # noqa: PLC0415
    from volferry.errors import CommandFailed  # noqa: PLC0415
    from volferry.operations.places import Place  # noqa: PLC0415
    from volferry.operations.streams import run as run_there  # noqa: PLC0415

    wanted = mounted if found.below in {"", "."} else f"{mounted}/{found.below}"
    try:
        path = os.fsdecode(run_there(helper, real_path_command(wanted), "looking"))
    except CommandFailed as error:
        raise EngineError(f"there is no directory {found.name}") from error
    if path != mounted and not path.startswith(f"{mounted}/"):
        raise EngineError(f"{found.name} leads out of what is mounted there: name the path that it leads to")
    return Place(helper, path)


def _copied(
    session: Session,
    source: Place,
    target: Place,
    ground: Ground,
    volume: str,
    run: Run,
    observer: TerminalObserver,
) -> tuple[int, int, tuple[str, ...]]:
    """Entries, bytes, and what the target cannot hold. What is written meanwhile is sent again; a source that does not hold still is an error."""
    from volferry.operations.restore import unmark, warnings_of  # noqa: PLC0415
    from volferry.operations.transfer import Transfer  # noqa: PLC0415

    transfer = Transfer(source, target, run.spool / "import", observer, lesser=True, ground=ground)
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
            transfer.set_modes(listing)
            check_still_usable(session, volume)
            unmark(target.helper, volume)
            transfer.settle_root()
            warnings = warnings_of(transfer.log, transfer.differing, observer) if transfer.log else ()
            return listing.entries, listing.source_bytes, warnings
    raise AssertionError


def _check_apart(name: str, source: Place, into: str, target: Place) -> None:
    """Raises SameData."""
    from volferry.operations.same_data import find_overlap  # noqa: PLC0415

    found = find_overlap(source.helper, [source.directory], target.helper, [target.directory], below=True)
    if found is not None:
        does = "is the very data of" if found.how == "is" else "lies in"
        raise SameData(f"volume {into} {does} {name}: import into another volume")


@contextmanager
def _target(
    session: Session,
    run: Run,
    settings: HelperSettings,
    filling: _Filling,
    *,
    check: Callable[[Place], None] = lambda _: None,
) -> Iterator[tuple[Place, Ground]]:
    """The volume to fill, made if need be, with a helper that may write, and what it is written on; gone again if it was made and something
    fails. It is empty, or holds the rest of an import that broke off, which goes; nothing is changed there before `check`.
    """
    from volferry.archive.commands import empty_command  # noqa: PLC0415
    from volferry.engine.volumes import find_volume  # noqa: PLC0415
    from volferry.operations.places import Place  # noqa: PLC0415
    from volferry.operations.restore import begin, is_empty, what_is_left  # noqa: PLC0415
    from volferry.operations.streams import run as run_there  # noqa: PLC0415
    from volferry.operations.unfinished_paths import IMPORT, is_rest_of_import  # noqa: PLC0415
    from volferry.restore_record import begun_restore, recorded_restore  # noqa: PLC0415

    into = filling.into
    try:
        volume, new = find_volume(session.engine, into), False
    except NoSuchVolume:
        volume, new = Volume(into, "local", {}, filling.labels, "local", ""), True
    check_usable(volume)
    with (
        session.holding([into], write=True),
        made_if_new(session, run, settings, volume, new=new) as (_, helper),
    ):
        again = not new and not is_empty(helper, into)
        # Whoever writes to it may have made the mark: this machine must have begun an import.
        begun = begun_restore(session.state_of_content(into), running=False)
        if again and (begun is None or begun.backup or not is_rest_of_import(helper, into)):
            raise VolumeNotEmpty(f"volume {into} holds data: import into a new one")
        # A service may have written to it since.
        if again and not filling.replace:
            raise VolumeNotEmpty(
                f"volume {into} holds the rest of an interrupted import: --replace deletes that, and whatever was written since, and begins anew"
            )
        directory = helper.directory(into)
        check(Place(helper, directory))
        try:
            with recorded_restore(
                session.state_of_content(into),
                "",
                left=lambda: "nothing" if new else what_is_left(helper, into),
                command=filling.command,
            ):
                # Half of it must not be taken for the whole, whatever happens to us.
                ground = begin(helper, into, IMPORT)
                with ground.given_back(helper, directory):
                    if again:
                        run_there(helper, empty_command(directory), "emptying the volume")
                    yield Place(helper, directory), ground
        except BaseException:
            if not new:
                say(
                    f"volume {into}, which was there and empty, may hold a part of it: the same import, with --replace, begins anew"
                )
            raise
