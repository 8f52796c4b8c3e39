"""The plan of a migration and its result, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from volferry.cli.output import print_json, say
from volferry.cli.text import count_text, duration_text, size_text, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from volferry.engine.client import Engine
    from volferry.operations.migration import Leg
    from volferry.operations.migration_plan import MigrationPlan, PlannedVolume

_STATES = {
    "new": "is made",
    "empty": "is there, empty",
    "resumed": "is gone on with",
    "existing": "holds data",
}


def print_plan(plan: MigrationPlan, source: Engine, target: Engine, *, json: bool, dry_run: bool) -> None:
    """On stdout where it is all there is, on stderr before the work."""
    if json:
        if dry_run:
            print_json(
                {
                    "source": source.url,
                    "target": target.url,
                    "volumes": [_planned(each) for each in plan.volumes],
                    **_carried(plan),
                    "obstacles": plan.obstacles,
                    "notes": plan.notes,
                }
            )
        return
    show = print if dry_run else say
    rows = [
        (
            each.source.name,
            each.target.name,
            each.target.driver
            if each.target.driver == each.source.driver
            else f"{each.source.driver} → {each.target.driver}",
            size_text(each.used_bytes),
            f"{each.entries:,}",
            _STATES[each.state],
            ", ".join(each.stopped) or "-",
        )
        for each in plan.volumes
    ]
    header = ("VOLUME", "ON THE TARGET", "DRIVER", "SIZE", "ENTRIES", "WHICH", "STOPPED AT THE CUT-OVER")
    show(f"from {source.url} to {target.url}")
    show(table(header, rows, right=(3, 4)))
    if plan.carried is not None:
        for one in plan.carried.containers:
            show(
                f"container {one.name} moves along, and is started there"
                if one.ran
                else f"container {one.name} moves along, stopped"
            )
        for image in plan.carried.images:
            show(f"image {image.reference} is sent, {size_text(image.size_bytes)}")
        for network in plan.carried.networks:
            show(f"network {network['Name']} is made")
    for note in plan.notes:
        say(note)


def _carried(plan: MigrationPlan) -> dict[str, Any]:
    if plan.carried is None:
        return {}
    return {
        "containers": [{"name": each.name, "ran": each.ran} for each in plan.carried.containers],
        "images": [{"name": each.reference, "bytes": each.size_bytes} for each in plan.carried.images],
        "networks": [each["Name"] for each in plan.carried.networks],
    }


def _planned(each: PlannedVolume) -> dict[str, Any]:
    return {
        "name": each.source.name,
        "target": each.target.name,
        "source_driver": each.source.driver,
        "target_driver": each.target.driver,
        "options": dict(each.target.options),
        "labels": dict(each.target.labels),
        "state": each.state,
        "entries": each.entries,
        "used_bytes": each.used_bytes,
        "stopped": each.stopped,
    }


def _verb(verb: str, subjects: list[str]) -> str:
    return f"{verb}s" if len(subjects) == 1 else verb


@dataclass(slots=True)
class MigrationReport:
    source: str
    target: str
    plan: MigrationPlan
    legs: Sequence[Leg]
    checksum: bool
    stopped: list[str] = field(default_factory=list)  # on the source, for the cut-over
    made: list[str] = field(default_factory=list)  # containers, on the target
    started: list[str] = field(default_factory=list)  # on the target
    took_over: bool = False
    downtime_seconds: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def print(self, *, json: bool) -> None:
        if json:
            print_json(self.document)
            return
        for leg, each in zip(self.legs, self.plan.volumes, strict=True):
            last = leg.passes[-1]
            print(
                f"{leg.volume} → {leg.target}  {count_text(each.entries, 'entry', 'entries')}  {size_text(leg.sent_bytes)} sent in "
                f"{count_text(len(leg.passes), 'pass', 'passes')}, {size_text(last.sent_bytes)} of it in the last  "
                f"compared and equal{' (contents too)' if self.checksum else ''}"
            )
        parts = [f"moved in {duration_text(self.seconds)}"]
        if self.stopped:
            parts.append(f"{duration_text(self.downtime_seconds)} down ({', '.join(self.stopped)})")
        if self.made:
            parts.append(f"made on the target: {', '.join(self.made)}")
        if self.started:
            parts.append(f"started on the target: {', '.join(self.started)}")
        if self.stopped and not self.took_over:
            parts.append(f"{', '.join(self.stopped)} {_verb('run', self.stopped)} again on the source")
        elif self.stopped:
            paused = [name for name in self.stopped if name in self.plan.paused]
            if ended := [name for name in self.stopped if name not in paused]:
                parts.append(f"{', '.join(ended)} {_verb('stay', ended)} stopped on the source")
            if paused:
                names = " ".join(paused)
                parts.append(
                    f"{', '.join(paused)} {_verb('stay', paused)} paused on the source, until `docker rm --force {names}` removes {'it' if len(paused) == 1 else 'them'}"
                )
        print("; ".join(parts))

    @property
    def document(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "target": self.target,
            "volumes": [
                {
                    **_planned(each),
                    "sent_bytes": leg.sent_bytes,
                    "passes": [
                        {"entries": one.entries, "deleted": one.deleted, "sent_bytes": one.sent_bytes}
                        for one in leg.passes
                    ],
                }
                for leg, each in zip(self.legs, self.plan.volumes, strict=True)
            ],
            "compared": "contents" if self.checksum else "listing",
            "stopped": self.stopped,
            "made": self.made,
            "started": self.started,
            "took_over": self.took_over,
            "downtime_seconds": self.downtime_seconds,
            "seconds": self.seconds,
            "problems": self.problems,
        }
