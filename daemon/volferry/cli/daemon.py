"""`volferry daemon`: backs volumes up when they are due, for as long as it runs."""

from __future__ import annotations

import queue
import signal
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog

from volferry.cli.daemon_copies import DaemonCopies
from volferry.cli.daemon_log import configure_log
from volferry.cli.daemon_runs import ProcessRuns
from volferry.cli.daemon_settings import DaemonSettings
from volferry.cli.heartbeat import Heartbeat
from volferry.cli.options import ConfigOption, EngineOption, HostOption, StoreOption
from volferry.cli.surroundings import EngineAndStore, zone_of
from volferry.config import Config, config_path, load_config
from volferry.daemon_lock import daemon_lock
from volferry.errors import ConfigError, Interrupted, described
from volferry.history import History
from volferry.journal import forgotten, journals_of_the_dead, unreadable_journals
from volferry.scheduler.agenda import Agenda
from volferry.scheduler.copies import Copies
from volferry.scheduler.events import Event
from volferry.scheduler.loop import Ending, Loop
from volferry.scheduler.moments import Moment
from volferry.scheduler.recovering import Recovering
from volferry.scheduler.turns import Guard, Turn
from volferry.scheduler.verifying import Verifying
from volferry.systemd_notify import notify
from volferry.telling.notifier import Notifier
from volferry.upkeep import UpkeepLog
from volferry.verification_log import VerificationLog
from volferry.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from volferry.scheduler.agenda import Appointment
    from volferry.upkeep import Work

_GLANCE = timedelta(seconds=2)  # at the configuration's file
_LISTEN_AGAIN = timedelta(seconds=10)
_STOP_EXTENSION = timedelta(seconds=30)  # what is asked for again and again
_LONGEST = timedelta(minutes=5)  # without a turn
_SLOWEST = timedelta(minutes=10)  # of one look, with all that it may wait for

Log = Any  # of structlog, which has no type for what it makes


def daemon(
    *,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Back up volumes when they are due. The daemon also copies, prunes and verifies, until SIGTERM or SIGINT. SIGHUP has the
    configuration read again; a change of its file is noticed.
    """
    options = {"store": store, "host": host, "engine": engine}
    with ExitStack() as at_end:
        path = config_path(config)
        # Before anything of the state directory is written.
        at_end.enter_context(daemon_lock(load_config(path, options).state_dir))
        return _Daemon(DaemonSettings(path, options), at_end).run()


class _Daemon:
    """Implements `Source` and `Answers` for the web server."""

    def __init__(self, settings: DaemonSettings, at_end: ExitStack) -> None:
        self._settings = settings
        self._wake: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._at_end = at_end
        configure_log(settings.config)
        self._log: Log = structlog.get_logger()
        self.history = History(settings.config.state_dir, settings.config.store_config.place)
        self.verified = VerificationLog(settings.config.state_dir, settings.config.store_config.place)
        self._surroundings = EngineAndStore(
            lambda: self._config, self.history, lambda: self._wake.put(("changed", None)), self._log
        )
        at_end.callback(self._surroundings.close)
        self.upkeep = UpkeepLog(settings.config.state_dir)
        self._owed = DaemonCopies(
            lambda: self._config, self._surroundings.host, self._surroundings.backed_up, self.upkeep
        )
        self._runs = ProcessRuns(
            settings.arguments,
            lambda: self._config.state_dir,
            self._log,
            has_replicas=lambda: bool(self._config.replicas),
            began=lambda volume, _: self._ping(volume, "start"),
            ended=lambda run, endings: self._wake.put(("ended", (run, endings))),
            stall=lambda: self._config.daemon.stall.delta,
            released=lambda: self._wake.put(("released", None)),
            shared=lambda ending: self._wake.put(("verified", ending)),
            recovered=lambda ending: self._wake.put(("recovered", ending)),
            owes_copies=self._owed.owe,
            follow_up_failed=lambda work, volume, began, error: self._owed.failed(
                work, volume, began, datetime.now(UTC), error
            ),
            copied=lambda ending: self._wake.put(("copied", ending)),
        )
        self._told = Notifier(lambda: self._config, self._surroundings.host, self._log)
        self._guard = Guard(self.tell, self._log)
        self._web: WebServer | None = None
        self._web_due: timedelta | None = None  # by the clock that only goes on
        self._web_trouble = ""
        self._heartbeat = Heartbeat(settings.config.state_dir)
        self._digest_since = datetime.now(UTC)
        self._beat = time.monotonic()
        self._loop = Loop(
            config=lambda: self._config,
            agenda=Agenda(zone_of(settings.config)),
            surroundings=self._surroundings,
            runs=self._runs,
            teller=self,
            memory=self.history,
            log=self._log,
            started=Moment.now(),
        )
        self._verifying = Verifying(
            config=lambda: self._config,
            zone=lambda: self._loop.agenda.zone,
            shares=self._runs,
            memory=self,
            tell=self.tell,
            log=self._log,
            started=Moment.now(),
        )
        self._copies = Copies(self._runs, self._owed, self.tell, self._log)
        self._prunes = Copies(self._runs, self._owed, self.tell, self._log, "prune")
        self._recovering = Recovering(
            config=lambda: self._config,
            journals=self._journals,
            recoveries=self._runs,
            tell=self.tell,
            log=self._log,
            forgotten=lambda: forgotten(self._config.state_dir),
        )

        self._recovery_turn = Turn("bringing services back", self._recovering.step, self._guard)
        # Services first, then backups: what is due begins before a share of the store is read.
        self._turns = [
            self._recovery_turn,
            Turn("looking for what is due", self._loop.step, self._guard),
            Turn("verifying", self._verifying.step, self._guard),
            Turn("making up for copies", self._copies.step, self._guard),
            Turn("making up for prunes", self._prunes.step, self._guard),
            Turn("the digest", self._tell_digest, self._guard),
            Turn("listening", self._listen, self._guard),
        ]

    def _journals(self) -> list[str]:
        state = self._config.state_dir
        return [
            *(journal.run_id for journal, _ in journals_of_the_dead(state)),
            *(each.run_id for each in unreadable_journals(state)),
            *filter(None, [self._surroundings.abandoned]),
        ]

    def run(self) -> int:
        signal.signal(signal.SIGHUP, lambda *_: self._wake.put(("reload", True)))
        self._log.info("the daemon has started", config=str(self._settings.path or "none"))
        for past in self.history.settle(datetime.now(UTC)):
            self._log.warning("a run was interrupted", volume=past.volume, run=past.run, error=past.error)
        notify("READY=1")
        # A second signal must not keep services from being started again: what is to be ended is ended by the first.
        try:
            while True:
                if self._settings.is_to_be_read:
                    self._guard.attempt("reading the configuration again", self._reload)
                now = Moment.now()
                ends = [turn.take(now) for turn in self._turns]
                self._await(
                    min((each for each in ends if each is not None), default=now.mono + _LONGEST), now
                )
        except Interrupted as error:
            notify("STOPPING=1")
            self._log.info("the daemon stops", reason=str(error))
            self._runs.stop(waiting=_ask_for_time)
            self._told.close()
            if self._web is not None:
                self._web.close()
            self._log.info("the daemon has stopped")
            return 0

    def tell(self, event: Event) -> None:
        """Implements `Teller`. What cannot be told is in the log."""
        try:
            self._told.tell(event)
        except Exception as error:  # noqa: BLE001 -- nothing else must be left for that
            self._guard.say("error", "a message could not be made", what=event.what, error=described(error))

    @property
    def appointments(self) -> list[Appointment]:
        return list(self._loop.appointments)

    @property
    def trouble(self) -> str:
        if trouble := self._loop.trouble or next(filter(None, (turn.trouble for turn in self._turns)), ""):
            return trouble
        return "" if self._loop.looked_at else "nothing was looked at yet"

    def going_on(self) -> Mapping[str, datetime]:
        return self._runs.going_on()

    def exists(self, volume: str) -> bool:
        return self._loop.looked_at is None or self._surroundings.has(volume)

    def last_share(self) -> datetime | None:
        """Implements `ShareMemory`."""
        last = self.verified.last_done()
        return last.ended if last is not None else None

    def shares_since(self, now: datetime) -> datetime:
        return self.verified.since("", now)

    @property
    def state_directory(self) -> Path:
        return self._config.state_dir

    @property
    def stores(self) -> Mapping[Work, Mapping[str, str]]:
        return self._owed.stores

    @property
    def verify_late(self) -> bool | None:
        """None where nothing is to be verified."""
        return None if self._config.verify.schedule is None else self._verifying.late

    def metrics(self) -> bytes:
        from volferry.web.metrics import Metrics  # noqa: PLC0415 -- only where somebody asks

        return Metrics(self, self._guard.failed).text()

    def unhealthy(self) -> str:
        silent = time.monotonic() - self._beat
        return f"nothing was done for {silent:.0f} s" if silent > _SLOWEST.total_seconds() else ""

    def unready(self) -> str:
        return self.trouble

    @property
    def _config(self) -> Config:
        return self._settings.config

    def _await(self, until: timedelta, since: Moment) -> None:
        """Until then, or until something happens, such as that the clock is put."""
        while True:
            self._beat = time.monotonic()
            self._heartbeat.beat()
            notify("WATCHDOG=1")
            now = Moment.now()
            left = until - now.mono
            if left <= timedelta() or now.change_since(since):
                return
            if self._settings.is_to_be_read:
                return
            if not self._recovery_turn.rests and self._recovering.is_wanted():
                return
            try:
                what, detail = self._wake.get(timeout=min(left, _GLANCE).total_seconds())
            except queue.Empty:
                continue
            self._happened(what, detail)
            return

    def _happened(self, what: str, detail: Any) -> None:
        now = Moment.now()
        attempt = self._guard.attempt
        if what == "reload":
            attempt("reading the configuration again", self._reload)
        elif what == "changed":
            attempt("taking note of a change", lambda: self._loop.changed(now))
            attempt("taking note of a change", lambda: self._recovering.changed(now))
        elif what == "ended":
            run, endings = detail
            for volume, ending in endings.items():
                self._ended(volume, run, ending, now)
        elif what == "verified":
            attempt("taking note of a share", lambda: self._verifying.ended(detail, now))
        elif what == "recovered":
            self._surroundings.abandoned = ""  # until the next look
            attempt("taking note of what came back", lambda: self._recovering.ended(detail, now))
        elif what == "copied":
            made = self._copies if detail.work == "copy" else self._prunes
            attempt(f"taking note of a {detail.work}", lambda: made.ended(detail, now))

    def _ended(self, volume: str, run: str, ending: Ending, now: Moment) -> None:
        attempt = self._guard.attempt
        attempt("keeping how a run ended", lambda: self._keep(volume, run, ending, now.wall))
        attempt("taking note of a new backup", lambda: self._surroundings.run_ended(volume))
        if not ending.refused:
            stage = "success" if ending.good and not ending.error else "fail"
            attempt("a ping", lambda: self._ping(volume, stage, ending.error))
        attempt("taking note of a run's end", lambda: self._loop.ended(volume, ending, now))
        attempt("taking note of what is down", lambda: self._recovering.found(ending.down, now))

    def _keep(self, volume: str, run: str, ending: Ending, now: datetime) -> None:
        """Of a run that was killed, or that failed before it could do so itself."""
        self.history.settle(now)
        if ending.good or ending.interrupted or ending.refused:
            return
        if not self.history.has(run, volume):
            number = self.history.begin(run, self._surroundings.host(), volume, now)
            self.history.end(number, now, "failed", error=ending.error)

    def _reload(self) -> None:
        notify("RELOADING=1")
        before = self._config
        try:
            self._settings.reload()
            if self._config.daemon.listen != before.daemon.listen:
                self._open_web()
        except Exception as error:  # noqa: BLE001 -- whatever it is: the daemon has one by which it works
            self._settings.config = before
            self._log.error("the configuration is not used, the one before stays", error=described(error))
        else:
            configure_log(self._config)
            self.history.store = self.verified.place = self._config.store_config.place
            self._loop.agenda.zone = zone_of(self._config)
            self._surroundings.close()
            self._loop.reconfigured()
            for turn in self._turns:
                turn.at_once()
            self._log.info("the configuration was read again")
        notify("READY=1")

    def _listen(self, now: Moment) -> timedelta | None:
        """A port that is taken is no reason to back up nothing: it is tried again. Returns when."""
        if self._web is not None or self._config.daemon.listen == "off":
            return None
        if self._web_due is not None and now.mono < self._web_due:
            return self._web_due
        try:
            self._open_web()
        except ConfigError as error:
            if str(error) != self._web_trouble:
                self._web_trouble = str(error)
                self._log.error("nobody can ask the daemon: backups go on", error=self._web_trouble)
            self._web_due = now.mono + _LISTEN_AGAIN
            return self._web_due
        if self._web_trouble:
            self._log.info("the daemon can be asked again")
        self._web_trouble, self._web_due = "", None
        return None

    def _open_web(self) -> None:
        """Raises ConfigError; then the one before goes on."""
        listen = self._config.daemon.listen
        before, self._web = self._web, None if listen == "off" else WebServer(listen, self)
        if before is not None:
            before.close()

    def _ping(self, volume: str, moment: Any, body: str = "") -> None:
        url = self._surroundings.ping_url(volume)
        self._told.ping(url, moment, body)

    def _tell_digest(self, now: Moment) -> timedelta | None:
        """Returns when the next one is due."""
        config = self._config.notify
        if "digest" not in config.on:
            return None
        self._digest_since = min(self._digest_since, now.wall)  # the clock may have been put back
        after = config.digest.after(self._digest_since, self._loop.agenda.zone)
        if after is not None and after <= now.wall:
            from volferry.telling.messages import digest  # noqa: PLC0415

            runs = self.history.recent(10_000, since=self._digest_since)
            text = digest(runs, sorted(self._loop.late), self._digest_since)
            self.tell(Event("digest", "", "what was backed up", now, Ending(True, error=text)))
            self._digest_since = now.wall
            after = config.digest.after(now.wall, self._loop.agenda.zone)
        return None if after is None else now.when(after)


def _ask_for_time() -> None:
    """Of systemd, while services are being started again: it kills what has not ended after a while."""
    notify(f"WATCHDOG=1\nEXTEND_TIMEOUT_USEC={int(_STOP_EXTENSION.total_seconds() * 1e6)}")
