"""One suite for both channels, on a real engine: what a command in the helper says and takes, and how helpers end."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import volferry
from tests.parts.engine import private_engine
from tests.parts.s3_servers import free_ports
from tests.parts.sshd import sshd_at
from tests.parts.tls import CONTEXT, engine_options, make_certificates, make_context
from volferry.engine.client import Engine, connect
from volferry.engine.helper import ChannelChoice, HelperSettings, open_helper
from volferry.engine.image import helper_image
from volferry.engine.labels import OWNER, ROLE, RUN, is_ours
from volferry.engine.reap import reap
from volferry.engine.volumes import find_volume
from volferry.errors import CommandFailed, EngineError, HelperDied
from volferry.run import begin_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.parts.engine import PrivateEngine
    from volferry.engine.channel import Bulk, Process
    from volferry.engine.helper import Helper
    from volferry.model import Volume
    from volferry.run import Run

SOURCE = Path(volferry.__file__).parent.parent
CHANNELS = ("fifo", "stream", "ssh", "tls")
# The assembled image has no `cat`.
CAT = ["tr", "-d", ""]
# Of noise, a compressor lets some out at once; of the other, after many millions of lines.
ENDLESS_NOISE = ["sh", "-c", "exec tr -d '' </dev/urandom"]
ENDLESS = ["sh", "-c", "while :; do echo yes; done"]
ECHO = ["sh", "-c", "while read -r line; do echo got $line; done"]
SILENT = ["sh", "-c", "read -r _"]
SECONDS = 15.0
SETTLED_SECONDS = 1.0

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a helper needs."""

    engine: Engine
    channel: ChannelChoice
    image: str
    volume: Volume
    state: Path
    way: str  # of CHANNELS

    @property
    def settings(self) -> HelperSettings:
        return HelperSettings(self.image, channel=self.channel, compress="always", memory_bytes=128 << 20)

    @contextlib.contextmanager
    def helper(self, *, write: bool = False) -> Iterator[Helper]:
        with self.run_and_helper(write=write) as (_, helper):
            yield helper

    @contextlib.contextmanager
    def run_and_helper(self, *, write: bool = False) -> Iterator[tuple[Run, Helper]]:
        with (
            begin_run(self.state) as run,
            open_helper(self.engine, run, self.settings, [self.volume], write=write) as helper,
        ):
            yield run, helper

    def left(self) -> list[str]:
        """Roles of the containers of ours that are there, running or not."""
        owner = (self.state / "id").read_text()
        found = self.engine.api.containers(all=True, filters={"label": [ROLE, f"{OWNER}={owner}"]})
        return sorted(each["Labels"][ROLE] for each in found)


Ways = dict[str, tuple[Engine, ChannelChoice]]


@pytest.fixture(scope="module")
def ways(engine: PrivateEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """To engines, and the channels that they leave: the local socket, ssh, and TLS by a Docker context."""
    directory = tmp_path_factory.mktemp("ways")
    certificates, docker_config = directory / "certificates", directory / "docker"
    certificates.mkdir()
    make_certificates(certificates)
    (port,) = free_ports(1)
    make_context(docker_config, certificates, port)
    with (
        sshd_at(directory) as sshd,
        private_engine(None, *engine_options(certificates, port)),
        pytest.MonkeyPatch.context() as patch,
        contextlib.ExitStack() as stack,
    ):
        patch.setenv("PATH", sshd.path)
        patch.setenv("DOCKER_CONFIG", str(docker_config))
        found: Ways = {}
        chosen: list[tuple[str, str, ChannelChoice]] = [
            ("fifo", engine.docker_host, "fifo"),
            ("stream", engine.docker_host, "stream"),
            ("ssh", sshd.url(engine), "auto"),
            ("tls", CONTEXT, "auto"),
        ]
        for way, name, channel in chosen:
            client = connect(name)
            stack.callback(client.close)
            found[way] = client, channel
        yield found


@contextlib.contextmanager
def a_setting(ways: Ways, way: str, state: Path) -> Iterator[Setting]:
    client, channel = ways[way]
    volume = f"channel-{state.name}-{os.getpid()}"
    client.api.create_volume(volume)
    image = helper_image(client, configured=None, own_container_image=None)
    yield Setting(client, channel, image, find_volume(client, volume), state, way)
    for container in client.api.containers(all=True, filters={"volume": volume}):
        client.api.remove_container(container["Id"], force=True, v=True)
    client.api.remove_volume(volume)


@pytest.fixture(params=CHANNELS)
def setting(request: pytest.FixtureRequest, ways: Ways, tmp_path: Path) -> Iterator[Setting]:
    with a_setting(ways, request.param, tmp_path / "state") as each:
        yield each


@pytest.fixture(params=CHANNELS, scope="module")
def helper(
    request: pytest.FixtureRequest, ways: Ways, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Helper]:
    """One for all tests that leave it as it was."""
    state = tmp_path_factory.mktemp("shared")
    with a_setting(ways, request.param, state) as each, each.helper() as shared:
        yield shared


class Command:
    """A command that was started, and the lines of its stderr."""

    def __init__(
        self, helper: Helper, command: Sequence[str], *, stdin: bool = False, bulk: Bulk | None = None
    ) -> None:
        self.errors: list[bytes] = []
        self.process: Process = helper.start(command, stdin=stdin, on_stderr=self.errors.append, bulk=bulk)

    def output(self) -> bytes:
        return b"".join(iter(lambda: self.process.read(1 << 20), b""))

    def finish(self) -> tuple[int, bytes]:
        """Its exit status, and what it wrote to stdout."""
        output = self.output()
        return self.process.wait(), output


def run(helper: Helper, *command: str) -> tuple[int, bytes, list[bytes]]:
    started = Command(helper, command)
    status, output = started.finish()
    return status, output, started.errors


def within(seconds: float, work: Callable[[], object]) -> object:
    """What `work` returns or raises, in a thread of its own: one that hangs is a failure, and not the end of the tests."""
    results: list[object] = []
    failures: list[BaseException] = []

    def do() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 -- raised below
            failures.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"it still hangs after {seconds} s"
    if failures:
        raise failures[0]
    return results[0]


def feed(process: Process, data: bytes, piece: int = 1 << 18) -> threading.Thread:
    """Writes to stdin and closes it, in a thread of its own."""

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            for start in range(0, len(data), piece):
                process.write(data[start : start + piece])
            process.close_stdin()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def kill(setting: Setting, helper: Helper) -> None:
    setting.engine.api.kill(helper.container_id)


# --- commands ---------------------------------------------------------------------------------------


def test_what_has_ended_holds_no_descriptor(helper: Helper) -> None:
    """A helper may have thousands of processes, and we the 1,024 descriptors of a login shell."""
    counts = []
    for _ in range(30):
        command = Command(helper, CAT, stdin=True)
        command.process.write(b"bytes")
        command.process.close_stdin()
        assert command.finish() == (0, b"bytes")
        assert command.process.wait() == 0
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert max(counts) <= counts[0] + 12  # docker-py's pool keeps some connections


@pytest.mark.parametrize("bulk", ["stdin", "stdout"])
@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_what_is_bulk_comes_out_as_it_goes_in(helper: Helper, bulk: Bulk, size: int) -> None:
    data = random.Random(2).randbytes(size // 2) + bytes(size - size // 2)
    command = Command(helper, CAT, stdin=True, bulk=bulk)
    feeding = feed(command.process, data)
    assert command.finish() == (0, data)
    feeding.join()


@pytest.mark.parametrize("bulk", ["stdin", "stdout"])
def test_a_command_whose_data_is_bulk_fails_with_its_own_status_and_words(helper: Helper, bulk: Bulk) -> None:
    command = Command(helper, ["sh", "-c", "echo some; echo words >&2; exit 7"], stdin=True, bulk=bulk)
    command.process.close_stdin()
    assert command.finish() == (7, b"some\n")
    assert command.errors == [b"words"]


def test_a_helper_that_is_killed_while_it_sends_bulk_has_died(setting: Setting) -> None:
    with setting.helper() as helper:
        command = Command(helper, ENDLESS_NOISE, bulk="stdout")
        assert command.process.read(1 << 16)
        kill(setting, helper)
        with pytest.raises(HelperDied):
            within(SECONDS, command.finish)


def test_every_byte_that_goes_in_comes_out(helper: Helper) -> None:
    data = random.Random(1).randbytes(64 << 20)
    command = Command(helper, CAT, stdin=True)
    feeding = feed(command.process, data)
    digest = hashlib.sha256()
    size = 0
    while piece := command.process.read(1 << 20):
        assert len(piece) <= 1 << 20
        digest.update(piece)
        size += len(piece)
    assert command.process.wait() == 0
    feeding.join()
    assert size == len(data)
    assert digest.digest() == hashlib.sha256(data).digest()


def test_every_byte_comes_through_a_compressor_and_back(helper: Helper) -> None:
    data = random.Random(2).randbytes(3 << 20) + bytes(5 << 20)
    command = Command(helper, ["sh", "-c", "zstd -qc | zstd -dqc"], stdin=True)
    feed(command.process, data)
    assert command.finish() == (0, data)


def test_the_end_of_stdin_is_seen_though_nothing_was_written(helper: Helper) -> None:
    command = Command(helper, CAT, stdin=True)
    command.process.close_stdin()
    assert within(SECONDS, command.finish) == (0, b"")


def test_a_command_without_stdin_sees_its_end_at_once(helper: Helper) -> None:
    assert within(SECONDS, lambda: run(helper, *CAT)) == (0, b"", [])


def test_small_pieces_arrive_before_the_command_ends(helper: Helper) -> None:
    command = Command(helper, ECHO, stdin=True)
    for number in range(20):
        command.process.write(b"%d\n" % number)
        assert command.process.read(1 << 20) == b"got %d\n" % number
    command.process.close_stdin()
    assert command.finish() == (0, b"")


def test_stderr_arrives_line_by_line_and_apart_from_stdout(helper: Helper) -> None:
    script = "echo one >&2; echo out; echo >&2; printf 'two\\nthree' >&2; echo more"
    assert run(helper, "sh", "-c", script) == (0, b"out\nmore\n", [b"one", b"", b"two", b"three"])


@pytest.mark.parametrize("status", [0, 1, 2, 42, 126, 255])
def test_the_exit_status_is_that_of_the_command(helper: Helper, status: int) -> None:
    assert run(helper, "sh", "-c", f"exit {status}")[0] == status


def test_a_command_that_is_killed_has_a_status_that_says_so(helper: Helper) -> None:
    assert run(helper, "sh", "-c", "kill -9 $$")[0] == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist_ends_with_127(helper: Helper) -> None:
    status, output, errors = run(helper, "no-such-program", "argument")
    assert (status, output) == (127, b"")
    assert any(b"no-such-program" in line for line in errors)


def test_a_command_that_does_not_exist_does_not_wait_for_its_stdin(helper: Helper) -> None:
    command = Command(helper, ["no-such-program"], stdin=True)
    feed(command.process, bytes(8 << 20))
    assert within(SECONDS, command.finish) == (127, b"")


@pytest.mark.parametrize(
    "argument", ["", " ", "a b", "*", "$HOME", "`id`", "'", '"', "\\", "\n", "a;b", "&", "é", "-n", "%s"]
)
def test_arguments_arrive_as_they_are(helper: Helper, argument: str) -> None:
    script = 'for each; do printf "<%s>" "$each"; done'
    status, output, errors = run(helper, "sh", "-c", script, "sh", argument, "last")
    assert (status, output, errors) == (0, f"<{argument}><last>".encode(), [])


def test_many_arguments_arrive_as_they_are(helper: Helper) -> None:
    arguments = [f"{number:05d}" for number in range(3000)]
    assert run(helper, "sh", "-c", 'printf %s "$@"', "sh", *arguments) == (0, "".join(arguments).encode(), [])


def test_programs_run_in_the_c_locale(helper: Helper) -> None:
    assert run(helper, "sh", "-c", 'echo "$LC_ALL"') == (0, b"C\n", [])


def test_writing_to_a_command_that_has_ended_is_a_broken_pipe_or_ends(helper: Helper) -> None:
    command = Command(helper, ["sh", "-c", "exit 3"], stdin=True)

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            for _ in range(64):
                command.process.write(bytes(1 << 20))
        command.process.close_stdin()

    within(SECONDS, write)
    assert within(SECONDS, command.finish) == (3, b"")


def test_writing_to_a_command_that_ends_midway_is_a_broken_pipe_or_ends(helper: Helper) -> None:
    command = Command(helper, ["sh", "-c", "read -r line; echo $line; exit 4"], stdin=True)
    command.process.write(b"first\n")
    assert command.process.read(100) == b"first\n"

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            for _ in range(64):
                command.process.write(bytes(1 << 20))

    within(SECONDS, write)
    assert within(SECONDS, command.finish) == (4, b"")


def test_garbage_on_stderr_without_an_end_is_cut_into_lines(helper: Helper) -> None:
    total = 20 << 20
    longest = size = 0

    def take(line: bytes) -> None:
        nonlocal longest, size
        longest = max(longest, len(line))
        size += len(line)

    process = helper.start(["sh", "-c", "tr -d '' >&2"], stdin=True, on_stderr=take)
    feed(process, b"x" * total)
    assert within(60, lambda: process.read(1)) == b""
    assert process.wait() == 0
    assert size == total
    assert longest <= 2 << 20


def test_a_great_deal_of_stderr_does_not_hold_up_stdout(helper: Helper) -> None:
    script = "i=0; while [ $i -lt 30000 ]; do echo line $i >&2; i=$((i+1)); done; echo done"
    status, output, errors = run(helper, "sh", "-c", script)
    assert (status, output) == (0, b"done\n")
    assert errors == [b"line %d" % number for number in range(30_000)]


def test_two_commands_run_at_once(helper: Helper) -> None:
    first, second = Command(helper, ECHO, stdin=True), Command(helper, ECHO, stdin=True)
    for number in range(5):
        first.process.write(b"first %d\n" % number)
        second.process.write(b"second %d\n" % number)
        assert second.process.read(99) == b"got second %d\n" % number
        assert first.process.read(99) == b"got first %d\n" % number
    second.process.close_stdin()
    assert second.finish() == (0, b"")
    first.process.close_stdin()
    assert first.finish() == (0, b"")


def test_one_command_goes_into_another(helper: Helper) -> None:
    data = random.Random(3).randbytes(8 << 20)
    first, second = Command(helper, CAT, stdin=True), Command(helper, CAT, stdin=True)
    feed(first.process, data)

    def carry() -> None:
        while piece := first.process.read(1 << 20):
            second.process.write(piece)
        second.process.close_stdin()

    thread = threading.Thread(target=carry)
    thread.start()
    assert second.finish() == (0, data)
    thread.join()
    assert first.process.wait() == 0


def test_many_commands_run_one_after_another(helper: Helper) -> None:
    for number in range(40):
        assert run(helper, "sh", "-c", f"echo {number}; exit {number}") == (number, b"%d\n" % number, [])


# --- ends that come too early -----------------------------------------------------------------------


def test_a_helper_that_died_before_the_command_is_an_error(setting: Setting) -> None:
    with setting.helper() as helper:
        kill(setting, helper)
        setting.engine.api.wait(helper.container_id)

        def use() -> None:
            command = Command(helper, ["sh", "-c", "echo never"])
            command.finish()

        with pytest.raises(HelperDied):
            within(SECONDS, use)
    assert setting.left() == []


@pytest.mark.parametrize("command", [ENDLESS, SILENT], ids=["endless", "silent"])
def test_a_helper_that_dies_while_it_is_read_is_an_error(setting: Setting, command: list[str]) -> None:
    with setting.helper() as helper:
        started = Command(helper, command, stdin=command is SILENT)
        if command is ENDLESS:
            assert started.process.read(4) == b"yes\n"
        timer = threading.Timer(0.3, kill, (setting, helper))
        timer.start()
        with pytest.raises(HelperDied):
            within(SECONDS, started.finish)
        timer.join()
    assert setting.left() == []


def test_a_helper_that_dies_while_it_is_written_to_is_an_error(setting: Setting) -> None:
    with setting.helper() as helper:
        # It reads one line, and then nothing more.
        command = Command(helper, ["sh", "-c", "read -r _; while :; do :; done"], stdin=True)
        command.process.write(b"\n")
        timer = threading.Timer(0.5, kill, (setting, helper))
        timer.start()

        def use() -> None:
            with contextlib.suppress(BrokenPipeError):
                while True:
                    command.process.write(bytes(1 << 20))
            command.finish()

        with pytest.raises(HelperDied):
            within(SECONDS, use)
        timer.join()
    assert setting.left() == []


def test_a_helper_that_died_says_so_to_whoever_writes_first(setting: Setting) -> None:
    with setting.helper() as helper:
        command = Command(helper, CAT, stdin=True)
        kill(setting, helper)
        setting.engine.api.wait(helper.container_id)

        def use() -> None:
            with contextlib.suppress(BrokenPipeError):
                while True:
                    command.process.write(bytes(1 << 20))
            command.finish()

        with pytest.raises(HelperDied):
            within(SECONDS, use)


def test_a_helper_may_be_left_while_a_command_still_writes(setting: Setting) -> None:
    def use() -> None:
        with setting.helper() as helper:
            Command(helper, ENDLESS)
            Command(helper, ENDLESS).process.read(1)

    within(SECONDS, use)
    assert setting.left() == []


def test_a_helper_may_be_left_while_a_command_still_waits_for_its_stdin(setting: Setting) -> None:
    def use() -> None:
        with setting.helper() as helper:
            Command(helper, CAT, stdin=True)
            Command(helper, CAT, stdin=True).process.write(b"x")

    within(SECONDS, use)
    assert setting.left() == []


def test_an_error_in_the_middle_leaves_nothing_behind(setting: Setting) -> None:
    def use() -> None:
        with setting.helper() as helper:
            Command(helper, ENDLESS).process.read(1)
            raise KeyError

    with pytest.raises(KeyError):
        within(SECONDS, use)
    assert setting.left() == []


def test_helpers_leave_no_descriptor_thread_or_volume_behind(setting: Setting) -> None:
    def use() -> None:
        with setting.helper() as helper:
            assert run(helper, "sh", "-c", "echo x")[0] == 0
            command = Command(helper, CAT, stdin=True)
            feed(command.process, b"x").join()
            assert command.finish() == (0, b"x")
            Command(helper, ENDLESS)

    def usage() -> tuple[int, int, int]:
        volumes = setting.engine.api.volumes()["Volumes"] or []
        setting.engine.api.close()  # what it keeps for the next requests
        return len(pipes()), threading.active_count(), len(volumes)

    def least() -> tuple[int, ...]:
        """Of several looks: the one just before may still hold a gateway open."""
        looks = [usage()]
        end = time.monotonic() + SETTLED_SECONDS
        while time.monotonic() < end:
            time.sleep(0.1)
            looks.append(usage())
        return tuple(min(each) for each in zip(*looks, strict=True))

    use()
    before = least()
    for _ in range(3):
        use()
    end = time.monotonic() + SECONDS
    # A gateway's ends take a moment. What is less than before was another test's, and only more is a leak.
    while any(now > was for now, was in zip(usage(), before, strict=True)):
        assert time.monotonic() < end
        time.sleep(0.1)


def pipes() -> list[str]:
    """What is open here but sockets: of those docker-py keeps some for the next requests."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        # The listing's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return [target for target in found if not target.startswith("socket:")]


def test_every_connection_is_closed_that_was_opened(setting: Setting) -> None:
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with setting.helper() as helper:
            assert run(helper, "sh", "-c", "echo x")[0] == 0
        del helper
        gc.collect()
    assert [str(each.message) for each in caught if each.category is ResourceWarning] == []


# --- containers -------------------------------------------------------------------------------------


def test_a_volume_that_cannot_be_mounted_is_an_error_that_names_it(setting: Setting) -> None:
    api = setting.engine.api
    api.create_volume(
        "channel-broken", driver_opts={"type": "ext4", "device": "/dev/does-not-exist", "o": "ro"}
    )
    try:
        with (
            begin_run(setting.state) as run_,
            pytest.raises(EngineError, match=r"^volume channel-broken cannot be mounted: ") as raised,
            open_helper(
                setting.engine, run_, setting.settings, [find_volume(setting.engine, "channel-broken")]
            ),
        ):
            pass
        assert len(str(raised.value).splitlines()) == 1
        assert setting.left() == []
    finally:
        api.remove_volume("channel-broken")


def test_an_image_that_is_not_there_is_an_error_and_leaves_nothing(setting: Setting) -> None:
    settings = HelperSettings("no-such-image:1", channel=setting.channel)
    with (
        begin_run(setting.state) as run_,
        pytest.raises(EngineError, match="no-such-image"),
        open_helper(setting.engine, run_, settings, [setting.volume]),
    ):
        pass
    assert setting.left() == []


def fails(setting: Setting, *, killed: bool) -> None:
    with (
        begin_run(setting.state) as run_,
        open_helper(setting.engine, run_, setting.settings, [setting.volume]) as helper,
    ):
        if killed:
            setting.engine.api.kill(helper.container_id)
        raise CommandFailed("what arrived is cut off")


def test_a_command_that_failed_because_the_helper_was_killed_is_put_down_to_that(setting: Setting) -> None:
    with pytest.raises(HelperDied, match="it ended with status 137"):
        fails(setting, killed=True)


def test_a_command_that_failed_in_a_living_helper_is_the_failure(setting: Setting) -> None:
    with pytest.raises(CommandFailed, match="cut off"):
        fails(setting, killed=False)


def test_a_volume_that_went_away_is_an_error_and_not_made_again(setting: Setting) -> None:
    api = setting.engine.api
    api.create_volume("channel-gone", labels={"made": "first"})
    gone = find_volume(setting.engine, "channel-gone")
    api.remove_volume("channel-gone")
    with (
        begin_run(setting.state) as run_,
        pytest.raises(EngineError, match="channel-gone was removed meanwhile"),
        open_helper(setting.engine, run_, setting.settings, [gone]),
    ):
        pass
    assert setting.left() == []
    assert "channel-gone" not in [each["Name"] for each in api.volumes()["Volumes"] or []]


def inspected(setting: Setting, helper: Helper) -> dict[str, Any]:
    found: dict[str, Any] = setting.engine.api.inspect_container(helper.container_id)
    return found


@pytest.mark.parametrize(
    ("write", "capabilities"),
    [(False, {"DAC_READ_SEARCH"}), (True, {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"})],
)
def test_a_helper_may_do_its_work_and_nothing_else(
    setting: Setting, write: bool, capabilities: set[str]
) -> None:
    with setting.run_and_helper(write=write) as (run_, helper):
        found = inspected(setting, helper)
        host = found["HostConfig"]
        assert host["NetworkMode"] == "none"
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert {each.removeprefix("CAP_") for each in host["CapAdd"]} == capabilities
        assert "no-new-privileges" in host["SecurityOpt"]
        assert host["LogConfig"]["Type"] == "none"
        assert host["Privileged"] is False
        assert host["PidsLimit"] == 64
        assert host["Memory"] == 128 << 20
        assert host["CpuShares"] == 512
        labels = {ROLE: "helper", RUN: run_.id, OWNER: run_.owner}
        assert labels.items() <= found["Config"]["Labels"].items()
        mounts = {mount["Destination"]: mount for mount in found["Mounts"]}
        data = f"/volumes/{setting.volume.name}"
        assert set(mounts) == {data, "/spool"}
        assert mounts[data]["RW"] is write
        if setting.way == "fifo":
            assert Path(mounts["/spool"]["Source"]).parent == run_.directory


def test_only_a_helper_that_may_write_can(setting: Setting) -> None:
    script = f"echo data >/volumes/{setting.volume.name}/file"
    with setting.helper() as helper:
        status, _, errors = run(helper, "sh", "-c", script)
        assert status != 0
        assert b"Read-only file system" in errors[0]
        assert run(helper, "sh", "-c", "echo data >/file")[0] != 0
        assert run(helper, "sh", "-c", f"echo data >{helper.spool}/file")[0] == 0
    with setting.helper(write=True) as helper:
        assert run(helper, "sh", "-c", script) == (0, b"", [])
        assert run(helper, "sh", "-c", "echo data >/file")[0] != 0
    with setting.helper() as helper:
        assert run(helper, *CAT)[0] == 0
        reading = run(helper, "sh", "-c", f"tr -d '' </volumes/{setting.volume.name}/file")
        assert reading == (0, b"data\n", [])


def test_a_carrier_is_made_and_never_started(setting: Setting) -> None:
    with setting.run_and_helper() as (run_, helper):
        found = setting.engine.api.containers(all=True, filters={"label": [f"{RUN}={run_.id}"]})
        roles = {each["Labels"][ROLE]: each for each in found}
        assert set(roles) == {"carrier", "helper"}
        assert roles["helper"]["Id"] == helper.container_id
        assert all(is_ours(each) for each in found)
        carrier = setting.engine.api.inspect_container(roles["carrier"]["Id"])
        assert carrier["State"]["Status"] == "created"
        assert carrier["HostConfig"]["NetworkMode"] == "none"
        assert [mount["Name"] for mount in carrier["Mounts"]] == [setting.volume.name]
        assert inspected(setting, helper)["HostConfig"]["VolumesFrom"] == [f"{carrier['Id']}:ro"]
    assert setting.left() == []


@contextlib.contextmanager
def helper_of_another_process(setting: Setting) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A process that has opened a helper, with a command in it that never ends; the id of that container."""
    script = """
import sys
from pathlib import Path
from volferry.engine.client import connect
from volferry.engine.helper import HelperSettings, open_helper
from volferry.engine.volumes import find_volume
from volferry.run import begin_run

url, channel, image, volume, state = sys.argv[1:]
engine = connect(url)
settings = HelperSettings(image, channel=channel)
with begin_run(Path(state)) as run, open_helper(engine, run, settings, [find_volume(engine, volume)]) as helper:
    process = helper.start(["sh", "-c", "while :; do echo yes; done"], on_stderr=print)
    process.read(1)
    print(helper.container_id, flush=True)
    sys.stdin.read()
"""
    arguments = [setting.engine.url, setting.channel, setting.image, setting.volume.name, str(setting.state)]
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def test_a_helper_ends_with_the_process_that_holds_it_and_is_reaped(setting: Setting) -> None:
    with setting.run_and_helper() as (ours, helper), helper_of_another_process(setting) as (theirs, process):
        assert reap(setting.engine, setting.state, ours.owner) == 0, "both runs live"
        assert setting.left() == ["carrier", "carrier", "helper", "helper"]
        process.kill()
        process.wait()
        within(SECONDS, lambda: setting.engine.api.wait(theirs))
        assert setting.left() == ["carrier", "carrier", "helper", "helper"]
        assert reap(setting.engine, setting.state, ours.owner) == 2
        assert setting.left() == ["carrier", "helper"]
        assert run(helper, "sh", "-c", "echo here") == (0, b"here\n", [])


def test_what_another_volferry_has_just_made_is_not_reaped(setting: Setting, tmp_path: Path) -> None:
    with helper_of_another_process(setting) as (theirs, process), begin_run(tmp_path / "other") as ours:
        process.kill()
        process.wait()
        within(SECONDS, lambda: setting.engine.api.wait(theirs))
        assert reap(setting.engine, tmp_path / "other", ours.owner) == 0
