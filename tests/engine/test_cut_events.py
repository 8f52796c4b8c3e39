"""A stream of the engine's events that is cut while a volume is read: who was started meanwhile is known all the same, or that nobody knows is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.test_coming_back import journals, shown, stopped_in
from tests.engine.test_quiesce import await_true, large, state_of
from tests.parts.events_proxy import events_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.cli import Running
    from tests.parts.events_proxy import EventsProxy
    from tests.parts.world import World


@pytest.fixture
def proxy(world: World) -> Iterator[EventsProxy]:
    with events_proxy(world.engine.docker_host.removeprefix("unix://")) as running:
        world.cli = world.cli.having(DOCKER_HOST=running.url)
        yield running


def reading(world: World, volume: str) -> Running:
    """A backup that has stopped what writes, and reads no further until `goes_on`."""
    container = world.container(volume, stop_signal="SIGKILL")
    running = stopped_in(world, volume, container, "--json")
    await_true(lambda: any('"state": "done"' in each.read_text() for each in journals(world)))
    (helper,) = [each for each in world.own_containers() if each["State"] == "running"]
    world.client.api.pause(helper["Id"])
    return running


def goes_on(world: World) -> None:
    (helper,) = [each for each in world.own_containers() if each["State"] == "paused"]
    world.client.api.unpause(helper["Id"])


@pytest.mark.parametrize("blind", ["for a moment", "until just before the end", "to the end"])
@pytest.mark.parametrize("writes", [True, False])
def test_who_is_started_while_the_stream_is_cut_is_found(
    world: World, proxy: EventsProxy, blind: str, writes: bool
) -> None:
    volume = world.volume()
    large(world, volume)
    other = world.container(volume, state="created", command=["sh", "-c", ":"])
    running = reading(world, volume)
    before = proxy.streams
    assert before
    proxy.blind = True
    proxy.cut()
    if writes:
        other.start()
        await_true(lambda: state_of(other)["Status"] == "exited")
    await_true(lambda: proxy.refused > 0)
    if blind == "for a moment":
        proxy.blind = False
        await_true(lambda: proxy.streams > before)
    goes_on(world)
    if blind == "until just before the end":
        await_true(lambda: world.unfinished_bytes() > 0)
        proxy.blind = False
    outcome = running.outcome()
    found = [each for each in outcome.json["backups"][0]["findings"] if each["kind"] == "disturbed"]
    if blind == "to the end":
        # Somebody may have been started.
        outcome.exits(3)
        assert "whether all did cannot be found out" in found[0]["detail"]
    elif writes:
        outcome.exits(3)
        assert found[0]["detail"] == f"{other.name} ran while it was read"
    else:
        outcome.exits(0)
        assert found == []
    assert shown(world, volume)["consistency"] == ("none" if found else "stop")
    assert journals(world) == []
