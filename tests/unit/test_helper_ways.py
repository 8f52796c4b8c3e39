"""How a helper and volferry reach each other: what is shared with it, and what is done where that is refused."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import docker.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.engine import fifo_proof, seen_directories
from volferry.engine.fifo import FifoChannel
from volferry.engine.helper import HelperSettings, open_helper
from volferry.engine.own import OwnContainer
from volferry.errors import EngineError, EngineUnreachable
from volferry.run import Run, begin_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volferry.engine.client import Engine

STATE = {"Type": "volume", "Name": "state", "Driver": "local", "Source": "/docker/volumes/state/_data"}
LIMITS = ("mem_limit", "pids_limit", "cpu_shares", "blkio_weight")
Mount = dict[str, Any]


class Api:
    """An engine that refuses what it is told to, and keeps in mind what was made."""

    def __init__(self, version: str, refuses: Callable[[Mount], str | None]) -> None:
        self.api_version = version
        self.refuses = refuses
        self.spools: list[Mount] = []  # of helpers that were to be started
        self.containers: dict[str, dict[str, Any]] = {}
        self.streams = self.ends = False
        self.connections: list[socket.socket] = []
        self.shared = Path("/nonexistent")  # where FIFOs are
        self.answers = True
        self.execs = self.trials = 0
        self.asked: bytes | Exception | None = None  # what a helper says that does not answer
        self.unknown: dict[str, str] = {}  # limits, and what is said of them when they are asked for
        self.limits: list[set[str]] = []  # of each helper
        self._gone = threading.Event()

    def create_host_config(self, **settings: Any) -> dict[str, Any]:
        return settings

    def create_container(self, _image: str, **settings: Any) -> dict[str, str]:
        name = f"{len(self.containers)}{settings['labels']['volferry.run']}"
        if settings["labels"]["volferry.role"] == "helper":
            host_config = settings["host_config"]
            assert (host_config["network_mode"], host_config["read_only"], host_config["cap_drop"]) == (
                "none",
                True,
                ["ALL"],
            )
            assert "no-new-privileges" in host_config["security_opt"]
            self.limits.append({limit for limit in LIMITS if limit in host_config})
            spools = [mount for mount in host_config["mounts"] if mount["Target"] == "/spool"]
            if not spools:  # it is about the limits
                self.trials += 1
            self._check_limits("create")
            for spool in spools:
                self.spools.append(spool)
                self._check(spool, "create")
        self.containers[name] = settings
        return {"Id": name}

    def start(self, name: str) -> None:
        self._check_limits("start")
        for mount in self.containers[name]["host_config"]["mounts"][-1:]:
            self._check(mount, "start")
        if self.answers:
            self.answer(self.containers[name]["command"][-1])

    def answer(self, word: str) -> None:
        """As the helper's first process does."""
        for fifo in self.shared.glob("shared-*/answer"):
            fifo.write_text(word)

    def attach_socket(self, *_: Any, **__: Any) -> Any:
        if not self.streams:
            raise docker.errors.APIError("no streams here")
        ours, theirs = socket.socketpair()
        self.connections.append(theirs)
        return ours

    def wait(self, *_: Any, **__: Any) -> dict[str, int]:
        if not self.ends:
            self._gone.wait()
        return {"StatusCode": 0}

    def remove_container(self, name: str, **_: Any) -> None:
        del self.containers[name]
        self._gone.set()

    def exec_create(self, _: str, command: list[str], **__: Any) -> dict[str, str]:
        self.execs += 1
        if isinstance(self.asked, Exception):
            raise self.asked
        return {"Id": command[-1]}

    def exec_start(self, word: str) -> bytes:
        if self.asked is None:  # it was only slow
            self.answer(word)
        assert not isinstance(self.asked, Exception)
        return self.asked or b"\n"

    def _check_limits(self, moment: str) -> None:
        for limit in self.limits[-1] & self.unknown.keys():
            if self.unknown[limit].startswith(moment):
                raise docker.errors.APIError(self.unknown[limit])

    def _check(self, mount: Mount, moment: str) -> None:
        if (why := self.refuses(mount)) is not None and why.startswith(moment):
            raise docker.errors.APIError(why)


class FakeEngine:
    url = "unix:///nowhere"
    shares_our_kernel = True
    has_another_kernel = False
    is_podman = False
    id = "ENGINE"
    info: ClassVar[dict[str, Any]] = {}
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
    engine.api.shared = run.directory
    try:
        with open_helper(cast("Engine", engine), run, settings, []) as helper:
            assert helper.spool == "/spool"
            way = helper.way
    finally:
        for each in engine.api.connections:
            each.close()
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


BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_bytes()
OTHER_BOOT_ID = b"01234567-89ab-cdef-0123-456789abcdef\n"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_QUICK_SECONDS", "_WITHOUT_EXEC_SECONDS"):
        monkeypatch.setattr(fifo_proof, name, 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (BOOT_ID, "the helper does not have the FIFOs of "),
        (b"\n", "the helper does not have the FIFOs of "),
        (OTHER_BOOT_ID, "the engine is on another machine, or in a virtual one"),
        (docker.errors.APIError("Forbidden"), "cannot be asked why: the helper: Forbidden"),
    ],
)
def test_a_helper_that_does_not_answer_is_reached_otherwise(
    run: Run, asked: bytes | Exception, why: str
) -> None:
    engine = FakeEngine()
    engine.api.answers, engine.api.asked, engine.api.streams = False, asked, True
    said: list[str] = []
    ways = [opened(engine, run, HelperSettings("image", note=said.append)) for _ in range(3)]
    assert len(set(ways)) == 1
    assert ways[0].startswith("stream: ")
    assert why in ways[0]
    assert [kind_of(each) for each in engine.api.spools] == ["bind", "volume", "volume", "volume"]
    assert engine.api.execs == 1, "for the engine, and not for each helper"
    (note,) = said
    assert why in note
    assert 'helper.channel = "stream"' in note
    assert engine.has_another_kernel == (asked == OTHER_BOOT_ID)


@pytest.mark.usefixtures("impatient")
def test_one_that_is_only_slow_is_not_taken_for_another_kernel(run: Run) -> None:
    engine = FakeEngine()
    engine.api.answers = False
    said: list[str] = []
    assert opened(engine, run, HelperSettings("image", note=said.append)).startswith("FIFO, ")
    assert (engine.api.execs, said) == (1, [])


def test_one_that_ends_at_once_does_not_see_it(run: Run) -> None:
    engine = FakeEngine()
    engine.api.answers, engine.api.ends, engine.api.streams = False, True, True
    found = opened(engine, run, HelperSettings("image"))
    assert found.startswith("stream: no bind mount of the run's directory: the helper does not see in ")
    assert engine.api.execs == 0


@pytest.mark.usefixtures("impatient")
def test_where_a_fifo_was_asked_for_the_way_out_is_said(run: Run) -> None:
    engine = FakeEngine()
    engine.api.answers, engine.api.asked = False, OTHER_BOOT_ID
    with pytest.raises(
        EngineError, match=r'no FIFO can be shared .* set helper\.channel = "stream"'
    ) as caught:
        opened(engine, run, HelperSettings("image", channel="fifo"))
    assert "\n" not in str(caught.value)
    assert engine.api.containers == {}
    # refused, and nothing else is in the way
    other = FakeEngine("1.41", refusing("bind"))
    other.api.streams = True
    with pytest.raises(EngineError, match=r'Forbidden; .* set helper\.channel = "stream"'):
        opened(other, run, HelperSettings("image", channel="fifo"))


@pytest.mark.usefixtures("impatient")
def test_podman_is_not_asked_to_mount_what_it_does_not_have(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would make the directory on its machine."""
    looked: list[str] = []
    there: list[Any] = [None]

    def kind(_engine: Any, _image: str, path: str) -> Any:
        looked.append(path)
        if isinstance(there[0], Exception):
            raise there[0]
        return there[0]

    monkeypatch.setattr(seen_directories, "kind_of_path", kind)
    said: list[str] = []
    settings = HelperSettings("image", note=said.append)

    def way() -> str:  # of another command each time
        engine = FakeEngine()
        engine.is_podman, engine.api.streams = True, True
        found = opened(engine, run, settings)
        assert ("bind" in map(kind_of, engine.api.spools)) == found.startswith("FIFO")
        return found

    assert [way(), way()] == [f"stream: the engine does not have {tmp_path}"] * 2
    assert len(looked) == 1
    assert len(said) == 1
    with pytest.raises(EngineError, match="the engine does not have"):
        opened(podman(), run, HelperSettings("image", channel="fifo"))
    seen_directories.forget(cast("Engine", FakeEngine()), tmp_path)
    there[0] = "directory"
    assert [way(), way()] == ["FIFO, bind mount of the run's directory"] * 2
    assert len(looked) == 3
    # Where the look is refused, as by a proxy, it is tried.
    seen_directories.forget(cast("Engine", FakeEngine()), tmp_path)
    there[0] = EngineError("Forbidden")
    assert [way(), way()] == ["FIFO, bind mount of the run's directory"] * 2
    assert len(looked) == 5
    assert len(said) == 1


@pytest.mark.usefixtures("impatient")
def test_what_podman_no_longer_has_is_looked_for_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen_directories, "kind_of_path", lambda *_: "directory")
    assert opened(podman(), run, HelperSettings("image")).startswith("FIFO")
    gone = podman()
    gone.api.answers, gone.api.asked, gone.api.streams = False, b"\n", True
    assert opened(gone, run, HelperSettings("image")).startswith("stream: no bind mount")
    assert seen_directories.known_to_see(cast("Engine", gone), tmp_path) is None


def podman() -> FakeEngine:
    engine = FakeEngine()
    engine.is_podman = True
    return engine


def test_what_else_writes_there_is_no_answer(run: Run) -> None:
    share = run.share()
    channel = FifoChannel(share, "/spool")
    death = SimpleNamespace(fileno=os.eventfd(0).__int__)
    channel.watch(cast("Any", death))
    (share / "answer").write_text("yes\n" * 3000)
    assert not channel.answered(0.01)
    (share / "answer").write_text(channel.answer_arguments[1] + "\n")
    assert channel.answered(0)
    channel.close()
    os.close(death.fileno())


IO = "the requested cgroup controller `io` is not available: OCI runtime error"
CPU = "Unknown runtime specification option cpu.shares"


@pytest.mark.parametrize("moment", ["create", "start"])
@pytest.mark.parametrize(
    ("unknown", "left", "trials"),
    [
        (["blkio_weight"], {"mem_limit", "pids_limit", "cpu_shares"}, 3),
        (["cpu_shares", "blkio_weight"], {"mem_limit", "pids_limit"}, 7),
        (["mem_limit"], {"pids_limit", "cpu_shares", "blkio_weight"}, 7),
        (list(LIMITS), set[str](), 7),
    ],
)
def test_limits_that_an_engine_cannot_set_are_left_out(
    run: Run, moment: str, unknown: list[str], left: set[str], trials: int
) -> None:
    engine = FakeEngine()
    engine.api.unknown = dict.fromkeys(unknown, f"{moment}: {IO}")
    engine.api.streams = True
    said: list[str] = []
    for _ in range(3):
        way = opened(engine, run, HelperSettings("image", note=said.append))
        assert way == "FIFO, bind mount of the run's directory"
        assert engine.api.limits[-1] == left
    assert engine.api.trials == trials
    (note,) = said
    assert IO in note
    assert ('helper.io_weight = "off"' in note) == ("blkio_weight" in unknown)


def test_what_fails_for_another_reason_keeps_its_limits(run: Run) -> None:
    engine = FakeEngine("1.41", refusing("bind", "volume", moment="start"))
    engine.api.streams = True
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(EngineError, match="Forbidden"):
            opened(engine, run, HelperSettings("image", note=said.append))
    assert set(map(frozenset, engine.api.limits)) == {frozenset(LIMITS)}
    assert (engine.api.trials, said) == (1, [])


def test_limits_that_are_off_are_not_asked_for(run: Run) -> None:
    engine = FakeEngine()
    settings = HelperSettings("image", memory_bytes=0, cpu_shares=0, io_weight=0)
    assert opened(engine, run, settings).startswith("FIFO")
    assert engine.api.limits == [{"pids_limit"}]


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
