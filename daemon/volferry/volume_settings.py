"""What can be said of volumes: for all of them, by rule, or by label."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from volferry.checked import Section
from volferry.retention import Keep
from volferry.schedule import Schedule, Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.model import Volume

# In force where nothing says otherwise.
QUIESCE_AFTER = Span("5m")
MAX_DOWNTIME = Span("1h")


class HostHooks(Section, frozen=True):
    """Commands on the machine that volferry runs on, for a shell; of containers, labels say them."""

    pre: Annotated[str | None, Meta(description="Before the backup; if it fails, there is none.")] = None
    post: Annotated[str | None, Meta(description="Afterwards, whatever happened.")] = None
    on_error: Annotated[str | None, Meta(description="Where the backup has failed, before `post`.")] = None
    timeout: Annotated[Span, Meta(description="How long each may take: 90s, 10m, 1h30m.")] = Span("10m")


class VolumeSettings(Section, frozen=True):
    """All of them."""

    enable: Annotated[
        bool | None,
        Meta(description="Whether the daemon backs it up; an anonymous one only if this says so."),
    ] = None
    schedule: Annotated[
        Schedule | None,
        Meta(
            description="When the daemon backs it up: cron expressions, @daily or `every 6h`, also several."
        ),
    ] = None
    exclude: Annotated[
        tuple[str, ...] | None, Meta(description="What is left out: patterns as in a .gitignore.")
    ] = None
    exclude_caches: Annotated[
        bool | None, Meta(description="Leave out directories that a CACHEDIR.TAG marks.")
    ] = None
    one_file_system: Annotated[
        bool | None, Meta(description="Leave out what is mounted below the volume's directory.")
    ] = None
    quiesce: Annotated[
        Literal["none", "pause", "stop"] | None,
        Meta(description="What is done to containers that write to the volume while it is read."),
    ] = None
    warm: Annotated[
        bool | None,
        Meta(
            description="Read the volume once before that too, and only what changed since while they stand still."
        ),
    ] = None
    quiesce_after: Annotated[
        Span | None,
        Meta(description="A container that started less than this ago is not stopped by a scheduled run."),
    ] = None
    quiesce_window: Annotated[
        Span | None,
        Meta(description="How long after its scheduled time a run may stop containers; without it, always."),
    ] = None
    group: Annotated[
        Literal["none", "project"] | None,
        Meta(
            description="`project`: it is backed up together with all other volumes of its compose project that say so."
        ),
    ] = None
    max_downtime: Annotated[
        Span | None,
        Meta(description="After so long, what was stopped is started again, and the backup fails."),
    ] = None
    suspicious: Annotated[
        bool | None, Meta(description="Whether a backup is compared with the one before; without it, it is.")
    ] = None
    hooks: Annotated[
        HostHooks | None, Meta(description="Commands on this machine, before and after a backup.")
    ] = None
    ping: Annotated[
        str | None, Meta(description="A URL that is asked for when a backup begins, is done, or has failed.")
    ] = None
    keep: Annotated[Keep | None, Meta(description="Which backups `prune` keeps; without it, all.")] = None


class Rule(VolumeSettings, frozen=True):
    """Settings for the volumes that it fits; of several rules, the last that says something of a key wins."""

    match: Annotated[str | None, Meta(description="A shell pattern for the volume's name.")] = None
    project: Annotated[str | None, Meta(description="A compose project that the volume belongs to.")] = None
    label: Annotated[str | None, Meta(description="KEY or KEY=VALUE, a label of the volume.")] = None

    def fits(self, volume: Volume) -> bool:
        key, equals, value = (self.label or "").partition("=")
        return (
            (self.match is None or fnmatchcase(volume.name, self.match))
            and (self.project is None or self.project in volume.projects)
            and (not key or (key in volume.labels and (not equals or volume.labels[key] == value)))
        )


def faults_of(settings: VolumeSettings) -> Iterator[tuple[str, str]]:
    """Keys with values of the right type that cannot be used all the same."""
    if settings.ping is not None and not re.match(r"https?://[^/]", settings.ping):
        yield "ping", f"{settings.ping!r} is no URL: use one such as https://hc-ping.com/your-uuid"
    if settings.max_downtime is not None and not settings.max_downtime.delta:
        yield "max_downtime", "it should be 1s at least"
