"""The daemon's runs: processes that back up one volume each, and then copy and prune what there is of it.

Each is the same command as a person would type: what it holds is given back when it ends, and what ends it ends nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from volferry.errors import FINDINGS_EXIT_CODE, Interrupted
from volferry.interrupts import held_back
from volferry.run import RUN_VARIABLE, journal_paths, new_run_id
from volferry.scheduler.loop import Down, Ending
from volferry.scheduler.recovering import RecoveryEnding
from volferry.scheduler.verifying import ShareEnding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

Log = Any
_STOP_SECONDS = 8  # of the ten that an engine gives a container; for what has nothing stopped
_STOP_LOOK_SECONDS = 0.2
_GOOD = {0, FINDINGS_EXIT_CODE}


@dataclass(frozen=True, slots=True)
class _Done:
    """One command that has ended."""

    code: int
    document: dict[str, Any]
    last_line: str


@dataclass(slots=True)
class ProcessRuns:
    """Implements `Runs`. `ended` is called from other threads than the loop's."""

    arguments: Callable[[str], Sequence[str]]  # of a command
    state_directory: Callable[[], Path]
    log: Log
    has_replicas: Callable[[], bool]
    began: Callable[[str, str], None]  # with volume and run
    ended: Callable[[str, str, Ending], None]
    stopped: bool = False
    _threads: dict[str, tuple[threading.Thread, datetime]] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)  # of runs, by volume
    # Called as `ended` is: when a share was verified, and when an attempt to bring back what is down has ended.
    shared: Callable[[ShareEnding], None] = lambda _: None
    recovered: Callable[[RecoveryEnding], None] = lambda _: None
    _share: threading.Thread | None = None
    _recovery: threading.Thread | None = None
    _processes: set[subprocess.Popen[str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def going_on(self) -> Mapping[str, datetime]:
        with self._lock:
            return {volume: began for volume, (_, began) in self._threads.items()}

    def start(self, volume: str, moving: str = "") -> None:
        with held_back():
            thread = threading.Thread(target=self._run, args=(volume, moving), name=f"run of {volume}")
            with self._lock:
                self._threads[volume] = (thread, datetime.now(UTC))
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: it is one failed run
                self._over(volume, "", Ending(good=False, error=str(error)))

    def _over(self, volume: str, run: str, ending: Ending) -> None:
        # Whoever is told finds it over.
        with self._lock:
            self._threads.pop(volume, None)
        self.ended(volume, run, ending)

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
            done = self._command("recover", "", self.log, "", "--json")
            ending = _recovery_ending(done, stopped=self.stopped)
        except Exception as error:  # noqa: BLE001 -- of a machine without processes or memory
            ending = RecoveryEnding(error=f"{type(error).__name__}: {error}")
        self._recovery = None
        self.recovered(ending)

    def _verify(self) -> None:
        try:
            done = self._command("verify", "", self.log, "", "--share", "--json")
            ending = _share_ending(done, stopped=self.stopped)
        except Exception as error:  # noqa: BLE001 -- of a machine without processes or memory
            ending = ShareEnding(done=False, error=f"{type(error).__name__}: {error}")
        self._share = None
        self.shared(ending)

    def stop(self, waiting: Callable[[], object] = lambda: None) -> None:
        """Ends what is going on, as a signal would. A run that has something stopped is waited for until that is up again, however long
        it takes; `waiting` is called all the while. Others have a few seconds.
        """
        with self._lock:
            self.stopped = True
            threads = {thread: self._ids.get(volume, "") for volume, (thread, _) in self._threads.items()}
            threads |= {each: "" for each in (self._share, self._recovery) if each is not None}
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

    def _run(self, volume: str, moving: str) -> None:
        run = self._ids[volume] = new_run_id()
        log = self.log.bind(run=run, volume=volume)
        log.info("a run begins")
        if moving:
            log.info("nothing is stopped for it", why=moving)
        self.began(volume, run)
        try:
            ending = replace(self._ending(volume, log, run, ("--quiesce", "none") if moving else ()), run=run)
        except Exception as error:  # noqa: BLE001 -- of a machine without processes or memory: it is one failed run
            ending = Ending(good=False, error=f"{type(error).__name__}: {error}", run=run)
        self._over(volume, run, ending)

    def _ending(self, volume: str, log: Log, run: str, options: Sequence[str]) -> Ending:
        done = self._command("backup", volume, log, run, "--scheduled", *options, "--json")
        ending = _ending(done, stopped=self.stopped)
        problems = [ending.error] if ending.error else []
        if ending.good:
            log.info(
                "a run has ended",
                backup=ending.backup,
                seconds=ending.seconds,
                stored_bytes=ending.stored_bytes,
                downtime_seconds=ending.downtime_seconds,
                findings=ending.findings,
            )
            for command in ("copy", "prune") if self.has_replicas() else ("prune",):
                after = self._command(command, volume, log, "", "--json")
                for pruned in after.document.get("volumes", ()) if ending.suspicious else ():
                    if held := pruned["held"]:
                        ending = replace(ending, suspicious=f"{ending.suspicious}; {_held(volume, held)}")
                problems += [less for each in after.document.get("volumes", ()) if (less := each.get("less"))]
                if after.code in _GOOD:
                    for event, details in _afterwards(after.document):
                        log.info(event, **details)
                elif not self.stopped:
                    log.error("what follows a run failed", command=command, error=after.last_line)
                    problems.append(f"{command}: {after.last_line}")
        return replace(ending, error="; ".join(problems))

    def _command(self, command: str, volume: str, log: Log, run: str, *options: str) -> _Done:
        with self._lock:
            if self.stopped:
                return _Done(Interrupted.exit_code, {}, "")
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "volferry",
                    command,
                    *self.arguments(command),
                    *options,
                    *(["--", volume] if volume else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1", RUN_VARIABLE: run},
                # A signal to the daemon's group is the daemon's to pass on.
                start_new_session=True,
            )
            self._processes.add(process)
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.append(process.stdout.read()))  # type: ignore[union-attr]
        reader.start()
        last = ""
        assert process.stderr  # noqa: S101 -- it is a pipe
        for line in process.stderr:
            if line.strip():
                last = line.strip().removeprefix("volferry: ")
                log.info("it says", command=command, line=last)
        reader.join()
        process.wait()
        process.stderr.close()
        assert process.stdout  # noqa: S101 -- it is a pipe
        process.stdout.close()
        with self._lock:
            self._processes.discard(process)
        return _Done(
            process.returncode, _document("".join(printed)), last or f"exit code {process.returncode}"
        )


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _afterwards(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events for the log about a copy or a prune that did anything."""
    for copied in document.get("copied", ()):
        if copied["copied"] or copied["mended"]:
            yield (
                "backups were copied",
                {
                    "store": copied["store"],
                    "backups": len(copied["copied"]),
                    "mended": copied["mended"],
                    "sent_bytes": copied["sent_bytes"],
                },
            )
    for pruned in document.get("volumes", ()):
        if pruned["forgotten"] or pruned["packs"]:
            yield (
                "backups were pruned",
                {
                    "forgotten": len(pruned["forgotten"]),
                    "packs": len(pruned["packs"]),
                    "freed_bytes": pruned["freed_bytes"],
                },
            )


def _held(volume: str, held: dict[str, str]) -> str:
    until = datetime.fromisoformat(held["until"]).astimezone()
    return (
        f"{held['id']} is held until {until:%Y-%m-%d %H:%M}; look at it (`volferry show {volume}`), "
        f"then restore, or say `volferry accept {volume}`"
    )


def _ending(done: _Done, *, stopped: bool) -> Ending:
    failed = [each["error"] for each in done.document.get("failed", ())]
    for backup in done.document.get("backups", ()):
        return Ending(
            good=True,
            error="; ".join(failed),
            backup=backup["id"],
            seconds=backup["seconds"],
            downtime_seconds=backup["downtime_seconds"],
            stored_bytes=backup["stored_bytes"],
            down=_down(done.document),
            findings=backup["findings_total"],
            suspicious=next(
                (
                    f"{each['kind']}: {each['detail']}"
                    for each in backup["findings"]
                    if each["kind"] in {"shrunk", "rewritten"}
                ),
                "",
            ),
        )
    interrupted = stopped and done.code in {Interrupted.exit_code, -signal.SIGTERM, 0}
    refused = any(each["busy"] for each in done.document.get("failed", ()))
    return Ending(
        good=False,
        interrupted=interrupted,
        refused=refused,
        error="; ".join(failed) or done.last_line,
        stopped=any(each.get("stopped", False) for each in done.document.get("failed", ())),
        down=_down(done.document),
    )


def _down(document: dict[str, Any], key: str = "down") -> tuple[Down, ...]:
    return tuple(Down(each["name"], each["error"]) for each in document.get(key, ()))


def _recovery_ending(done: _Done, *, stopped: bool) -> RecoveryEnding:
    document = done.document
    if "left" not in document:
        interrupted = stopped and done.code in {Interrupted.exit_code, -signal.SIGTERM, 0}
        return RecoveryEnding(interrupted=interrupted, error=done.last_line)
    return RecoveryEnding(_down(document, "left"), tuple(document.get("brought_back", ())))


def _share_ending(done: _Done, *, stopped: bool) -> ShareEnding:
    document = done.document
    if not document.get("share"):
        interrupted = stopped and done.code in {Interrupted.exit_code, -signal.SIGTERM, 0}
        return ShareEnding(done=False, interrupted=interrupted, error=done.last_line)
    news: dict[str, str] = {}
    for each in document["hurt"]:
        if each["new"]:
            line = f"{each['volume']}@{each['id']}: {each['error']}"
            news[each["volume"]] = f"{news[each['volume']]}; {line}" if each["volume"] in news else line
    return ShareEnding(
        done=True,
        news=news,
        hurt=len(document["hurt"]),
        objects=document["objects"],
        read_bytes=document["read_bytes"],
    )
