"""Carrier and helper: two containers by which volumes are read and written.

The carrier mounts the volumes at `/volumes/<name>` and is never started. The helper gets them from it with
`--volumes-from`, and nothing else of the machine: no network, a read-only root, and few capabilities.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self
from weakref import WeakKeyDictionary

from docker.types import Mount

from volferry.engine.channel import InputRefused
from volferry.engine.client import DEATH_SECONDS, Death, Engine, translated, version_of
from volferry.engine.fifo import FifoChannel
from volferry.engine.fifo_proof import NoFifo, await_answer
from volferry.engine.helper_containers import (
    check_unchanged,
    create_carrier,
    create_helper,
    directory_of,
    mounts_of,
    remove_container,
    start_helper,
)
from volferry.engine.helper_limits import accepted, are_the_reason, left_out
from volferry.engine.labels import OWNER, ROLE, RUN
from volferry.engine.own import Share
from volferry.engine.seen_directories import forget, known_to_see, sees
from volferry.engine.stream import SHELL, StreamChannel
from volferry.engine.user_namespace import check_owners, check_owners_rootless, has_one, is_rootless
from volferry.errors import CommandFailed, EngineError, EngineUnreachable, HelperDied
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from types import TracebackType

    from volferry.engine.channel import Bulk, Channel, Process
    from volferry.engine.own import OwnContainer
    from volferry.model import HostPath, Volume
    from volferry.run import Run

ChannelChoice = Literal["auto", "fifo", "stream"]
CompressChoice = Literal["auto", "always", "never"]
# That of the engine's containers, or none: the ids are those of the machine.
UsernsChoice = Literal["engine", "host"]

_SPOOL = "/spool"
_NOTHING = "a helper"  # that mounts no volume
_PIDS_LIMIT = 64

# Why no FIFO can be shared with helpers of an engine, once that was found out: not for each volume anew.
_no_fifo: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()


def _no_note(_: str) -> None: ...


@dataclass(frozen=True, slots=True)
class HelperSettings:
    image: str
    channel: ChannelChoice = "auto"
    compress: CompressChoice = "auto"
    # 0: it has none
    memory_bytes: int = 512 << 20
    cpu_shares: int = 512  # relative to the 1024 of a container that says nothing
    io_weight: int = 250  # relative to 500
    volumes_from: bool = (
        True  # else the helper mounts them by itself: proxies that look at mounts refuse what they cannot see
    )
    userns: UsernsChoice = "engine"
    own: OwnContainer | None = None
    note: Callable[[str], object] = _no_note  # told once what an engine cannot do

    @property
    def limits(self) -> dict[str, int]:
        """As docker-py calls them."""
        found = {
            "mem_limit": self.memory_bytes,
            "pids_limit": _PIDS_LIMIT,
            "cpu_shares": self.cpu_shares,
            "blkio_weight": self.io_weight,
        }
        return {name: value for name, value in found.items() if value}


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
        return directory_of(volume)

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
            check_unchanged(engine, volumes)
            carrier = create_carrier(
                engine, settings.image, volumes, {**labels, ROLE: "carrier"}, write=write
            )
            cleanup.callback(remove_container, engine, carrier)
            check_unchanged(engine, volumes)
        labels[ROLE] = "helper"
        make = partial(_one_helper, engine, settings, carrier, volumes, labels, what=what, write=write)
        limits = accepted(engine, settings.limits)
        try:
            helper = cleanup.enter_context(_reached(engine, run, settings, make))
        except (EngineUnreachable, NoFifo):
            raise
        except EngineError:
            known = left_out(engine)
            if not are_the_reason(engine, settings.image, labels, limits):
                raise
            if not known:
                settings.note(left_out(engine))
            helper = cleanup.enter_context(_reached(engine, run, settings, make))
        if not write and settings.userns == "engine" and has_one(engine):
            outside = replace(settings, userns="host")
            check_owners(
                helper,
                [volume.name for volume in volumes],
                lambda: _one_helper(
                    engine, outside, carrier, volumes, labels, None, "", what=what, write=False
                ),
            )
        elif not write and settings.userns == "engine" and is_rootless(engine):
            by_itself = replace(settings, volumes_from=False)  # what the carrier has is read-only
            check_owners_rootless(
                helper,
                [volume.name for volume in volumes],
                lambda: _one_helper(
                    engine, by_itself, carrier, volumes, labels, None, "", what=what, write=True
                ),
            )
        yield helper


@contextmanager
def _reached(
    engine: Engine,
    run: Run,
    settings: HelperSettings,
    make: Callable[[Share | None, str], AbstractContextManager[Helper]],
) -> Iterator[Helper]:
    """A helper that is reached by the first way that works: a FIFO in what can be shared with it, or else the stream."""
    shares, why_not = _shares(engine, run, settings)
    failure: EngineError | None = None
    with ExitStack() as cleanup:
        for share in shares:
            try:
                helper = cleanup.enter_context(make(share, f"FIFO, {share.way}"))
            except EngineUnreachable:
                raise
            except EngineError as error:
                # The engine, or a proxy before it, does not share it so. If it is about something else, the next way fails, too.
                why_not, failure = f"no {share.way}: {error}", error
                if engine.is_podman:
                    forget(engine, run.state_directory)
            else:
                yield helper
                return
        if settings.channel != "fifo":
            helper = cleanup.enter_context(make(None, f"stream: {why_not}"))
            if failure is not None and _no_fifo.setdefault(engine, why_not) is why_not:
                settings.note(
                    f"helpers on {engine.url} are reached by streams: {why_not} "
                    '(helper.channel = "stream" spares the try)'
                )
            yield helper
            return
    if failure is not None and not isinstance(failure, NoFifo):
        # It is what is shared, if it works without.
        try:
            with make(None, ""):
                pass
        except EngineError:
            raise failure from None
    raise NoFifo(
        f'no FIFO can be shared with a helper: {why_not}; mount a directory there that both have, or set helper.channel = "stream"'
    ) from failure


def _shares(engine: Engine, run: Run, settings: HelperSettings) -> tuple[list[Share], str]:
    """Ways to share a new directory with a helper: that one, and nothing else of ours. The reason, if there are none."""
    if settings.channel == "stream":
        return [], "helper.channel says so"
    if settings.channel == "auto" and not (engine.shares_our_kernel or _is_beside_us(engine, settings)):
        return [], "the engine is on another machine, or in a virtual one"
    if settings.channel == "auto" and engine in _no_fifo:
        return [], _no_fifo[engine]
    if settings.own is None:
        return _own_directory(engine, run, settings)
    directory = run.share()
    shares = settings.own.shares(directory, _SPOOL, version_of(engine))
    return shares, f"{run.directory} is in no volume or directory of this container that a helper could have"


def _own_directory(engine: Engine, run: Run, settings: HelperSettings) -> tuple[list[Share], str]:
    """As `_shares`, on a host. Podman would make a directory that it does not have, which nobody removes."""
    why_not = f"the engine does not have {run.state_directory}"
    known = known_to_see(engine, run.state_directory) if engine.is_podman else True
    if known is False and settings.channel == "auto":
        return [], why_not
    directory = run.share()
    if not known and sees(engine, settings.image, directory, run.state_directory) is False:
        if settings.channel == "auto":
            settings.note(
                f"helpers on {engine.url} are reached by streams: {why_not} (`volferry doctor` looks again)"
            )
        return [], why_not
    return [Share.by_bind(directory, directory, _SPOOL)], ""


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
            helper_id = create_helper(
                engine,
                settings.image,
                labels,
                fifo.shell if fifo else SHELL,
                accepted(engine, settings.limits),
                mounts=[spool] if settings.volumes_from else [*mounts_of(volumes, write=write), spool],
                carrier=carrier if settings.volumes_from else None,
                write=write,
                userns="host" if settings.userns == "host" else None,
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
            start_helper(engine, helper_id, what if volumes else "")
        death = Death(engine, helper_id)
        at_last.callback(death.close)
        channel.watch(death)
        if fifo:
            await_answer(engine, helper_id, fifo, death)
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
