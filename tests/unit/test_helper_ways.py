"""How a helper and volferry reach each other: what is shared with it, and what is done where that is refused."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import docker.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.engine.helper import HelperSettings, open_helper
from volferry.engine.own import OwnContainer
from volferry.errors import EngineError, EngineUnreachable
from volferry.run import Run, begin_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volferry.engine.client import Engine

STATE = {"Type": "volume", "Name": "state", "Driver": "local", "Source": "/docker/volumes/state/_data"}
Mount = dict[str, Any]


class Api:
    """An engine that refuses what it is told to, and keeps in mind what was made."""

    def __init__(self, version: str, refuses: Callable[[Mount], str | None]) -> None:
        self.api_version = version
        self.refuses = refuses
        self.spools: list[Mount] = []  # of helpers that were to be started
        self.containers: dict[str, dict[str, Any]] = {}
        self._gone = threading.Event()

    def create_host_config(self, **settings: Any) -> dict[str, Any]:
        return settings

    def create_container(self, _image: str, **settings: Any) -> dict[str, str]:
        name = f"{len(self.containers)}{settings['labels']['volferry.run']}"
        if settings["labels"]["volferry.role"] == "helper":
            (spool,) = (mount for mount in settings["host_config"]["mounts"] if mount["Target"] == "/spool")
            self.spools.append(spool)
            self._check(spool, "create")
        self.containers[name] = settings
        return {"Id": name}

    def start(self, name: str) -> None:
        self._check(self.containers[name]["host_config"]["mounts"][-1], "start")

    def attach_socket(self, *_: Any, **__: Any) -> Any:
        raise docker.errors.APIError("no streams here")

    def wait(self, *_: Any, **__: Any) -> dict[str, int]:
        self._gone.wait()
        return {"StatusCode": 0}

    def remove_container(self, name: str, **_: Any) -> None:
        del self.containers[name]
        self._gone.set()

    def _check(self, mount: Mount, moment: str) -> None:
        if (why := self.refuses(mount)) is not None and why.startswith(moment):
            raise docker.errors.APIError(why)


class FakeEngine:
    shares_our_kernel = True
    crosses_network = False

    def __init__(
        self, version: str = "1.41", refuses: Callable[[Mount], str | None] = lambda _: None
    ) -> None:
        self.api = Api(version, refuses)

    def now(self) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with begin_run(tmp_path) as each:
        yield each


def settings_in(state: Path, **more: Any) -> HelperSettings:
    """Of volferry in a container whose state directory is a volume."""
    own = OwnContainer("1" * 64, "image", [{**STATE, "Destination": str(state)}])
    return HelperSettings("image", own=own, **more)


def opened(engine: FakeEngine, run: Run, settings: HelperSettings) -> str:
    """The way by which a helper came up."""
    with open_helper(cast("Engine", engine), run, settings, []) as helper:
        assert helper.spool == "/spool"
        way = helper.way
    assert engine.api.containers == {}
    return way


def refusing(*kinds: str, moment: str = "create") -> Callable[[Mount], str | None]:
    """By what a spool is mounted of."""
    return lambda mount: f"{moment}: Forbidden" if kind_of(mount) in kinds else None


def kind_of(mount: Mount) -> str:
    if mount["Type"] == "bind":
        return "bind"
    return "subpath" if mount.get("VolumeOptions", {}).get("Subpath") else "volume"


def test_newer_engines_share_a_part_of_the_volume(run: Run, tmp_path: Path) -> None:
    engine = FakeEngine("1.45")
    assert opened(engine, run, settings_in(tmp_path)) == "FIFO, volume subpath"
    (spool,) = engine.api.spools
    part = spool["VolumeOptions"]["Subpath"]
    assert spool["Source"] == "state"
    assert Path(part).parent == Path("runs") / run.id
    assert Path(part).name.startswith("shared-")


@pytest.mark.parametrize("version", ["1.41", "1.44", "1.5"])
def test_older_ones_share_its_directory(run: Run, tmp_path: Path, version: str) -> None:
    engine = FakeEngine(version)
    assert opened(engine, run, settings_in(tmp_path)) == "FIFO, bind mount of the run's directory"
    (spool,) = engine.api.spools
    assert spool["Source"].startswith(f"/docker/volumes/state/_data/runs/{run.id}/shared-")


@pytest.mark.parametrize("moment", ["create", "start"])
def test_what_is_refused_is_tried_in_another_way(run: Run, tmp_path: Path, moment: str) -> None:
    engine = FakeEngine("1.48", refusing("subpath", moment=moment))
    assert opened(engine, run, settings_in(tmp_path)) == "FIFO, bind mount of the run's directory"
    assert [kind_of(each) for each in engine.api.spools] == ["subpath", "bind"]


def test_where_nothing_can_be_shared_it_is_the_stream(run: Run, tmp_path: Path) -> None:
    engine = FakeEngine("1.48", refusing("subpath", "bind"))
    with pytest.raises(EngineError, match="no streams here"):  # as far as this engine goes
        opened(engine, run, settings_in(tmp_path))
    assert [kind_of(each) for each in engine.api.spools] == ["subpath", "bind", "volume"]
    assert engine.api.spools[-1]["Source"] is None
    assert engine.api.containers == {}


def test_a_fifo_that_was_asked_for_is_nothing_else(run: Run, tmp_path: Path) -> None:
    refused = FakeEngine("1.41", refusing("bind"))
    with pytest.raises(EngineError, match="Forbidden"):
        opened(refused, run, settings_in(tmp_path, channel="fifo"))
    nowhere = HelperSettings("image", channel="fifo", own=OwnContainer("1" * 64, "image", []))
    with pytest.raises(EngineError, match=r'is in no volume .* or set helper.channel = "stream"'):
        opened(FakeEngine("1.48"), run, nowhere)


def test_an_engine_that_is_gone_is_not_asked_again(run: Run, tmp_path: Path) -> None:
    engine = FakeEngine("1.48")

    def gone(_: Mount) -> str | None:
        raise ConnectionRefusedError("Connection refused")

    engine.api.refuses = gone
    with pytest.raises(EngineUnreachable):
        opened(engine, run, settings_in(tmp_path))
    assert len(engine.api.spools) == 1


_names = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
_mounts = st.fixed_dictionaries(
    {
        "Type": st.sampled_from(["bind", "volume", "tmpfs"]),
        "Name": _names,
        "Driver": st.sampled_from(["local", "nfs"]),
        "Source": st.lists(_names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts)),
        "Destination": st.lists(_names, max_size=3).map(lambda parts: "/" + "/".join(parts)),
    }
)


@given(
    mounts=st.lists(_mounts, max_size=4),
    parts=st.lists(_names, min_size=1, max_size=5),
    version=st.sampled_from([(1, 41), (1, 45)]),
)
def test_nothing_is_shared_but_the_directory_itself(
    mounts: list[Mount], parts: list[str], version: tuple[int, int]
) -> None:
    directory = Path("/", *parts)
    for share in OwnContainer("", "", mounts).shares(directory, "/spool", version):
        found = share.mount
        places = [
            Path(each["Destination"]) / Path(found["Source"]).relative_to(each["Source"])
            if found["Type"] == "bind"
            else Path(each["Destination"], found["VolumeOptions"]["Subpath"])
            for each in mounts
            if found["Source"] == each["Name"] or Path(found["Source"]).is_relative_to(each["Source"])
        ]
        assert directory in places
