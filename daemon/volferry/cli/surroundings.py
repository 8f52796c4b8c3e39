"""The volumes of the engine and the backups in the store, as the daemon and `status` look at them."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tzlocal import get_localzone

from volferry.cli.session import Session
from volferry.errors import ConfigError, NoSuchStore
from volferry.model import time_of_id
from volferry.schedule import is_believed
from volferry.scheduler.loop import View

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from volferry.config import Config
    from volferry.engine.events import Watch
    from volferry.history import History
    from volferry.model import Volume
    from volferry.operations.backup_times import NewestTimes

Log = Any
# Of a store that is not a directory: each time is a request.
_OPENED_EVERY = timedelta(minutes=1)


class EngineAndStore:
    """Implements `Surroundings`. Both are opened when they are first needed, and again after `close`."""

    def __init__(
        self, config: Callable[[], Config], history: History, changed: Callable[[], object], log: Log
    ) -> None:
        self._config = config
        self._history = history
        self._changed = changed
        self._log = log
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._watch: Watch | None = None
        self._volumes: dict[str, Volume] = {}
        self._host = ""
        self.abandoned = ""  # the run of another volferry that has left something down, at the last look
        self._newest: Mapping[str, datetime] = {}
        self._times = _newest_of_store()

    def look(self) -> View:
        from volferry.engine.engine_lock import abandoned  # noqa: PLC0415 -- docker-py is slow to import
        from volferry.engine.volumes import list_volumes  # noqa: PLC0415
        from volferry.run import owner_of  # noqa: PLC0415

        try:
            session = self._opened()
            volumes = list_volumes(session.engine)
            left = abandoned(session.engine, owner_of(session.config.state_dir))
        except Exception:
            # An engine that is upgraded may no longer speak the version that was agreed upon with it.
            self.close()
            raise
        self.abandoned = left.run if left is not None else ""
        self._volumes = {volume.name: volume for volume in volumes}
        now = datetime.now(UTC)
        volumes = [volume for volume in volumes if not session.own_places.in_volume(volume)]
        seen = self._history.first_seen([volume.name for volume in volumes], now)
        self._newest = self._newest_times(session, now)
        return View(volumes, self._newest, seen)

    def run_ended(self, volume: str) -> None:
        """There may be a new backup of it."""
        self._times.run_ended(volume)

    def _newest_times(self, session: Session, now: datetime) -> Mapping[str, datetime]:
        """Looks whether the store is there: where a share is mounted no longer, its mount point would be taken for a store without backups."""
        is_directory = session.config.store_config.place.startswith("/")
        self._times.opened_every = timedelta() if is_directory else _OPENED_EVERY
        newest = self._times.times(session.opened_again, session.host, now)
        # What others have made on this machine meanwhile.
        for run in self._history.good_since(self._times.listed_at or now):
            if run.backup is None or run.host != session.host:
                continue
            began = time_of_id(run.backup)
            if is_believed(began, now):
                newest[run.volume] = max(newest.get(run.volume, began), began)
        return newest

    def host(self) -> str:
        """The machine's name in the store; what is known of it where the engine does not answer."""
        return self._config().host or self._host or "this machine"

    def has(self, volume: str) -> bool:
        """Whether the engine had it at the last look."""
        return volume in self._volumes

    def backed_up(self) -> Collection[str]:
        """Volumes that had backups at the last look."""
        return self._newest.keys()

    def ping_url(self, volume: str) -> str | None:
        found = self._volumes.get(volume)
        try:
            return self._config().settings_of(found).ping if found is not None else None
        except ConfigError:
            return None

    def close(self) -> None:
        with self._lock:
            session, watch = self._session, self._watch
            self._session = self._watch = None
            self._times.forget()
        # Of a connection that has just broken off: nothing of it is used any longer.
        if watch is not None:
            with suppress(Exception):
                watch.stop()
        if session is not None:
            with suppress(Exception):
                session.engine.close()

    def _opened(self) -> Session:
        with self._lock:
            if self._session is None:
                from volferry.engine.events import Watch  # noqa: PLC0415

                session = Session(self._config())
                self._watch = Watch(session.engine, self._changed)
                self._session = session
                self._host = session.host
            return self._session


def view_of(session: Session, volumes: list[Volume], history: History) -> View:
    """Without volumes that hold volferry's own directories. Raises VolferryError where the store cannot be listed."""
    now = datetime.now(UTC)
    volumes = [volume for volume in volumes if not session.own_places.in_volume(volume)]
    seen = history.first_seen([volume.name for volume in volumes], now)
    return View(volumes, _newest(session, now), seen)


def zone_of(config: Config) -> Any:
    if config.daemon.timezone:
        return ZoneInfo(config.daemon.timezone)
    return get_localzone()


def _newest_of_store() -> NewestTimes:
    from volferry.operations.backup_times import NewestTimes  # noqa: PLC0415 -- slow to import

    return NewestTimes()


def _newest(session: Session, now: datetime) -> dict[str, datetime]:
    from volferry.operations.backup_times import newest_times  # noqa: PLC0415 -- slow to import

    try:
        return newest_times(session.opened_again(), session.host, now)
    except NoSuchStore:
        return {}
