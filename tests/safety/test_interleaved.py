"""Backups, prunes and copies of two processes, step by step at every store call, with crashes and clocks that move:
after each step, every backup that lists restores to what was backed up.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.archive.manifest import Manifest
from volferry.errors import NoSuchObject, VolumeBusy
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.copy import copy_volume
from volferry.operations.prune import prune_volume
from volferry.repository import Repository
from volferry.retention import Keep, Within
from volferry.volume_lock import volume_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.model import BackupRef

pytestmark = pytest.mark.long
_STEP_SECONDS = 60


class Crash(BaseException):
    """The process is gone: nothing that it does from now on has any effect."""


class Process:
    """A thread that waits before each store call until it is told to go on."""

    def __init__(
        self, work: Callable[[Process], object], *, reads: bool = False, elsewhere: bool = False
    ) -> None:
        self.reads = reads  # the volume
        self.elsewhere = elsewhere  # on another machine: its locks are not ours
        self._go = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        self._dead = False
        self.ended = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        assert self._waits.acquire(timeout=_STEP_SECONDS)

    def step(self, _what: str) -> None:
        """Called by its store."""
        if threading.current_thread() is not self._thread or self._dead:
            if self._dead:
                raise Crash
            return  # one of its helpers' threads: part of the same step
        self._waits.release()
        self._go.acquire()
        if self._dead:
            raise Crash

    def go_on(self) -> None:
        """To its next store call, or to its end."""
        self._go.release()
        assert self._waits.acquire(timeout=_STEP_SECONDS), "it waits for something else than its turn"
        if self.ended and self.failure is not None:
            raise self.failure

    def crash(self) -> None:
        self._dead = True
        self._go.release()
        self._thread.join(_STEP_SECONDS)
        assert not self._thread.is_alive()

    def _run(self, work: Callable[[Process], object]) -> None:
        try:
            work(self)
        except (Crash, VolumeBusy):
            pass
        except BaseException as error:  # noqa: BLE001 -- raised in the test
            self.failure = error
        finally:
            self.ended = True
            self._waits.release()


class Interleaved(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="volferry-interleaved-"))
        data = self.directory / "data"
        data.mkdir()
        self.clock = Clock()
        self.main = Contents("main", self.clock)
        self.replica = Contents("replica", self.clock)
        self.ids = {
            each.name: Repository.open_or_create(MemoryStore(each))[0].id
            for each in (self.main, self.replica)
        }
        self.volume = LocalVolume(data, self.directory / "state", pack_bytes=64 << 10)
        self.processes: list[Process] = []
        self.expected: dict[str, dict[str, bytes]] = {}  # content of the volume, by backup
        self.checked: set[tuple[str, str, bool]] = set()
        self.seen: dict[str, tuple[dict[str, tuple[bytes, datetime]], int]] = {}  # by store
        self.files: dict[str, bytes] = {}
        self.counter = 0
        self.moved_meanwhile = False  # while something was at work
        clock = self.clock

        class FakeDatetime(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return clock.look().astimezone(tz)

        self._patches = [
            mock.patch(f"volferry.{module}.datetime", FakeDatetime) for module in ("operations.backup",)
        ]
        for patch in self._patches:
            patch.start()
        for number in range(3):  # a history, some of which a prune may take
            self.change(number)
            self.change(5)
            # Step by step is what the rules do.
            stats = self.volume.back_up(Repository(MemoryStore(self.main), self.ids["main"]))
            assert stats.findings_total == 0
            self.expected[stats.ref.id] = dict(self.files)
            self.clock.now += timedelta(days=10)

    def teardown(self) -> None:
        for process in self.processes:
            if not process.ended:
                process.crash()
        for patch in self._patches:
            patch.stop()
        shutil.rmtree(self.directory)

    # --- what the volume and the machine do -----------------------------------------------------------

    def change(self, number: int) -> None:
        """Overwrites a file: what the newest backup has of it becomes obsolete."""
        self.counter += 1
        content = blake3(b"%d" % self.counter).digest(length=30_000)
        self.files[f"file{number}"] = content
        (self.volume.data / f"file{number}").write_bytes(content)

    @precondition(lambda self: not any(process.elsewhere for process in self.at_work))
    @rule(days=st.integers(-20, 40))
    def move_clock(self, days: int) -> None:
        self.clock.now += timedelta(days=days)
        self.moved_meanwhile = bool(self.at_work)

    @rule()
    def lose_state(self) -> None:
        if not self.at_work:
            shutil.rmtree(self.volume.state, ignore_errors=True)

    # --- what processes do ----------------------------------------------------------------------------

    @property
    def at_work(self) -> list[Process]:
        return [process for process in self.processes if not process.ended]

    def begin(
        self, work: Callable[[Process], object], *, reads: bool = False, elsewhere: bool = False
    ) -> None:
        self.processes = self.at_work
        self.moved_meanwhile = self.moved_meanwhile and bool(self.processes)
        self.processes.append(Process(work, reads=reads, elsewhere=elsewhere))

    def repository(self, contents: Contents, process: Process) -> Repository:
        return Repository(MemoryStore(contents, process.step), self.ids[contents.name])

    @precondition(lambda self: len(self.at_work) < 2 and not any(process.reads for process in self.at_work))
    @rule(number=st.integers(0, 5))
    def change_and_back_up(self, number: int) -> None:
        self.change(number)
        self.back_up()

    def back_up(self) -> None:
        files = dict(self.files)

        def work(process: Process) -> None:
            process.step("begin")
            stats = self.volume.back_up(self.repository(self.main, process))
            if stats.findings_total == 0:
                self.expected.setdefault(stats.ref.id, files)

        self.begin(work, reads=True)

    @precondition(lambda self: len(self.at_work) < 2)
    @rule(last=st.integers(1, 2), on_replica=st.booleans())
    def prune_elsewhere_at_once(self, last: int, on_replica: bool) -> None:
        """From its first call to its last, in the middle of what else is at work."""
        if not (self.moved_meanwhile and self.at_work):
            self.prune(last=last, on_replica=on_replica, elsewhere=True)
            self.finish(len(self.at_work) - 1)

    @precondition(lambda self: len(self.at_work) < 2)
    @rule(last=st.integers(1, 2), on_replica=st.booleans(), elsewhere=st.booleans())
    def prune(self, last: int, on_replica: bool, elsewhere: bool) -> None:
        contents = self.replica if on_replica else self.main
        # What a run has stored is young as long as no clock jumps over the grace period while it lasts.
        elsewhere = elsewhere and not (self.moved_meanwhile and self.at_work)

        def work(process: Process) -> None:
            repository = self.repository(contents, process)
            process.step("begin")
            place = self.volume.place(repository)
            with nullcontext() if elsewhere else volume_lock(place, "vol"):
                prune_volume(
                    repository,
                    "host",
                    "vol",
                    keep=lambda _: Keep(last=last),
                    grace=Within("7d"),
                    cache=None,
                    dry_run=False,
                )

        self.begin(work, elsewhere=elsewhere)

    @precondition(lambda self: len(self.at_work) < 2)
    @rule(last=st.integers(1, 3))
    def copy(self, last: int) -> None:
        def work(process: Process) -> None:
            source, target = self.repository(self.main, process), self.repository(self.replica, process)
            process.step("begin")
            with (
                volume_lock(self.volume.place(target), "vol"),
                suppress(NoSuchObject),
            ):  # was forgotten meanwhile
                copy_volume(
                    source,
                    target,
                    "host",
                    "vol",
                    keep=lambda _: Keep(last=last),
                    source_cache=None,
                    target_cache=None,
                    observer=Silent(),
                )

        self.begin(work)

    @precondition(lambda self: self.at_work)
    @rule(which=st.integers(0, 1), steps=st.integers(1, 20))
    def go_on(self, which: int, steps: int) -> None:
        process = self.at_work[which % len(self.at_work)]
        for _ in range(steps):
            if not process.ended:
                process.go_on()
                self.every_backup_restores()

    @precondition(lambda self: self.at_work)
    @rule(which=st.integers(0, 1))
    def finish(self, which: int) -> None:
        process = self.at_work[which % len(self.at_work)]
        while not process.ended:
            process.go_on()
            self.every_backup_restores()

    @precondition(lambda self: self.at_work)
    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        self.at_work[which % len(self.at_work)].crash()

    # --- what must hold -------------------------------------------------------------------------------

    @invariant()
    def every_backup_restores(self) -> None:
        for contents in (self.main, self.replica):
            # Most steps only read: where no object came, went or changed, all is as it was found the last time.
            seen = dict(contents.objects), len(self.expected)
            if self.seen.get(contents.name) == seen:
                continue
            self.seen[contents.name] = seen
            repository = Repository(MemoryStore(contents), self.ids[contents.name])
            for ref, manifest in repository.manifests():
                assert isinstance(manifest, Manifest), manifest
                repository.check_objects(
                    ref, manifest
                )  # objects never change: what was good and is there, is good
                # It lists before its process has said what was in it: then it is looked at twice.
                found = contents.name, ref.id, ref.id in self.expected
                if found not in self.checked:
                    self.checked.add(found)
                    self.restores(repository, ref)

    def restores(self, repository: Repository, ref: BackupRef) -> None:
        spool = Path(tempfile.mkdtemp(dir=self.directory))
        stream = b"".join(BackupReader(repository, ref, spool=spool).tar_stream())
        shutil.rmtree(spool)
        for name, content in self.expected.get(ref.id, {}).items():
            assert content in stream, name


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
