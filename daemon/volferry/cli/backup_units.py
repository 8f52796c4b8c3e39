"""The volumes of one `volferry backup`: those that belong together at once, and otherwise one after another."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry.cli.backup_unit import Afterwards, back_up_unit
from volferry.cli.opened_store import OpenedStore
from volferry.cli.output import say
from volferry.cli.session import Session
from volferry.cli.text import count_text, duration_text, size_text
from volferry.cli.wanted import candidate
from volferry.errors import EngineError, VolferryError, VolumeBusy, described, reason
from volferry.history import Record
from volferry.units import units_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from volferry.cli.wanted import Wanted
    from volferry.model import BackupStats, Volume
    from volferry.operations.not_back import NotBack

_FILES = 1 << 15
_FRESH_SECONDS = 5  # for so long, a list of containers is believed


@dataclass(frozen=True, slots=True)
class Failure:
    volume: str
    error: str
    busy: bool = False  # another run is at work on it
    stopped: bool = False  # containers were, for it

    @property
    def line(self) -> str:
        """The error, with the volume's name."""
        return self.error if repr(self.volume) in self.error else f"{self.volume}: {self.error}"


def _looked_up_again(session: Session, volume: Volume, listed_at: float) -> Volume:
    """As it is now: after hours of other backups, its containers have been made anew. Raises NoSuchVolume."""
    if time.monotonic() - listed_at < _FRESH_SECONDS:
        return volume
    from volferry.engine.bind_mounts import looked_up_again  # noqa: PLC0415 -- docker-py is slow to import
    from volferry.engine.volumes import find_volume  # noqa: PLC0415

    if volume.bind is not None:
        return looked_up_again(session.engine, volume)
    return find_volume(session.engine, volume.name)


def record_of(session: Session, run: str, volume: Volume) -> Record:
    config = session.config
    return Record(config.state_dir, run, session.host, volume.name, config.store_config.place)


@dataclass(slots=True)
class Outcome:
    """What came of all of them."""

    done: list[BackupStats] = field(default_factory=list)
    down: list[NotBack] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def fails(self, volume: str, message: str, *, busy: bool = False, stopped: bool = False) -> None:
        say(f"volferry: {volume}: {message}")
        self.failed.append(Failure(volume, message, busy, stopped))


def back_up(
    session: Session,
    volumes: list[Volume],
    wanted: Callable[[Volume], Wanted],
    *,
    new_store: bool,
    quiet: bool,
) -> Outcome:
    """Prints a line for each backup, but for `quiet`."""
    outcome = Outcome()
    listed_at = time.monotonic()
    _allow_many_files()
    with session.run() as run:
        settings = session.helper_settings()
        opened = OpenedStore(session, run, new_store=new_store)
        for listed in _units(session, {volume.name: (volume, wanted(volume)) for volume in volumes}):
            current = _as_it_is_now(session, listed, listed_at, wanted, run.id, outcome)
            for unit in _units(session, current):
                how = {volume.name: current[volume.name][1] for volume in unit}
                after = Afterwards()
                records = {volume.name: record_of(session, run.id, volume) for volume in unit}
                try:
                    with ExitStack() as stack:
                        for record in records.values():
                            stack.enter_context(record)
                        made = back_up_unit(session, unit, opened, settings, run, how, after)
                        for stats in made:
                            records[stats.ref.volume].made(stats, after.problems)
                except Exception as error:  # whatever it is: it must not cost the other volumes their backups
                    if opened.failed:  # no volume can be backed up
                        raise
                    _unit_failed(session, unit, error, after, outcome)
                else:
                    outcome.done += made
                    if after.problems:
                        message = "; ".join(after.problems)
                        say(f"volferry: {', '.join(records)}: {message}")
                        outcome.failed += [Failure(name, message, stopped=after.stopped) for name in records]
                    for stats in made if not quiet else ():
                        print(_line(stats), flush=True)
                outcome.down += after.down
    return outcome


def _units(session: Session, volumes: Mapping[str, tuple[Volume, Wanted]]) -> list[list[Volume]]:
    companies: dict[str, frozenset[str]] = {}
    if sum(wanted.quiesce == "stop" for _, wanted in volumes.values()) > 1:
        from volferry.engine.company import companies as companies_of  # noqa: PLC0415 -- docker-py is slow to import

        stopped = [volume for volume, wanted in volumes.values() if wanted.quiesce == "stop"]
        ids = {
            use.container_id for volume in stopped for use in volume.uses if use.running and use.read_write
        }
        with suppress(
            EngineError
        ):  # each unit says so itself; what is listed of containers is known all the same
            companies = dict(companies_of(session.engine, ids)) if len(ids) > 1 else {}
    return units_of([candidate(volume, wanted, companies) for volume, wanted in volumes.values()])


def _as_it_is_now(
    session: Session,
    unit: Sequence[Volume],
    listed_at: float,
    wanted: Callable[[Volume], Wanted],
    run: str,
    outcome: Outcome,
) -> dict[str, tuple[Volume, Wanted]]:
    """By name: after hours of other backups, containers have been made anew. One that is gone by now, or whose settings are wrong, costs the others nothing."""
    found = {}
    for volume in unit:
        record = record_of(session, run, volume)
        try:
            now = _looked_up_again(session, volume, listed_at)
            found[volume.name] = now, wanted(now)
        except VolferryError as error:
            with suppress(VolferryError), record:
                raise
            outcome.fails(volume.name, str(error))
    return found


def _unit_failed(
    session: Session, unit: Sequence[Volume], error: Exception, after: Afterwards, outcome: Outcome
) -> None:
    """All of its volumes have: they are backed up together, or not at all."""
    # An OSError is one of the state directory, as when its disk is full.
    message = _of_state_directory(session, error) if isinstance(error, OSError) else described(error)
    for volume in unit:
        mine = message
        if after.blamed and volume.name != after.blamed:
            mine = f"it is backed up together with {after.blamed}, which failed: {message}"
        outcome.fails(volume.name, mine, busy=isinstance(error, VolumeBusy), stopped=after.stopped)


def _allow_many_files() -> None:
    """A volume of a unit takes about ten at a time, and the usual limit is for programs of another time. Not more: programs that hooks run may close each that they could have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _of_state_directory(session: Session, error: OSError) -> str:
    return f"cannot use the state directory {session.config.state_dir}: {reason(error)}"


def _line(stats: BackupStats) -> str:
    parts = [
        str(stats.ref.volume) + "@" + stats.ref.id,
        count_text(stats.entries, "entry", "entries"),
        size_text(stats.source_bytes),
        f"{size_text(stats.stored_bytes)} stored",
        duration_text(stats.seconds),
    ]
    if stats.downtime_seconds:
        parts.append(f"{duration_text(stats.downtime_seconds)} down")
    if stats.findings_total:
        parts.append(count_text(stats.findings_total, "finding"))
    return "  ".join(parts)
