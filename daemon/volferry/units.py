"""Which volumes belong together, so that they are backed up while all that writes to any of them stands still once (docs/design.md,
"Units").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from volferry.model import Volume, VolumeUse

_SERVICE = "com.docker.compose.service"
_DEPENDS_ON = "com.docker.compose.depends_on"  # db:service_healthy:false,cache:service_started:true


@dataclass(frozen=True, slots=True)
class Candidate:
    """A volume of a run, and why it may belong to others."""

    volume: Volume
    quiesces: bool = False  # what writes to it is stopped or paused
    hooked: frozenset[str] = frozenset()  # ids of containers in which hooks are run for it
    by_project: bool = False  # `group = "project"`
    along: frozenset[str] = (
        frozenset()
    )  # ids of further containers that are stopped for it, as far as they are known


def units_of(candidates: Sequence[Candidate]) -> list[list[Volume]]:
    """In the order of their first volumes, and each in that of `candidates`. Two belong together if one container that runs writes to both of them and
    is stopped for both, or has hooks for both; if a container of one is stopped along with one of the other; or if both are to be grouped by their compose project.
    """
    parents: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while (parent := parents.setdefault(key, key)) != key:
            key = parent
        return key

    for each in candidates:
        name = ("volume", each.volume.name)
        root(name)
        for key in _keys(each):
            parents[root(key)] = root(name)
    for use, other in _along(
        [
            use
            for each in candidates
            if each.quiesces and not each.volume.incomplete
            for use in _writers(each.volume)
        ]
    ):
        parents[root(("stopped", use.container_id))] = root(("stopped", other.container_id))
    units: dict[Hashable, list[Volume]] = {}
    for each in candidates:
        units.setdefault(root(("volume", each.volume.name)), []).append(each.volume)
    return list(units.values())


def _keys(candidate: Candidate) -> Iterator[Hashable]:
    """What two that belong together have in common. One that cannot be backed up, as its migration has not ended, costs no other its backup."""
    if candidate.volume.incomplete:
        return
    if candidate.quiesces:
        yield from (("stopped", use.container_id) for use in _writers(candidate.volume))
        yield from (("stopped", each) for each in candidate.along)
    yield from (("hooked", container) for container in candidate.hooked)
    if candidate.by_project:
        yield from (("project", project) for project in candidate.volume.own_projects)


def _writers(volume: Volume) -> list[VolumeUse]:
    return [use for use in volume.uses if use.running and use.read_write]


def _along(uses: Iterable[VolumeUse]) -> Iterator[tuple[VolumeUse, VolumeUse]]:
    """Pairs of containers of which one is stopped with the other one: it shares its network, or Compose restarts it with it."""
    found = {use.container_id: use for use in uses}
    services = {
        (use.project or "", service): use
        for use in found.values()
        if use.project is not None and (service := use.labels.get(_SERVICE))
    }
    for use in found.values():
        others = [found.get(use.network_of)]
        others += [services.get((use.project or "", service)) for service in _restarts_with(use)]
        yield from ((use, other) for other in others if other is not None and other is not use)


def _restarts_with(use: VolumeUse) -> Iterator[str]:
    for each in use.labels.get(_DEPENDS_ON, "").split(","):
        service, _, rest = each.partition(":")
        if rest.endswith(":true"):
            yield service
