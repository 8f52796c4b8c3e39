"""The daemon's runs: processes that back up one volume each, or those that belong together, and then copy and prune what there is of them.

Each is the same command as a person would type: what it holds is given back when it ends, and what ends it ends nothing else.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from volferry.cli.daemon_endings import afterwards, ending_of, held_text, recovery_ending_of, share_ending_of
from volferry.cli.daemon_process import Command, Done
from volferry.errors import FINDINGS_EXIT_CODE, Interrupted
from volferry.interrupts import held_back
from volferry.run import journal_paths, new_run_id
from volferry.scheduler.copies import CopyEnding
from volferry.scheduler.loop import Ending
from volferry.scheduler.recovering import RecoveryEnding
from volferry.scheduler.verifying import ShareEnding

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from volferry.upkeep import Work

Log = Any
_STOP_SECONDS = 8  # of the ten that an engine gives a container; for what has nothing stopped
_STOP_LOOK_SECONDS = 0.2
_GOOD = {0, FINDINGS_EXIT_CODE}


@dataclass(slots=True)
class ProcessRuns:
    """Implements `Runs`. `ended` is called from other threads than the loop's."""

    arguments: Callable[[str], Sequence[str]]  # of a command
    state_directory: Callable[[], Path]
    log: Log
    has_replicas: Callable[[], bool]
    began: Callable[[str, str], None]  # with volume and run
    ended: Callable[[str, Mapping[str, Ending]], None]  # with the run, and by volume how it ended
    stall: Callable[[], timedelta] = timedelta  # as of `Command`
    released: Callable[[], None] = lambda: None  # called when another run may begin, though none has ended
    stopped: bool = False
    _threads: dict[str, tuple[threading.Thread, datetime]] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)  # of runs, by volume
    # Called as `ended` is: when a share was verified, and when an attempt to bring back what is down has ended.
    shared: Callable[[ShareEnding], None] = lambda _: None
    recovered: Callable[[RecoveryEnding], None] = lambda _: None
    _share: threading.Thread | None = None
    _recovery: threading.Thread | None = None
    owes_copies: Callable[[str], None] = lambda _: None  # called with a volume of which there is a new backup
    # Called with what follows a run and did not go well: command, volume, since when, and why.
    follow_up_failed: Callable[[Work, str, datetime, str], None] = lambda *_: None
    copied: Callable[[CopyEnding], None] = lambda _: None  # as `shared`
    _upkeep: dict[Work, threading.Thread] = field(default_factory=dict)
    _processes: set[subprocess.Popen[str]] = field(default_factory=set)
    _stalled: set[str] = field(default_factory=set)  # volumes, from then on until their runs are over
    # By volume, or by `/` and command where that is of none: what not even SIGKILL has ended.
    _hung: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def going_on(self) -> Mapping[str, datetime]:
        with self._lock:
            return {volume: began for volume, (_, began) in self._threads.items()}

    def start(self, volumes: Sequence[str], moving: str = "") -> None:
        with held_back():
            name = f"run of {', '.join(volumes)}"
            thread = threading.Thread(target=self._run, args=(volumes, moving), name=name)
            with self._lock:
                self._threads |= dict.fromkeys(volumes, (thread, datetime.now(UTC)))
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: it is one failed run
                self._over(volumes, "", dict.fromkeys(volumes, Ending(good=False, error=str(error))))

    def stalled(self) -> Collection[str]:
        with self._lock:
            return set(self._stalled)

    def _over(self, volumes: Sequence[str], run: str, endings: Mapping[str, Ending]) -> None:
        # Whoever is told finds it over, but for what cannot be ended: nothing else is begun for those volumes.
        hangs = volumes[0] in self._hung
        if not hangs:
            self._forget(volumes)
        # All at once: between two of them, the rest of the unit would be taken for due.
        self.ended(run, endings)
        if hangs:
            self._wait_out(*volumes)
            self._forget(volumes)
            self.released()

    def _forget(self, volumes: Sequence[str]) -> None:
        with self._lock:
            for volume in volumes:
                self._threads.pop(volume, None)
                self._stalled.discard(volume)

    def _wait_out(self, *keys: str) -> None:
        self._hung[keys[0]].wait()
        with self._lock:
            for key in keys:
                self._processes.discard(self._hung.pop(key))

    @property
    def share_goes_on(self) -> bool:
        return self._share is not None

    def start_share(self) -> None:
        """Has a share of the store verified, by a process of its own, beside what else goes on."""
        with held_back():
            self._share = threading.Thread(target=self._verify, name="share")
            try:
                self._share.start()
            except RuntimeError as error:
                self._share = None
                self.shared(ShareEnding(done=False, error=str(error)))

    @property
    def recovery_goes_on(self) -> bool:
        return self._recovery is not None

    def start_recovery(self) -> None:
        """Has what runs that died had stopped brought back, by a process of its own."""
        with held_back():
            self._recovery = threading.Thread(target=self._recover, name="recovery")
            try:
                self._recovery.start()
            except RuntimeError as error:
                self._recovery = None
                self.recovered(RecoveryEnding(error=str(error)))

    def _recover(self) -> None:
        try:
            done = self._command("recover", (), self.log, "", "--json")
            ending = recovery_ending_of(done, stopped=self.stopped)
        except Exception as error:  # noqa: BLE001 -- of a machine without processes or memory
            ending = RecoveryEnding(error=f"{type(error).__name__}: {error}")
        if "/recover" not in self._hung:
            self._recovery = None
        self.recovered(ending)
        if "/recover" in self._hung:
            self._wait_out("/recover")
            self._recovery = None
            self.released()

    def _verify(self) -> None:
        try:
            done = self._command("verify", (), self.log, "", "--share", "--json")
            ending = share_ending_of(done, stopped=self.stopped)
        except Exception as error:  # noqa: BLE001 -- of a machine without processes or memory
            ending = ShareEnding(done=False, error=f"{type(error).__name__}: {error}")
        if "/verify" not in self._hung:
            self._share = None
        self.shared(ending)
        if "/verify" in self._hung:
            self._wait_out("/verify")
            self._share = None
            self.released()

    def upkeep_goes_on(self, work: Work) -> bool:
        thread = self._upkeep.get(work)
        return thread is not None and thread.is_alive()

    def start_upkeep(self, work: Work, store: str, volumes: list[str], now: datetime) -> None:
        """Has volumes copied to one store, or pruned in the daemon's own, by a process of its own."""
        with held_back():
            ending = CopyEnding(store, volumes, now, work)
            thread = self._upkeep[work] = threading.Thread(
                target=self._make_up_for, args=(ending,), name=work
            )
            thread.start()

    def _make_up_for(self, ending: CopyEnding) -> None:
        work = ending.work
        try:
            to = ("--to", ending.store) if work == "copy" else ()
            done = self._command(work, (), self.log, "", *to, "--json", "--", *ending.volumes)
            bad = done.code not in _GOOD
            ending = replace(ending, interrupted=bad and self.stopped, error=done.last_line if bad else "")
            for event, details in afterwards(done.document):
                self.log.info(event, **details)
        except Exception as error:  # noqa: BLE001 -- of a machine without processes or memory
            ending = replace(ending, error=f"{type(error).__name__}: {error}")
        if f"/{work}" not in self._hung:
            self._upkeep.pop(work, None)
        self.copied(ending)
        if f"/{work}" in self._hung:
            self._wait_out(f"/{work}")
            self._upkeep.pop(work, None)
            self.released()

    def stop(self, waiting: Callable[[], object] = lambda: None) -> None:
        """Ends what is going on, as a signal would. A run that has something stopped is waited for until that is up again, however long
        it takes; `waiting` is called all the while. Others have a few seconds.
        """
        with self._lock:
            self.stopped = True
            threads = {
                thread: self._ids.get(volume, "")
                for volume, (thread, _) in self._threads.items()
                if volume not in self._hung
            }
            threads |= {
                each: ""
                for name, each in (
                    ("/verify", self._share),
                    ("/recover", self._recovery),
                    *((f"/{work}", thread) for work, thread in self._upkeep.items()),
                )
                if each is not None and name not in self._hung
            }
            for process in self._processes:
                process.send_signal(signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        while living := [(thread, run) for thread, run in threads.items() if thread.is_alive()]:
            if any(
                thread is self._recovery or (run and journal_paths(self.state_directory(), run))
                for thread, run in living
            ):
                end = time.monotonic() + _STOP_SECONDS
            elif time.monotonic() >= end:
                break
            waiting()
            living[0][0].join(_STOP_LOOK_SECONDS)

    def _run(self, volumes: Sequence[str], moving: str) -> None:
        run = new_run_id()
        self._ids |= dict.fromkeys(volumes, run)
        log = self.log.bind(run=run, volume=", ".join(volumes))
        try:  # whatever fails, also a log on a full disk: a volume whose run has not ended is never begun again
            log.info("a run begins")
            if moving:
                log.info("nothing is stopped for it", why=moving)
            for volume in volumes:
                self.began(volume, run)
            endings = self._endings(volumes, log, run, ("--quiesce", "none") if moving else ())
        except Exception as error:  # noqa: BLE001 -- of a machine without processes or memory: it is one failed run
            endings = dict.fromkeys(volumes, Ending(good=False, error=f"{type(error).__name__}: {error}"))
        self._over(volumes, run, {volume: replace(ending, run=run) for volume, ending in endings.items()})

    def _endings(
        self, volumes: Sequence[str], log: Log, run: str, options: Sequence[str]
    ) -> dict[str, Ending]:
        done = self._command("backup", volumes, log, run, "--scheduled", *options, "--json")
        endings = {}
        for volume in volumes:
            ending = ending_of(done, volume, stopped=self.stopped)
            if ending.good:
                of_volume = log.bind(volume=volume)
                of_volume.info(
                    "a run has ended",
                    backup=ending.backup,
                    seconds=ending.seconds,
                    stored_bytes=ending.stored_bytes,
                    downtime_seconds=ending.downtime_seconds,
                    findings=ending.findings,
                )
                ending = self._followed(volume, volumes, of_volume, ending)
            endings[volume] = ending
        return endings

    def _followed(self, volume: str, unit: Sequence[str], log: Log, ending: Ending) -> Ending:
        """With what came of copying and pruning it."""
        problems = [ending.error] if ending.error else []
        self.owes_copies(volume)
        following: tuple[Work, ...] = ("copy", "prune") if self.has_replicas() else ("prune",)
        for command in following:
            begun = datetime.now(UTC)
            if unit[0] in self._hung:  # of the volume before: nothing else is begun beside it
                break
            after = self._command(command, [volume], log, "", "--json", unit=unit)
            for pruned in after.document.get("volumes", ()) if ending.suspicious else ():
                if held := pruned["held"]:
                    ending = replace(ending, suspicious=f"{ending.suspicious}; {held_text(volume, held)}")
            problems += [less for each in after.document.get("volumes", ()) if (less := each.get("less"))]
            if after.code in _GOOD:
                for event, details in afterwards(after.document):
                    log.info(event, **details)
            elif not self.stopped:
                log.error("what follows a run failed", command=command, error=after.last_line)
                problems.append(f"{command}: {after.last_line}")
                self.follow_up_failed(command, volume, begun, after.last_line)
        return replace(ending, error="; ".join(problems))

    def _command(
        self, name: str, volumes: Sequence[str], log: Log, run: str, *options: str, unit: Sequence[str] = ()
    ) -> Done:
        """`unit` has the volumes of the run that it follows."""
        arguments = [*self.arguments(name), *options, *(["--", *volumes] if volumes else [])]
        held_up = unit or volumes

        def on_stall() -> None:
            if held_up:
                with self._lock:
                    self._stalled.update(held_up)
                self.released()

        command = Command(log, name, arguments, run, self.stall(), on_stall)
        with self._lock:
            if self.stopped:
                return Done(Interrupted.exit_code, {}, "")
            command.start()
            self._processes.add(command.process)
        done = command.done()
        with self._lock:
            if done.hung is not None:
                self._hung |= dict.fromkeys(held_up or [f"/{name}"], done.hung)
            else:
                self._processes.discard(command.process)
        return done
