"""How volumes are backed up: by the command line, else by what is in force for each; of several that belong together, by the strictest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from volferry.errors import UsageError
from volferry.schedule import Span
from volferry.units import Candidate
from volferry.volume_settings import MAX_DOWNTIME, QUIESCE_AFTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from volferry.archive.excludes import Excludes
    from volferry.cli.session import Session
    from volferry.labels import ContainerCommand, Dump
    from volferry.model import Volume
    from volferry.operations.quiesce import Mode
    from volferry.volume_settings import HostHooks


def _span(span: Span) -> timedelta:
    return span.delta


_BY_STRICTNESS: tuple[Mode, ...] = ("none", "pause", "stop")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How one volume is backed up."""

    excludes: Excludes
    one_file_system: bool
    quiesce: Mode
    warm: bool
    full: bool
    suspicious: bool
    host_hooks: HostHooks
    pre: list[ContainerCommand]
    post: list[ContainerCommand]
    on_error: list[ContainerCommand]
    dumps: list[Dump]
    max_downtime: timedelta | None  # None where nobody says it
    young: timedelta | None  # containers that run for less are not stopped; None where nobody says it
    by_project: bool = False  # together with all volumes of its compose project


def wanted_of(
    session: Session,
    volume: Volume,
    *,
    exclude: list[str],
    exclude_caches: bool,
    one_file_system: bool | None,
    quiesce: Mode | None,
    warm: bool | None,
    full: bool,
    scheduled: bool = False,
) -> Wanted:
    """The options of the command line, else those in force for the volume. Raises ConfigError, UsageError for a pattern that
    cannot be understood.
    """
    from volferry.archive.excludes import Excludes  # noqa: PLC0415
    from volferry.labels import dumps_of, hooks_of  # noqa: PLC0415
    from volferry.volume_settings import HostHooks  # noqa: PLC0415

    settings = session.config.settings_of(volume)
    excludes = Excludes(
        (*(settings.exclude or ()), *exclude), bool(settings.exclude_caches) or exclude_caches
    )
    try:
        excludes.check()
    except ValueError as error:
        raise UsageError(f"volume {volume.name}: {error}") from error
    uses = [session.config.labels.heard_of(use) for use in volume.uses]
    running = [use for use in uses if use.state == "running"]
    return Wanted(
        excludes=excludes,
        one_file_system=bool(settings.one_file_system if one_file_system is None else one_file_system),
        quiesce=quiesce or settings.quiesce or "none",
        warm=bool(settings.warm) if warm is None else warm,
        full=full,
        suspicious=settings.suspicious is not False,
        host_hooks=settings.hooks or HostHooks(),
        pre=hooks_of(running, "pre"),
        post=hooks_of(running, "post"),
        on_error=hooks_of(running, "on-error"),
        dumps=dumps_of(volume.name, uses),
        max_downtime=settings.max_downtime.delta if settings.max_downtime else None,
        young=(settings.quiesce_after.delta if settings.quiesce_after else None)
        if scheduled
        else timedelta(),
        by_project=settings.group == "project",
    )


@dataclass(frozen=True, slots=True)
class WantedTogether:
    """What holds for all volumes of a unit."""

    quiesce: Mode
    warm: bool
    max_downtime: timedelta
    young: timedelta

    @classmethod
    def of(cls, wanted: Iterable[Wanted]) -> WantedTogether:
        """The strictest of each that anybody says, by volumes whose writers are to stand still."""
        every = list(wanted)
        found = [each for each in every if each.quiesce != "none"] or every
        spans = [each.max_downtime for each in found if each.max_downtime is not None]
        young = [each.young for each in found if each.young is not None]
        return cls(
            quiesce=max((each.quiesce for each in found), key=_BY_STRICTNESS.index),
            warm=any(each.warm for each in found),
            max_downtime=min(spans, default=MAX_DOWNTIME.delta),
            young=max(young, default=QUIESCE_AFTER.delta),
        )


@dataclass(slots=True)
class SharedHooks:
    """Those that exactly these volumes have: each is run once for all of them."""

    volumes: tuple[str, ...]
    host: HostHooks
    pre: list[ContainerCommand]
    post: list[ContainerCommand]
    on_error: list[ContainerCommand]


def shared_hooks(wanted: Mapping[str, Wanted]) -> list[SharedHooks]:
    """Of a unit, by the names of its volumes: those on this machine first, then those in containers, by the volumes that have them."""
    from msgspec.structs import replace  # noqa: PLC0415

    from volferry.volume_settings import HostHooks  # noqa: PLC0415

    found: dict[tuple[str, ...], SharedHooks] = {}

    def of(volumes: Sequence[str]) -> SharedHooks:
        key = tuple(volumes)
        return found.setdefault(key, SharedHooks(key, HostHooks(timeout=Span("0s")), [], [], []))

    for kind in ("pre", "post", "on_error"):
        lines: dict[str, list[str]] = {}
        for name, each in wanted.items():
            if line := getattr(each.host_hooks, kind):
                lines.setdefault(line, []).append(name)
        for line, names in lines.items():
            hooks = of(names)
            timeout = max(
                (hooks.host.timeout, *(wanted[name].host_hooks.timeout for name in names)), key=_span
            )
            hooks.host = replace(hooks.host, **{kind: line, "timeout": timeout})
    for kind in ("pre", "post", "on_error"):
        having: dict[tuple[str, tuple[str, ...]], tuple[ContainerCommand, list[str]]] = {}
        for name, each in wanted.items():
            for command in getattr(each, kind):
                key = (command.container_id, command.arguments)
                having.setdefault(key, (command, []))[1].append(name)
        for command, names in having.values():
            getattr(of(names), kind).append(command)
    return list(found.values())


def candidate(
    volume: Volume, wanted: Wanted, companies: Mapping[str, frozenset[str]] | None = None
) -> Candidate:
    """By which it is found out what it belongs to. `companies` has the ids of containers that are stopped along with others, by those."""
    hooks = (*wanted.pre, *wanted.post, *wanted.on_error)
    hooked = frozenset(command.container_id for command in hooks)
    found = companies or {}
    along = frozenset(each for use in volume.uses for each in found.get(use.container_id, ()))
    return Candidate(volume, wanted.quiesce != "none", hooked, wanted.by_project, along)
