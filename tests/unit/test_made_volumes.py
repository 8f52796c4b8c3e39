"""Volumes that a command has made are gone again if it fails, and nothing that was there before goes with them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from volferry.cli.made_volumes import MadeVolumes, made_volumes
from volferry.errors import EngineError, Interrupted, VolferryError, VolumeNotEmpty
from volferry.model import Volume

HELPER = cast("Any", None)
OPTIONS = {"o": "bind", "device": "/srv"}


class Machine:
    """An engine, and what its volumes hold."""

    def __init__(self) -> None:
        self.full: set[str] = set()
        self.there: dict[str, Volume] = {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    for name, does in {
        "volferry.engine.volumes.create_volume": lambda _, volume: machine.there.update(
            {volume.name: volume}
        ),
        "volferry.engine.volumes.find_volume": lambda _, name: machine.there[name],
        "volferry.engine.volumes.remove_volume": lambda _, name: machine.there.pop(name),
        "volferry.operations.restore.is_empty": lambda _, name: name not in machine.full,
    }.items():
        monkeypatch.setattr(name, does)
    return machine


def volume(driver: str = "local", options: dict[str, str] | None = None) -> Volume:
    return Volume("data", driver, options or {}, {}, "local", "")


def filled(
    machine: Machine, volume: Volume, *, look: bool = True, then_fail: bool = False, interrupted: bool = False
) -> None:
    """As commands do it."""
    with made_volumes(cast("Any", machine), " on the target") as made:
        made.make(volume)
        if look:
            made.check_empty(HELPER)
        if then_fail:
            raise VolferryError
        if interrupted:
            raise Interrupted


@pytest.mark.parametrize("driver", ["local", "other"])
def test_what_was_empty_is_gone_if_the_command_fails(machine: Machine, driver: str) -> None:
    with pytest.raises(VolferryError):
        filled(machine, volume(driver), then_fail=True)
    assert not machine.there


@pytest.mark.parametrize(
    ("found", "stays"),
    [
        (volume("local", OPTIONS), False),  # the engine leaves what is in /srv
        (volume("other"), True),  # its driver may not
        (volume("local"), True),  # somebody else made and filled it at the same moment
        (volume("local", {"size": "1g"}), True),
    ],
    ids=["directory", "driver", "plain", "limited"],
)
def test_what_was_there_before_is_not_lost_with_the_volume(
    machine: Machine, capsys: pytest.CaptureFixture[str], found: Volume, stays: bool
) -> None:
    machine.full.add("data")
    with pytest.raises(VolumeNotEmpty):
        filled(machine, found)
    assert bool(machine.there) == stays
    assert ("volume data is left behind on the target" in capsys.readouterr().err) == stays


def test_what_another_driver_made_stays_if_nobody_could_look_into_it(machine: Machine) -> None:
    with pytest.raises(VolferryError):
        filled(machine, volume("other"), look=False, then_fail=True)
    assert machine.there


def test_what_is_kept_stays(machine: Machine) -> None:
    made = MadeVolumes(cast("Any", machine), "")
    made.make(volume())
    made.keep()
    made.remove()
    assert machine.there


@pytest.mark.parametrize("removable", [True, False])
def test_whoever_interrupts_it_hears_what_became_of_the_volume(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], removable: bool
) -> None:
    def refuse(_engine: object, _name: str) -> None:
        raise EngineError("it is in use")

    if not removable:
        monkeypatch.setattr("volferry.engine.volumes.remove_volume", refuse)
    with pytest.raises(Interrupted):
        filled(machine, volume(), interrupted=True)
    told = capsys.readouterr().err
    assert ("the new volume data on the target was removed again" in told) == removable
    assert ("volume data is left behind on the target and not complete: it is in use" in told) != removable
