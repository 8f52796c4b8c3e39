"""Which container volferry takes for its own."""

from __future__ import annotations

import socket
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import docker.errors
import pytest

from volferry.engine.own import Surroundings, check_own_container, own_container
from volferry.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.engine.client import Engine

US, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64
ROOT = "30 20 0:50 / / ro,relatime - overlay overlay rw,lowerdir=l/A:l/B,upperdir={},workdir=/w"
FUSE = "30 20 0:50 / / ro,relatime - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0"
HERE = Surroundings(
    in_container=True,
    host_name=US[:12],
    root=ROOT.format("/docker/overlay2/a/diff"),
    mounted=frozenset({"/", "/etc/hosts", "/var/run/docker.sock", "/var/lib/volferry"}),
    network_ids=(US,),
    control_ids=frozenset(),
)


def container(
    ident: str, *mounts: str, layer: str | None = None, network: str = "bridge", name: str = ""
) -> dict[str, Any]:
    """As it is inspected. An engine with the containerd image store says nothing of where its layer is."""
    return {
        "Id": ident,
        "Name": name,
        "Image": f"image of {ident[0]}",
        "State": {"Running": True},
        "HostConfig": {"NetworkMode": network},
        "Mounts": [{"Destination": each} for each in mounts],
        "GraphDriver": {"Data": {"UpperDir": layer}} if layer else None,
    }


OUR_MOUNTS = ("/var/run/docker.sock", "/var/lib/volferry")


class Api:
    def __init__(self, containers: list[dict[str, Any]]) -> None:
        self._containers = containers
        self.as_podman = False
        self.asked = 0

    def containers(self) -> list[dict[str, Any]]:
        if self.as_podman:
            return [{**each, "HostConfig": {"NetworkMode": "host"}} for each in self._containers]
        return self._containers

    def inspect_container(self, name: str) -> dict[str, Any]:
        self.asked += 1
        for each in self._containers:
            if name == each["Name"] or each["Id"].startswith(name):
                return each
        raise docker.errors.NotFound("no such container")


class FakeEngine:
    shares_our_kernel = True

    def __init__(self, *containers: dict[str, Any], url: str = "unix:///nowhere") -> None:
        self.api = Api([*containers])
        self.url = url


def found(here: Surroundings, *containers: dict[str, Any]) -> str | None:
    own = own_container(cast("Engine", FakeEngine(*containers)), here)
    return own.id if own else None


OUR_LAYER, OTHER_LAYER = "/docker/overlay2/a/diff", "/docker/overlay2/b/diff"
SHARING = replace(HERE, host_name=OTHER[:12], network_ids=(OTHER,))
UNTOLD = replace(HERE, root=FUSE)
SHARING_UNTOLD = replace(SHARING, root=FUSE)


@pytest.mark.parametrize("layers", ["told", "untold"])
def test_one_with_a_network_of_its_own(layers: str) -> None:
    told = layers == "told"
    us = container(US, *OUR_MOUNTS, layer=OUR_LAYER if told else None)
    other = container(OTHER, *OUR_MOUNTS, layer=OTHER_LAYER if told else None)
    beside = container(THIRD, network=f"container:{US}", layer="/docker/overlay2/c/diff" if told else None)
    assert found(HERE if told else UNTOLD, other, beside, us) == US


@pytest.mark.parametrize("layers", ["told", "untold"])
def test_one_with_the_network_of_another(layers: str) -> None:
    told = layers == "told"
    us = container(US, *OUR_MOUNTS, network=f"container:{OTHER}", layer=OUR_LAYER if told else None)
    vpn = container(OTHER, "/gluetun", layer=OTHER_LAYER if told else None)
    plain = container(OTHER, layer=OTHER_LAYER if told else None)
    third = container(THIRD, network=f"container:{OTHER}", layer="/docker/overlay2/c/diff" if told else None)
    for sidecar in (vpn, plain):
        assert found(SHARING if told else SHARING_UNTOLD, sidecar, third, us) == US


def test_an_engine_that_lists_all_networks_as_the_machines() -> None:
    """As Podman does."""
    engine = FakeEngine(
        container(OTHER), container(THIRD), container(US, *OUR_MOUNTS, network=f"container:{OTHER}")
    )
    engine.api.as_podman = True
    own = own_container(cast("Engine", engine), SHARING_UNTOLD)
    assert own
    assert own.id == US


def test_of_two_that_look_the_same_it_is_neither() -> None:
    us = container(US, *OUR_MOUNTS, network=f"container:{OTHER}")
    assert found(SHARING_UNTOLD, us, container(OTHER, *OUR_MOUNTS)) is None


def test_the_machines_network_and_name() -> None:
    """A name that is also that of a container, or that has changed since ours was made."""
    us = container(US, *OUR_MOUNTS, layer=OUR_LAYER, network="host")
    web = container(OTHER, name="web", layer=OTHER_LAYER)
    for ids in ((US,), ()):
        for layers in (HERE.root, ROOT.format("a/diff")):
            here = replace(HERE, host_name="web", network_ids=ids, root=layers)
            assert found(here, web, us) == US


def test_a_control_group_proves_it() -> None:
    here = replace(SHARING_UNTOLD, control_ids=frozenset({US}))
    assert found(here, container(OTHER), container(US, network=f"container:{OTHER}")) == US


def test_a_container_of_another_engine_is_none() -> None:
    assert found(HERE, container(OTHER, layer=OTHER_LAYER), container(THIRD, *OUR_MOUNTS)) is None
    assert found(replace(HERE, in_container=False), container(US, layer=OUR_LAYER)) is None


def test_a_machine_that_looks_like_a_container_asks_little() -> None:
    """With a thousand containers on it."""
    engine = FakeEngine(*(container(f"{number:064x}") for number in range(1000)))
    here = replace(HERE, host_name="machine", root="1 0 254:0 / / rw - ext4 /dev/vda rw", network_ids=())
    assert own_container(cast("Engine", engine), here) is None
    assert engine.api.asked == 1


def test_the_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    containers = container(US, *OUR_MOUNTS, name="volferry"), container(OTHER, *OUR_MOUNTS)
    monkeypatch.setenv("VOLFERRY_CONTAINER", "volferry")
    assert found(SHARING_UNTOLD, *containers) == US
    monkeypatch.setenv("VOLFERRY_CONTAINER", "gone")
    assert found(HERE, *containers) is None
    monkeypatch.setenv("VOLFERRY_CONTAINER", "none")
    assert found(HERE, *containers) is None


@pytest.fixture
def listening() -> Iterator[FakeEngine]:
    """An engine's socket, of a process that we see: ourselves. Its path must be short."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/docker.sock")
        listener.listen()
        yield FakeEngine(url=f"unix://{place}/docker.sock")


def test_who_cannot_find_itself_stops_nothing(listening: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = cast("Engine", listening)
    # An engine in our own container does not run that.
    check_own_container(engine, None, HERE)
    monkeypatch.setattr("volferry.engine.own._is_outside", lambda _: True)
    with pytest.raises(EngineError, match="set VOLFERRY_CONTAINER to its name"):
        check_own_container(engine, None, HERE)
    check_own_container(engine, None, replace(HERE, in_container=False))
    own = own_container(cast("Engine", FakeEngine(container(US, layer=OUR_LAYER))), HERE)
    check_own_container(engine, own, HERE)
    monkeypatch.setenv("VOLFERRY_CONTAINER", "none")
    check_own_container(engine, None, HERE)
