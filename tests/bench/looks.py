"""The daemon's looks and its metrics with 1,000 volumes, a year of daily runs, and a year of 1,000 anonymous volumes a day: CPU, without an engine."""

from __future__ import annotations

import json
import resource
import secrets
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import structlog

from tests.bench.measuring import megabytes, workplace
from volferry.cli.surroundings import EngineAndStore
from volferry.config import Config
from volferry.engine.client import Engine
from volferry.history import History
from volferry.layout import manifest_key
from volferry.model import BackupRef, new_backup_id
from volferry.repository import Repository
from volferry.scheduler.agenda import Agenda
from volferry.scheduler.loop import Loop
from volferry.scheduler.moments import Moment
from volferry.store_config import StoreConfig
from volferry.stores.local import LocalStore
from volferry.upkeep import UpkeepLog
from volferry.verification_log import VerificationLog
from volferry.web.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_VOLUMES, _DAYS, _BACKUPS = 1000, 365, 10
_LABELS = {"com.docker.compose.project": "shop", "volferry.schedule": "0 2 * * *", "volferry.quiesce": "stop"}


def main(arguments: list[str]) -> None:
    rounds = int(arguments[0]) if arguments else 5
    now = datetime.now(UTC)
    names = [f"project_volume{number}" for number in range(_VOLUMES)]
    with workplace() as place:
        config = Config(
            state_dir=place / "state", host="host", stores={"main": StoreConfig(url=str(place / "store"))}
        )
        repository, _ = Repository.open_or_create(LocalStore(place / "store"))
        for name in names:
            for age in range(_BACKUPS):
                path = place / "store" / manifest_key(_ref(name, now - timedelta(days=age)))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x" * 100)
        history = _history(place / "state", config.store_config.place, names, now)
        surroundings = EngineAndStore(lambda: config, history, lambda: None, structlog.get_logger())
        session: Any = SimpleNamespace(
            config=config,
            host="host",
            engine=_engine(names),
            opened_again=lambda: repository,
            own_places=SimpleNamespace(in_volume=lambda _: False),
        )
        surroundings._session = session
        loop: Any = Loop(
            config=lambda: config,
            agenda=Agenda(UTC),
            surroundings=surroundings,
            runs=SimpleNamespace(going_on=dict, stalled=set, start=lambda *_: None),
            teller=SimpleNamespace(tell=lambda _: None),
            memory=history,
            log=structlog.wrap_logger(None, processors=[_drop]),
            started=Moment.now(),
        )
        _measured("the first look", 1, lambda: loop.step(Moment.now()))

        def look() -> None:
            surroundings._session = session  # a look that fails drops it
            loop.reconfigured()
            loop.step(Moment.now())
            if loop.trouble or len(loop.appointments) != _VOLUMES:
                raise SystemExit(f"the look failed: {loop.trouble}")

        _measured("a look", rounds, look)
        source: Any = SimpleNamespace(
            history=history, verified=VerificationLog(config.state_dir), upkeep=UpkeepLog(config.state_dir),
            stores={}, state_directory=config.state_dir, appointments=loop.appointments, trouble="",
            verify_late=None, going_on=dict, exists=surroundings.has,
        )  # fmt: skip
        metrics = Metrics(source)
        _measured("metrics", rounds, metrics.text)
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"memory, with all that made this: {megabytes(peak_bytes)}")


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


def _measured(what: str, rounds: int, work: Callable[[], object]) -> None:
    found = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        found.append((time.process_time() - began) * 1000)
    print(f"{what}: {sorted(found)[rounds // 2]:.0f} ms of CPU")


def _ref(name: str, time: datetime) -> BackupRef:
    return BackupRef("host", name, new_backup_id(time))


def _engine(names: list[str]) -> Engine:
    """One container for each volume; answers are read as they are from a real engine."""
    volumes = json.dumps(
        {"Volumes": [{"Name": name, "Driver": "local", "Labels": {}, "CreatedAt": "2026-01-01T00:00:00Z"} for name in names]}
    )  # fmt: skip
    containers = json.dumps(
        [
            {
                "Id": secrets.token_hex(32),
                "Names": [f"/{name}"],
                "Image": "busybox",
                "State": "running",
                "Labels": _LABELS,
                "Mounts": [{"Type": "volume", "Name": name, "Destination": "/data", "RW": True}],
            }
            for name in names
        ]
    )
    api = SimpleNamespace(
        volumes=lambda **_: json.loads(volumes), containers=lambda **_: json.loads(containers), info=dict
    )
    address: Any = SimpleNamespace(shown="made up", scheme="unix", crosses_network=False)
    return Engine(api, address)


def _history(state: Path, place: str, names: list[str], now: datetime) -> History:
    history = History(state, place)
    history.first_seen(names, now)
    ends = [now - timedelta(days=age) for age in range(_DAYS, 0, -1)]
    with closing(sqlite3.connect(state / "history.sqlite")) as database, database:
        database.executemany(
            "INSERT INTO runs (run, host, volume, began, ended, outcome, backup, store) VALUES ('', 'host', ?, ?, ?, 'done', ?, ?)",
            ((name, end.timestamp(), end.timestamp(), new_backup_id(end), place) for end in ends for name in names),
        )  # fmt: skip
        database.executemany(
            "INSERT INTO totals (volume, outcome, count) VALUES (?, 'done', 365)", [(name,) for name in names]
        )
        database.executemany(
            "INSERT INTO seen (volume, first) VALUES (?, 1.0)",
            ((secrets.token_hex(32),) for _ in range(_DAYS * 1000)),
        )
    return history
