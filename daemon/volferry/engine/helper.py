"""Carrier and helper: two containers by which volumes are read and written.

The carrier mounts the volumes at `/volumes/<name>` and is never started. The helper gets them from it with
`--volumes-from`, and nothing else of the machine: no network, a read-only root, and few capabilities.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import docker.errors
from docker.types import LogConfig, Mount

from volferry.engine.channel import InputRefused
from volferry.engine.client import DEATH_SECONDS, Death, Engine, explanation, translated, version_of
from volferry.engine.fifo import FifoChannel
from volferry.engine.labels import OWNER, ROLE, RUN
from volferry.engine.own import Share
from volferry.engine.stream import SHELL, StreamChannel
from volferry.errors import CommandFailed, EngineError, EngineUnreachable, HelperDied, NoSuchVolume
from volferry.interrupts import held_back
from volferry.model import HostPath, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from types import TracebackType

    from volferry.engine.channel import Bulk, Channel, Process
    from volferry.engine.own import OwnContainer
    from volferry.run import Run

ChannelChoice = Literal["auto", "fifo", "stream"]
CompressChoice = Literal["auto", "always", "never"]

_SPOOL = "/spool"
_NOTHING = "a helper"  # that mounts no volume
_PIDS_LIMIT = 64

# Reading needs to get past permissions, and no more. Writing needs to give files away, to any owner, with any mode,
# as any kind of file, with capabilities of their own.
_READ_CAPABILITIES = ["DAC_READ_SEARCH"]
_WRITE_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"]


@dataclass(frozen=True, slots=True)
class HelperSettings:
    image: str
    channel: ChannelChoice = "auto"
    compress: CompressChoice = "auto"
    memory_bytes: int = 512 << 20
    cpu_shares: int = 512  # relative to the 1024 of a container that says nothing
    io_weight: int = 250  # relative to 500
    volumes_from: bool = (
        True  # else the helper mounts them by itself: proxies that look at mounts refuse what they cannot see
    )
    own: OwnContainer | None = None


@dataclass(frozen=True, slots=True)
class Helper:
    """A helper that runs."""

    container_id: str
    spool: str  # a directory in it for temporary files
    channel: Channel
    way: str  # how it and we reach each other, for people
    death: Death
    now: Callable[[], datetime]  # by the clock of its machine; never later than it is there

    @staticmethod
    def directory(volume: str) -> str:
        """Where it has a volume."""
        return f"/volumes/{volume}"

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: bool = False,
        on_stderr: Callable[[bytes], None],
        bulk: Bulk | None = None,
    ) -> Process:
        """As `Channel.start`."""
        return self.channel.start(command, stdin=stdin, on_stderr=on_stderr, bulk=bulk)


@contextmanager
def open_helper(
    engine: Engine,
    run: Run,
    settings: HelperSettings,
    volumes: Sequence[Volume | HostPath],
    *,
    write: bool = False,
) -> Iterator[Helper]:
    """Carrier and helper for `volumes`, which must exist; both are gone afterwards, also after a signal.

    Raises EngineError if the containers cannot be made or started, as for a driver that cannot mount its volume.
    """
    with HelperInBackground(engine, run, settings, volumes, write=write) as helper:
        yield helper.wait()


@contextmanager
def _containers(
    engine: Engine,
    run: Run,
    settings: HelperSettings,
    volumes: Sequence[Volume | HostPath],
    *,
    write: bool = False,
) -> Iterator[Helper]:
    """Makes and starts them, and removes them. In a thread of its own, where no signal is raised."""
    labels = {RUN: run.id, OWNER: run.owner}
    what = f"volume {', '.join(volume.name for volume in volumes)}" if volumes else _NOTHING
    with ExitStack() as cleanup:
        with translated(what):
            _check_unchanged(engine, volumes)
            carrier = _create_carrier(
                engine, settings.image, volumes, {**labels, ROLE: "carrier"}, write=write
            )
            cleanup.callback(remove_container, engine, carrier)
            _check_unchanged(engine, volumes)
        make = partial(
            _one_helper,
            engine,
            settings,
            carrier,
            volumes,
            {**labels, ROLE: "helper"},
            what=what,
            write=write,
        )
        shares, why_not = _shares(engine, run, settings)
        for share in shares:
            try:
                helper = cleanup.enter_context(make(share, f"FIFO, {share.way}"))
            except EngineError as error:
                if isinstance(error, EngineUnreachable) or (
                    settings.channel == "fifo" and share is shares[-1]
                ):
                    raise
                # The engine, or a proxy before it, does not share it so. If it is about something else, the next way fails, too.
                why_not = f"no {share.way}: {error}"
            else:
                yield helper
                return
        if settings.channel == "fifo":
            raise EngineError(
                f'no FIFO can be shared: {why_not}; mount one there, or set helper.channel = "stream"'
            )
        yield cleanup.enter_context(make(None, f"stream: {why_not}"))


def _shares(engine: Engine, run: Run, settings: HelperSettings) -> tuple[list[Share], str]:
    """Ways to share a new directory with a helper: that one, and nothing else of ours. The reason, if there are none."""
    if settings.channel == "stream":
        return [], "helper.channel says so"
    if settings.channel == "auto" and not (engine.shares_our_kernel or _is_beside_us(engine, settings)):
        return [], "the engine is on another machine, or in a virtual one"
    directory = run.share()
    if settings.own is None:
        return [Share.by_bind(directory, directory, _SPOOL)], ""
    shares = settings.own.shares(directory, _SPOOL, version_of(engine))
    return shares, f"{run.directory} is in no volume or directory of this container that a helper could have"


def _is_beside_us(engine: Engine, settings: HelperSettings) -> bool:
    """An engine that runs our own container is on our machine, by whatever way it is reached: a proxy may listen on a port."""
    return settings.own is not None and engine.info.get("OperatingSystem") != "Docker Desktop"


@contextmanager
def _one_helper(
    engine: Engine,
    settings: HelperSettings,
    carrier: str,
    volumes: Sequence[Volume | HostPath],
    labels: dict[str, str],
    share: Share | None,
    way: str,
    *,
    what: str,
    write: bool,
) -> Iterator[Helper]:
    """One way to reach it: FIFOs in what is shared, or the engine's streams. What was made is gone if it does not work."""
    # Run backwards at the end: the helper goes first, and with it the other end of every FIFO and connection;
    # then what waits for those; then what they watch.
    with ExitStack() as cleanup:
        at_last = cleanup.enter_context(ExitStack())
        fifo = None if share is None else FifoChannel(share.directory, _SPOOL)
        if fifo:
            cleanup.callback(fifo.close)
        with translated(what):
            spool = share.mount if share else Mount(_SPOOL, None, type="volume")
            helper_id = _create_helper(
                engine,
                settings,
                labels,
                fifo.shell if fifo else SHELL,
                [spool] if settings.volumes_from else [*_mounts(volumes, write=write), spool],
                carrier if settings.volumes_from else None,
                write=write,
            )
        after_helper = cleanup.enter_context(ExitStack())
        cleanup.callback(remove_container, engine, helper_id)
        channel: FifoChannel | StreamChannel
        if fifo:
            channel = fifo
        else:
            compress = settings.compress == "always" or (
                settings.compress == "auto" and engine.crosses_network
            )
            channel = StreamChannel(engine, helper_id, compress=compress)
            after_helper.callback(channel.close)
        with translated(what):
            _start(engine, helper_id, what)
        death = Death(engine, helper_id)
        at_last.callback(death.close)
        channel.watch(death)
        yield Helper(helper_id, _SPOOL, channel, way, death, engine.now)


class HelperInBackground:
    """A helper that comes up and goes away in a thread of its own, while the caller has other things to do."""

    def __init__(
        self,
        engine: Engine,
        run: Run,
        settings: HelperSettings,
        volumes: Sequence[Volume | HostPath],
        *,
        write: bool = False,
    ) -> None:
        self._opened = _containers(engine, run, settings, volumes, write=write)
        self._helper: Future[Helper] = Future()
        self._failure: BaseException | None = None
        self._released = threading.Event()
        self._holder = threading.Thread(target=self._hold, name="helper")

    def wait(self) -> Helper:
        """The helper, once it runs. Raises what `open_helper` raises."""
        return self._helper.result()

    def release(self) -> None:
        """It is not needed any longer. Does not wait for its end; leaving the `with` does."""
        self._released.set()

    def _died(self) -> bool:
        """Why a command failed: a helper that is killed takes its processes along one by one, and those that go last
        can still say that they are done, with what the others had given them.
        """
        return not self._released.is_set() and self.wait().death.wait(DEATH_SECONDS)

    def _hold(self) -> None:
        try:
            with self._opened as helper:
                self._helper.set_result(helper)
                self._released.wait()
        except BaseException as error:  # noqa: BLE001 -- raised by `wait` or at the end, where it can be handled
            if self._helper.done():
                self._failure = error
            else:
                self._helper.set_exception(error)

    def __enter__(self) -> Self:
        try:
            with held_back():
                self._holder.start()
        except (
            BaseException
        ):  # a signal, held back until now: without a `with` block, nobody else ends what has begun
            self._released.set()
            with held_back():
                self._holder.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with held_back():
            died = isinstance(error, (CommandFailed, InputRefused)) and self._died()
            self._released.set()
            self._holder.join()
        if died:
            raise HelperDied(f"the helper ended before its work did: {self.wait().death.reason}") from error
        if error is None and self._failure is not None:
            raise self._failure


def remove_container(engine: Engine, container_id: str) -> None:
    """Also if it runs; no error if it is gone or going. The anonymous volume of its own goes with it."""
    try:
        with translated("removing a helper"):
            try:
                engine.api.remove_container(container_id, force=True, v=True)
            except docker.errors.NotFound:
                pass
            except docker.errors.APIError as error:
                if "already in progress" not in explanation(error):
                    raise
    except EngineError:
        # Its label is on it: the next run that reaches the engine removes it.
        pass


def _create_carrier(
    engine: Engine, image: str, volumes: Sequence[Volume | HostPath], labels: dict[str, str], *, write: bool
) -> str:
    api = engine.api
    found = api.create_container(
        image,
        command=["true"],
        labels=labels,
        network_disabled=True,
        host_config=api.create_host_config(
            mounts=_mounts(volumes, write=write), network_mode="none", log_config=LogConfig(type="none")
        ),
    )
    return str(found["Id"])


def _mounts(volumes: Sequence[Volume | HostPath], *, write: bool) -> list[Mount]:
    return [_mount(volume, write=write) for volume in volumes]


def _mount(volume: Volume | HostPath, *, write: bool) -> Mount:
    target = Helper.directory(volume.name)
    if isinstance(volume, HostPath):
        if volume.is_file:
            target += "/" + volume.path.rpartition("/")[2]
        return Mount(target, volume.path, type="bind", read_only=not write)
    return Mount(target, volume.name, type="volume", read_only=not write, no_copy=True)


def _check_unchanged(engine: Engine, volumes: Sequence[Volume | HostPath]) -> None:
    """Looked at just before and just after the carrier is made: the engine makes a volume that is missing, and an empty
    one in its place is no backup of the other. It is left alone: nothing that we did not make is ours to remove.
    """
    for volume in volumes:
        if isinstance(volume, HostPath):
            continue  # the engine makes none that is missing
        try:
            found = engine.api.inspect_volume(volume.name)
        except docker.errors.NotFound as error:
            raise NoSuchVolume(f"volume {volume.name} was removed meanwhile") from error
        now = (found.get("Driver"), found.get("Options") or {}, found.get("Labels") or {})
        if now != (volume.driver, volume.options, volume.labels):
            raise NoSuchVolume(f"volume {volume.name} was removed or replaced meanwhile")


def _create_helper(
    engine: Engine,
    settings: HelperSettings,
    labels: dict[str, str],
    command: list[str],
    mounts: Sequence[Mount],
    carrier: str | None,
    *,
    write: bool,
) -> str:
    api = engine.api
    host_config: dict[str, Any] = api.create_host_config(
        mounts=list(mounts),
        volumes_from=[f"{carrier}:{'rw' if write else 'ro'}"] if carrier else None,
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        cap_add=_WRITE_CAPABILITIES if write else _READ_CAPABILITIES,
        # A volume has the SELinux label of the container that uses it, which no other container may read.
        security_opt=["no-new-privileges", "label=disable"],
        log_config=LogConfig(type="none"),
        mem_limit=settings.memory_bytes,
        pids_limit=_PIDS_LIMIT,
        cpu_shares=settings.cpu_shares,
        blkio_weight=settings.io_weight,
    )
    found = api.create_container(
        settings.image,
        command=command,
        entrypoint=[],
        user="0:0",
        working_dir="/",
        # Besides "none": there is nothing but a loopback interface either way, but the engine starts itself again, for each
        # container, to set that one up.
        network_disabled=True,
        environment={"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        labels=labels,
        stdin_open=True,
        # Podman waits so long before it kills what is to be removed, and a shell that is a first process heeds no SIGTERM.
        stop_timeout=0,
        healthcheck={"test": ["NONE"]},
        host_config=host_config,
    )
    return str(found["Id"])


def _start(engine: Engine, helper_id: str, what: str) -> None:
    try:
        engine.api.start(helper_id)
    except docker.errors.APIError as error:
        if what == _NOTHING:
            raise
        raise EngineError(f"{what} cannot be mounted: {explanation(error)}") from error
