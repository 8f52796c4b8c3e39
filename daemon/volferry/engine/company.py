"""Containers that are stopped along with others: they are of no use while those are stopped, or not after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.engine.client import Engine, translated
from volferry.engine.containers import Container, find_container
from volferry.engine.running import running_containers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


def go_along(
    engine: Engine, containers: Collection[Container], *, but: Collection[str] = ()
) -> list[Container]:
    """Running containers that share a namespace of one of `containers`, and those that Compose restarts with one (`depends_on: restart: true`).
    Without those whose ids are in `but`. Raises EngineError.
    """
    have = {each.id for each in containers}
    others = _running(engine, {*have, *but})
    return _along(containers, others)


def companies(engine: Engine, ids: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Of each of these containers, as far as it runs, the ids of those that go along with it. Raises EngineError."""
    running = _running(engine, ())
    return {
        each.id: frozenset(other.id for other in _along([each], [one for one in running if one != each]))
        for each in running
        if each.id in ids
    }


def _running(engine: Engine, but: Collection[str]) -> list[Container]:
    with translated("listing the containers"):
        listed = running_containers(engine)
    found = (find_container(engine, each["Id"]) for each in listed if each["Id"] not in but)
    return [each for each in found if each is not None and each.runs]


def _along(containers: Iterable[Container], others: Collection[Container]) -> list[Container]:
    along: list[Container] = []
    moved = True
    while moved:  # what shares with one that shares
        moved = False
        for other in [each for each in others if each not in along]:
            if any(_goes_with(other, each) for each in [*containers, *along]):
                along.append(other)
                moved = True
    return along


def _goes_with(container: Container, other: Container) -> bool:
    return other.id in container.shares_with or (
        other.project is not None
        and container.project == other.project
        and other.service in container.restarts_with
    )
