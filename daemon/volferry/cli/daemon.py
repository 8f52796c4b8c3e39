"""`volferry daemon`: backs volumes up when they are due, for as long as it runs.

Each run is a process of its own, the same as a person would start: what it holds is given back when it ends, and what ends it
ends nothing else.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import structlog
from tzlocal import get_localzone

from volferry.cli.options import ConfigOption, EngineOption, HostOption, StoreOption
from volferry.cli.session import Session
from volferry.config import Config, config_path, load_config
from volferry.errors import FINDINGS_EXIT_CODE, ConfigError, Interrupted, NoSuchStore, VolferryError
from volferry.interrupts import held_back
from volferry.scheduler import Agenda, start_due

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from volferry.engine.events import Watch
    from volferry.scheduler import Appointment

_LONGEST_LOOK = timedelta(minutes=5)  # what is looked at again without a reason
_TROUBLED_LOOK = timedelta(minutes=1)  # after one that failed
_CALM = timedelta(seconds=2)
_GLANCE = timedelta(seconds=2)  # at the configuration's file
_SETTLED = timedelta(seconds=2)
_STOP_SECONDS = 8  # of the ten that an engine gives a container

Log = Any  # of structlog, which has no type for what it makes


def daemon(
    *,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Back up volumes when they are due, copy and prune what there is, until SIGTERM or SIGINT. SIGHUP has the
    configuration read again; a change of its file is noticed.
    """
    options = {"store": store, "host": host, "engine": engine}
    settings = _Settings(config_path(config), options)
    arguments = [
        *(part for name, value in options.items() if value for part in (f"--{name}", value)),
        *(("--config", str(config)) if config else ()),
    ]
    return _Daemon(settings, arguments).run()


@dataclass(slots=True)
class _Settings:
    """The configuration in force: the last one that could be read."""

    path: Path | None
    options: dict[str, str | None]
    config: Config = field(init=False)
    _stamp: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        self._stamp = self._stamp_now()
        self.config = load_config(self.path, self.options)

    @property
    def is_to_be_read(self) -> bool:
        """Whether the file is another one now than the one that was read last, and likely to be whole: it was not written a
        moment ago.
        """
        stamp = self._stamp_now()
        return stamp != self._stamp and (
            stamp is None or time.time_ns() - stamp[0] > _SETTLED.total_seconds() * 1e9
        )

    def reload(self) -> None:
        """Raises ConfigError; then the one before stays in force, and is not tried again before the next change."""
        self._stamp = self._stamp_now()
        self.config = load_config(self.path, self.options)

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat() if self.path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size) if found else None


class _Daemon:
    def __init__(self, settings: _Settings, arguments: Sequence[str]) -> None:
        self._settings = settings
        self._wake: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._log = _logger(settings.config)
        self._runs = _Runs(arguments, self._log, self._wake, lambda: bool(self._config.replicas))
        self._agenda = Agenda(_zone(settings.config))
        self._session: Session | None = None
        self._watch: Watch | None = None
        self._appointments: list[Appointment] = []
        self._said: set[str] = set()
        self._looked_at = datetime.now(UTC)
        self._in_trouble = False

    def run(self) -> int:
        self._log.info("the daemon has started", config=str(self._settings.path or "none"))
        # A second signal must not keep services from being started again: what is to be ended is ended by the first.
        signal.signal(signal.SIGHUP, lambda *_: self._wake.put(("reload", True)))
        try:
            while True:
                self._look()
                wait = start_due(
                    self._appointments, self._runs, datetime.now(UTC), at_once=self._config.daemon.at_once
                )
                self._await(wait)
        except Interrupted as error:
            self._log.info("the daemon stops", reason=str(error))
            self._runs.stop()
            self._log.info("the daemon has stopped")
            return 0

    @property
    def _config(self) -> Config:
        return self._settings.config

    def _await(self, until: datetime | None) -> None:
        """Until then, or until something happens."""
        now = datetime.now(UTC)
        longest = now + (_TROUBLED_LOOK if self._in_trouble else _LONGEST_LOOK)
        end = longest if until is None else min(until, longest)
        while (left := end - datetime.now(UTC)) > timedelta() and not self._settings.is_to_be_read:
            try:
                what, detail = self._wake.get(timeout=min(left, _GLANCE).total_seconds())
            except queue.Empty:
                continue
            if what == "changed":  # much of that comes together, and each look asks the store
                end = min(end, self._looked_at + _CALM)
                continue
            self._happened(what, detail)
            return

    def _happened(self, what: str, detail: Any) -> None:
        if what == "reload":
            self._reload()
        elif what == "ended":
            self._ended(*detail)

    def _reload(self) -> None:
        try:
            self._settings.reload()
        except ConfigError as error:
            self._log.error("the configuration is not used, the one before stays", error=str(error))
            return
        self._log = self._runs.log = _logger(self._config)
        self._agenda.zone = _zone(self._config)
        self._close()
        self._said.clear()
        self._log.info("the configuration was read again")

    def _ended(self, volume: str, code: int, error: str) -> None:
        now = datetime.now(UTC)
        if code in {0, FINDINGS_EXIT_CODE}:
            if self._agenda.succeeded(volume):
                self._log.info("it works again", volume=volume)
        elif not self._runs.stopped:
            again = self._agenda.failed(volume, now)
            self._log.error("the run failed", volume=volume, error=error, again=_text(again))

    def _look(self) -> None:
        """What there is now, and when what of it is due."""
        if self._settings.is_to_be_read:
            self._reload()
        try:
            session = self._opened()
            from volferry.engine.volumes import list_volumes  # noqa: PLC0415 -- docker-py is slow to import
            from volferry.operations.quiesce import replay  # noqa: PLC0415

            try:
                left = replay(session.engine, self._config.state_dir, self._log.info)
            except VolferryError as error:  # no reason to back up nothing
                left = [str(error)]
            for problem in left:
                self._say_once("what an interrupted run had stopped could not be brought back", problem)
            volumes = list_volumes(session.engine)
            newest = _newest(session)
        except VolferryError as error:
            self._say_once("cannot look for what is due", str(error))
            self._looked_at, self._in_trouble, self._appointments = datetime.now(UTC), True, []
            return
        self._in_trouble = False
        now = self._looked_at = datetime.now(UTC)
        self._appointments, wrong = self._agenda.appointments(volumes, self._config, newest, now)
        for volume, problem in wrong.items():
            self._say_once("a volume is left out", problem, volume=volume)
        late = {each.volume.name for each in self._appointments if each.late}
        for volume in late - self._runs.going_on():
            self._say_once(
                "a volume is late", "it has no backup for longer than its schedule allows", volume=volume
            )
        if not late and not wrong:
            self._said.clear()

    def _opened(self) -> Session:
        if self._session is None:
            from volferry.engine.events import Watch  # noqa: PLC0415

            session = Session(self._config)
            self._watch = Watch(session.engine, lambda: self._wake.put(("changed", None)))
            self._session = session
        return self._session

    def _close(self) -> None:
        if self._session is not None and self._watch is not None:
            self._watch.stop()
            self._session.engine.close()
        self._session = self._watch = None

    def _say_once(self, what: str, error: str, **more: str) -> None:
        key = f"{what} {error} {more}"
        if key not in self._said:
            self._said.add(key)
            self._log.error(what, error=error, **more)


class _Runs:
    """Processes that back up one volume each, and then copy and prune what there is of it."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Log,
        wake: queue.SimpleQueue[tuple[str, Any]],
        has_replicas: Callable[[], bool],
    ) -> None:
        self._arguments = arguments
        self.log = log
        self._has_replicas = has_replicas
        self._wake = wake
        self._threads: dict[str, threading.Thread] = {}
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def going_on(self) -> set[str]:
        return {volume for volume, thread in self._threads.items() if thread.is_alive()}

    def start(self, volume: str) -> None:
        with held_back():
            thread = threading.Thread(target=self._run, args=(volume,), name=f"run of {volume}")
            self._threads[volume] = thread
            thread.start()

    def stop(self) -> None:
        """Ends what is going on, as a signal would; services are up again when it returns."""
        with self._lock:
            self.stopped = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        for thread in self._threads.values():
            thread.join(max(0.0, end - time.monotonic()))

    def _run(self, volume: str) -> None:
        self.log.info("a run begins", volume=volume)
        code, error = self._command("backup", volume)
        if code in {0, FINDINGS_EXIT_CODE}:
            self.log.info("a run has ended", volume=volume, findings=code == FINDINGS_EXIT_CODE)
            for command in ("copy", "prune") if self._has_replicas() else ("prune",):
                after, why = self._command(command, volume)
                if after not in {0, FINDINGS_EXIT_CODE}:
                    self.log.error("what follows a run failed", command=command, volume=volume, error=why)
        self._wake.put(("ended", (volume, code, error)))

    def _command(self, command: str, volume: str) -> tuple[int, str]:
        """Exit code, and the last line of what it said."""
        with self._lock:
            if self.stopped:
                return Interrupted.exit_code, ""
            process = subprocess.Popen(
                [sys.executable, "-m", "volferry", command, *self._arguments, "--", volume],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                # A signal to the daemon's group is the daemon's to pass on.
                start_new_session=True,
            )
            self._processes.add(process)
        _, said = process.communicate()
        with self._lock:
            self._processes.discard(process)
        lines = [line.removeprefix("volferry: ") for line in said.splitlines() if line.strip()]
        return process.returncode, lines[-1] if lines else f"exit code {process.returncode}"


def _newest(session: Session) -> dict[str, datetime]:
    """When each volume's newest backup began."""
    try:
        refs = session.repository.refs(host=session.host)
        return {ref.volume: ref.time for ref in refs}  # in the order of time
    except NoSuchStore:
        if any((session.config.state_dir / "stores").glob("*")):
            # An unmounted share leaves its mount point, where everything would be backed up anew.
            raise
        return {}


def _zone(config: Config) -> Any:
    if config.daemon.timezone:
        return ZoneInfo(config.daemon.timezone)
    return get_localzone()


def _text(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _logger(config: Config) -> Log:
    renderer: Callable[..., Any] = (
        structlog.processors.JSONRenderer()
        if config.daemon.log == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    return structlog.get_logger()
