"""`volferry status`: what ran, what runs, what is next, and what is late."""

from __future__ import annotations

import http.client
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.heartbeat import why_not_well
from volferry.cli.interrupted import down_document, down_line, past_error, restore_document, restore_line
from volferry.cli.options import ConfigOption, EngineOption, HostOption, JsonOption, StoreOption
from volferry.cli.output import print_json, say
from volferry.cli.session import Session
from volferry.cli.stored import VerifyStatus, accepted_volumes, stored_of_host
from volferry.cli.surroundings import view_of, zone_of
from volferry.cli.text import duration_text, local_time_text, size_text, table
from volferry.cli.upkeep import UpkeepStatus
from volferry.config import accepted_path, config_path, load_config
from volferry.errors import ConfigError, VolferryError
from volferry.history import History
from volferry.restore_record import begun_restore, last_completed
from volferry.scheduler.agenda import Agenda, scheduled_of
from volferry.scheduler.moments import Moment

if TYPE_CHECKING:
    from volferry.daemon_config import Listen
    from volferry.history import PastRun
    from volferry.operations.still_down import Down
    from volferry.scheduler.agenda import Appointment

_RECENT = 20
_ASK_SECONDS = 10


def status(
    *,
    health: Annotated[
        bool, typer.Option("--health", help="Only ask the daemon whether it does its work: exit code 0 or 1.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Show what ran, what runs, what is next, and what is late. Also backups that cannot be restored. Exit code 1 if something is late, a volume's last run, copy or prune went wrong, a restore was interrupted, a service is still down, or a backup cannot be restored."""
    if health:
        return _health(*_listens(config))
    session = Session.load(config=config, store=store, engine=engine, host=host)
    session.check_place()
    history = History(session.config.state_dir, session.config.store_config.place)
    now = datetime.now(UTC)
    history.settle(now)
    last = history.last()
    outlook = _outlook(session, history, now)
    due, wrong, there = outlook.due, outlook.wrong, outlook.there
    engine_answers, trouble = not outlook.engine_trouble, outlook.trouble
    # A place of which nothing is known is mistyped, where it is typed or another one is known; a machine's first store is made by its first backup.
    needs_store = not last and (store is not None or not session.known_stores.empty)
    done = {
        name: run.backup
        for name, run in last.items()
        if run.good and run.backup and run.store and name in there and run.host == session.host
    }
    stored = stored_of_host(session, done, needs_store=needs_store)
    troubles, unknown = stored.troubles, stored.unknown
    accepted = accepted_volumes(session, last.values())
    verifying = VerifyStatus(session, now, stored)
    upkeep = UpkeepStatus.of(session, None if unknown else stored.newest)
    restores = {name: begun for name in there if (begun := begun_restore(session.state_of_content(name)))}
    names = sorted({*last, *outlook.scheduled, *wrong, *restores, *(ref.volume for ref in troubles)})
    down, journal_trouble = _still_down(session, engine_answers=engine_answers)
    past = {
        name: text
        for name, run in last.items()
        if (text := _past(session, run, gone=engine_answers and name not in there and not _is_bind(name)))
    }
    recent = history.recent(_RECENT)
    running = [run for run in last.values() if run.outcome == "running"]
    answers = _answers(session.config.daemon.listen)
    if json:
        copies, prunes = upkeep.documents()
        print_json(
            {
                "volumes": [
                    {
                        "volume": name,
                        "last": _document(last[name]) if name in last else None,
                        "accepted": name in accepted,
                        "next": due[name].at.isoformat() if name in due else None,
                        "late": due[name].late if name in due else None,
                        "error": wrong.get(name),
                        "past": past.get(name),
                        "verified": _isoformat(verifying.verified(name)),
                        "restore": restore_document(restores[name]) if name in restores else None,
                        "not_whole": [
                            {"id": ref.id, "missing": list(each.missing), "damaged": each.damaged}
                            for ref, each in troubles.items()
                            if ref.volume == name
                        ],
                    }
                    for name in names
                ],
                "running": [_document(run) for run in running],
                "recent": [_document(run) for run in recent],
                "verify": verifying.document,
                "copies": copies,
                "prunes": prunes,
                "down": [down_document(each) for each in down],
                "daemon_answers": answers,
                "trouble": trouble or unknown or None,
            }
        )
    else:
        following = {name: _next(outlook, name, now) for name in names}
        _print(names, last, following, wrong, past, accepted)
        for line in (*verifying.lines(now), *upkeep.lines()):
            print(line)
    if outlook.scheduled and answers is False:
        say(
            f"no daemon answers at {session.config.daemon.listen}: where none runs, nothing is backed up on schedule (`volferry daemon`)"
        )
    for each_down in down:
        say(down_line(each_down, history))
    if journal_trouble:
        say(
            f"volferry: whether an interrupted run has left something stopped cannot be found out: {journal_trouble}"
        )
    for complaint in upkeep.complaints():
        say(session.typed(complaint))
    for name, restore in restores.items():
        say(restore_line(name, restore))
    for ref, each in troubles.items():
        say(f"volferry: {ref} cannot be restored as a whole: {each.text}; {session.typed(each.next_step)}")
    if unknown and not trouble:
        say(f"volferry: what is stored cannot be looked at: {unknown}")
    if trouble:
        say(f"volferry: what is due cannot be found out: {trouble}")
    # Of a volume that is gone nobody could ever make it good.
    failed = any(
        run.outcome in {"failed", "troubled", "interrupted"} and (name in there or _is_bind(name))
        for name, run in last.items()
    )
    half = any(not each.running for each in restores.values())
    bad = (
        trouble or unknown or wrong or failed or half or upkeep.bad or any(each.late for each in due.values())
    )
    return 1 if bad or down or journal_trouble or troubles or verifying.bad else 0


def _still_down(session: Session, *, engine_answers: bool) -> tuple[list[Down], str]:
    """And why that cannot be found out."""
    from volferry.operations.still_down import still_down  # noqa: PLC0415 -- docker-py is slow to import

    try:
        return still_down(session.config.state_dir, session.engine if engine_answers else None), ""
    except VolferryError as error:
        return [], str(error)


def _past(session: Session, run: PastRun, *, gone: bool) -> str:
    """As `past_error`."""
    completed = None
    if run.cause and not gone:
        with suppress(VolferryError):  # of the engine, which is what else is wrong
            completed = last_completed(session.state_of_content(run.volume))
    return past_error(run, completed, gone=gone)


def _is_bind(name: str) -> bool:
    """Of a bind mount, which the engine does not list."""
    return ":" in name


def _isoformat(time: datetime | None) -> str | None:
    return time.isoformat() if time is not None else None


def _listens(config: Path | None) -> tuple[Listen, Path]:
    """Where the daemon does, and its state directory. It goes on with the configuration that it has, whatever became of the file. Raises ConfigError."""
    path = config_path(config)
    try:
        found = load_config(path)
    except ConfigError:
        state = os.environ.get("VOLFERRY_STATE_DIR") or load_config(None).state_dir
        accepted = accepted_path(Path(state))
        if not accepted.is_file():
            raise
        found = load_config(accepted)
    return found.daemon.listen, found.state_dir


@dataclass(frozen=True, slots=True)
class _Outlook:
    """The volumes that are to be backed up, and their times."""

    there: set[str] = field(default_factory=set)  # the engine's volumes
    scheduled: set[str] = field(default_factory=set)  # those that have a schedule
    wrong: dict[str, str] = field(default_factory=dict)  # settings, by volume
    due: dict[str, Appointment] = field(default_factory=dict)
    engine_trouble: str = ""  # why nothing of this is known
    store_trouble: str = ""  # why nothing is known to be due

    @property
    def trouble(self) -> str:
        return self.engine_trouble or self.store_trouble


def _outlook(session: Session, history: History, now: datetime) -> _Outlook:
    from volferry.engine.volumes import list_volumes  # noqa: PLC0415 -- docker-py is slow to import

    try:
        own = session.own_places
        volumes = [volume for volume in list_volumes(session.engine) if not own.in_volume(volume)]
    except VolferryError as error:
        return _Outlook(engine_trouble=str(error))
    there = {volume.name for volume in volumes}
    scheduled, wrong = scheduled_of(volumes, session.config)
    try:
        view = view_of(session, volumes, history)
    except VolferryError as error:
        return _Outlook(there, {each.volume for each in scheduled}, wrong, store_trouble=str(error))
    jitter = session.config.daemon.jitter.delta
    agenda = Agenda(zone_of(session.config))
    appointments = agenda.appointments(
        scheduled, view.newest, view.seen, Moment(now, timedelta()), jitter=jitter
    )
    due = {each.volume: each for each in appointments}
    return _Outlook(there, set(due), wrong, due)


def _document(run: PastRun) -> dict[str, Any]:
    return {
        "run": run.run,
        "host": run.host,
        "volume": run.volume,
        "store": run.store or None,
        "began": run.began.isoformat(),
        "ended": run.ended.isoformat() if run.ended else None,
        "outcome": run.outcome,
        "backup": run.backup,
        "error": run.error,
        "entries": run.entries,
        "source_bytes": run.source_bytes,
        "read_bytes": run.read_bytes,
        "stored_bytes": run.stored_bytes,
        "seconds": run.seconds,
        "downtime_seconds": run.downtime_seconds,
        "findings": run.findings,
    }


def _print(
    names: list[str],
    last: dict[str, PastRun],
    following: dict[str, str],
    wrong: dict[str, str],
    past: dict[str, str],
    accepted: set[str],
) -> None:
    if not names:
        print("Nothing was backed up on this machine yet, and no volume has a schedule.")
        return
    rows = []
    for name in names:
        run = last.get(name)
        good = run is not None and run.good
        rows.append(
            (
                name,
                local_time_text(run.began) if run else "never",
                run.outcome if run else "-",
                duration_text(run.seconds) if run and good else "-",
                size_text(run.stored_bytes) if run and good else "-",
                duration_text(run.downtime_seconds) if run and run.downtime_seconds else "-",
                following[name],
            )
        )
    print(table(("VOLUME", "LAST RUN", "HOW", "TOOK", "STORED", "DOWN", "NEXT"), rows, right=(3, 4, 5)))
    for name in names:
        error = wrong.get(name) or past.get(name) or (last[name].error if name in last else "")
        if error:
            then = (
                f" (run of {local_time_text(last[name].began)})" if name in last and name not in wrong else ""
            )
            print(f"{name}: {'accepted: ' if name in accepted and name not in wrong else ''}{error}{then}")


def _next(outlook: _Outlook, name: str, now: datetime) -> str:
    found = outlook.due.get(name)
    if found is None:
        unknown = outlook.engine_trouble or (outlook.store_trouble and name in outlook.scheduled)
        return "?" if unknown else "not scheduled"
    when = "now" if found.at <= now else local_time_text(found.at)
    return f"{when} (late)" if found.late else when


def _health(listen: Listen, state: Path) -> int:
    """By what the daemon says, or else by its heartbeat: its port may be another's. Raises VolferryError if it does not do its work."""
    said = ""
    if listen != "off":
        try:
            well, said = _ask(listen)
        except (OSError, http.client.HTTPException) as error:
            said = f"the daemon does not answer at {listen}: {error}"
        else:
            if well:
                print(said)
                return 0
            said = f"the daemon is not well: {said}"
    if why := why_not_well(state):
        raise VolferryError(said or f"the daemon is not well: {why}")
    print("ok")
    return 0


def _answers(listen: Listen) -> bool | None:
    """Whether a daemon does; None where that cannot be found out."""
    if listen == "off":
        return None
    try:
        _ask(listen)
    except (OSError, http.client.HTTPException):
        return False
    return True


def _ask(listen: Listen) -> tuple[bool, str]:
    """Whether the daemon is well, and its words."""
    connection = (
        _SocketConnection(str(listen.socket_path)) if listen.socket_path else _port_connection(listen)
    )
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status == http.client.OK, answer.read().decode("utf-8", "replace").strip()
    finally:
        connection.close()


def _port_connection(listen: Listen) -> http.client.HTTPConnection:
    host, port = listen.address
    everywhere = {"", "0.0.0.0", "::"}  # noqa: S104 -- asked on loopback
    return http.client.HTTPConnection("localhost" if host in everywhere else host, port, timeout=_ASK_SECONDS)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ASK_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ASK_SECONDS)
        self.sock.connect(self._path)
