"""`volferry doctor`: whether everything that a backup needs is there, found out by trying it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from volferry import __version__
from volferry.cli.options import ConfigOption, EngineOption, JsonOption, StoreOption
from volferry.cli.output import print_json
from volferry.cli.own_layer import lost_with_us
from volferry.cli.session import Session
from volferry.cli.text import count_text, size_text
from volferry.errors import DamagedObject, EngineError, NoSuchStore, VolferryError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from volferry.model import BackupRef
    from volferry.repository import Repository
    from volferry.stores.base import Store
    from volferry.stores.probe import Probe

_OLDEST_API = (1, 41)  # Docker Engine 20.10


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    ok: bool
    detail: str
    notes: tuple[str, ...] = ()  # what is lacking, and can be done without


def doctor(
    *,
    json: JsonOption = False,
    store: StoreOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Check engine, helper, state directory and store. It says what to mend."""
    session = Session.load(config=config, store=store, engine=engine)
    checks = [
        _Check("volferry", True, f"{__version__}, Python {sys.version.split()[0]}"),
        _tried("engine", lambda: _engine(session)),
        _tried("services", lambda: _services(session)),
        _tried("volumes", lambda: _volumes(session)),
        _tried("state directory", lambda: _state(session)),
        _tried("helper", lambda: _helper(session)),
        _tried("other volferrys", lambda: _others(session)),
        _tried("store", lambda: _store(session, None)),
        *(_tried(f"store {name}", partial(_store, session, name)) for name in _other_stores(session)),
    ]
    engine_check = checks[1]
    checks = [_referring_to(engine_check, each) for each in checks]
    good = all(check.ok for check in checks)
    if json:
        print_json(
            {
                "ok": good,
                "checks": [
                    {"name": each.name, "ok": each.ok, "detail": each.detail, "notes": list(each.notes)}
                    for each in checks
                ],
            }
        )
    else:
        for each in checks:
            print(f"{'ok  ' if each.ok else 'FAIL'}  {each.name}: {each.detail}")
            for note in each.notes:
                print(f"note  {each.name}: {note}")
    return 0 if good else 1


def _referring_to(engine: _Check, check: _Check) -> _Check:
    """The same words once are enough."""
    if check is engine or check.ok or engine.ok or check.detail != engine.detail:
        return check
    return replace(check, detail="not tried: the engine does not answer, see above")


def _tried(name: str, check: Callable[[], str | tuple[str, tuple[str, ...]]]) -> _Check:
    """The check gives its detail, and notes if there are any."""
    try:
        found = check()
        detail, notes = (found, ()) if isinstance(found, str) else found
        return _Check(name, True, detail, notes)
    except VolferryError as error:
        return _Check(name, False, str(error))


def _engine(session: Session) -> tuple[str, tuple[str, ...]]:
    from volferry.engine.own import check_own_container, own_container  # noqa: PLC0415

    api_version = str(session.engine.api.version().get("ApiVersion", "0.0"))
    if tuple(int(part) for part in api_version.split(".")) < _OLDEST_API:
        raise VolferryError(f"{session.engine.product} is too old: Docker 20.10 or Podman 5 is needed")
    notes: list[str] = []
    try:
        check_own_container(session.engine, own_container(session.engine))
    except EngineError as error:
        notes.append(str(error))
    detail = f"{session.engine.product} at {session.engine.url}, host name in the store: {session.host}"
    return detail, tuple(notes)


def _services(session: Session) -> str:
    """Whether an interrupted run has left anything stopped."""
    from volferry.operations.still_down import still_down  # noqa: PLC0415

    down = still_down(session.config.state_dir, session.engine)
    if not down:
        return "no interrupted run has left anything stopped"
    names = ", ".join(dict.fromkeys(each.name for each in down))
    raise VolferryError(
        f"an interrupted run has left this undone: {names}: `volferry status` says what, `volferry recover` does it"
    )


def _volumes(session: Session) -> tuple[str, tuple[str, ...]]:
    """How many there are, and which of them an interrupted restore has left half restored."""
    from volferry.cli.interrupted import restore_state  # noqa: PLC0415
    from volferry.engine.volumes import list_volumes  # noqa: PLC0415
    from volferry.restore_record import begun_restore  # noqa: PLC0415

    half = []
    volumes = list_volumes(session.engine)
    for volume in volumes:
        begun = begun_restore(session.state_of_content(volume.name))
        if begun is not None and not begun.running and (state := restore_state(begun)):
            half.append(f"{volume.name} ({state})")
    note = f"not backed up until that is completed: {', '.join(half)}: `volferry status` says how"
    return count_text(len(volumes), "volume"), (note,) if half else ()


def _state(session: Session) -> tuple[str, tuple[str, ...]]:
    with session.run():
        free = shutil.disk_usage(session.config.state_dir).free
    lost = lost_with_us(session, str(session.config.state_dir))
    return f"{session.config.state_dir}, {size_text(free)} free", (f"it {lost}",) if lost else ()


def _helper(session: Session) -> tuple[str, tuple[str, ...]]:
    """Starts one, with no volume, and tries each program that it needs."""
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.engine.helper_limits import left_out  # noqa: PLC0415
    from volferry.engine.helper_programs import check_programs  # noqa: PLC0415
    from volferry.engine.seen_directories import forget  # noqa: PLC0415

    with session.run() as run:
        session.reap(run)
        forget(session.engine, session.config.state_dir)
        settings = replace(session.helper_settings(), note=lambda _: None)  # the check itself says it
        with open_helper(session.engine, run, settings, [], write=True) as helper:
            check_programs(helper, settings.image)
            lacking = left_out(session.engine)
            return f"image {settings.image}, channel: {helper.way}", (lacking,) if lacking else ()


def _others(session: Session) -> tuple[str, tuple[str, ...]]:
    """Volferrys with another state directory. Each keeps to itself what it does; only what is stopped is known to all."""
    from volferry.engine.others import others  # noqa: PLC0415
    from volferry.engine.own import own_container  # noqa: PLC0415

    with session.run() as run:
        own = own_container(session.engine)
        found = others(session.engine, run.owner, [own.id] if own else [])
    return f"{len(found) or 'none'} seen on this engine", tuple(found)


def _other_stores(session: Session) -> list[str]:
    """Names of the stores in the configuration, without the one in use."""
    config = session.config
    return [name for name, store in config.stores.items() if store.url != config.store_config.url]


def _not_whole(session: Session, repository: Repository) -> set[BackupRef]:
    """Backups that lack something, by the LISTs of the store. Raises StoreError."""
    from volferry.archive.manifest import Manifest  # noqa: PLC0415
    from volferry.damage import Condition, troubled  # noqa: PLC0415

    manifests = repository.manifests(cache=session.manifest_cache(repository))
    refs = [ref for ref, _ in manifests]
    hurt = {ref for ref, found in manifests if isinstance(found, DamagedObject)}
    backups = [(ref, found) for ref, found in manifests if isinstance(found, Manifest)]
    hurt |= troubled(repository, Condition.of(repository), backups).keys() if backups else set()
    return hurt | session.lost(refs, repository=repository).keys()


def _probed(store: Store) -> Probe | None:
    """Try out a directory, here or elsewhere. Raises StoreError where it can keep no store."""
    from volferry.stores.local import LocalStore  # noqa: PLC0415
    from volferry.stores.sftp import SftpStore  # noqa: PLC0415

    return store.probe() if isinstance(store, LocalStore | SftpStore) else None


def _store(session: Session, name: str | None) -> tuple[str, tuple[str, ...]]:
    """The store in use, or another one of the configuration."""
    store = session.store if name is None else session.named_store(name)
    repository: Repository | None = None
    hurt: Collection[BackupRef] = ()
    try:
        repository = session.repository if name is None else session.named_repository(name)
        holds = count_text(sum(1 for _ in repository.refs()), "backup")
        hurt = _not_whole(session, repository)
    except NoSuchStore:
        is_replica = name is not None and session.config.named_store(name).replica_of is not None
        holds = f"nothing there yet, the first {'copy' if is_replica else 'backup'} makes it"
    lost = lost_with_us(session, store.url)
    if lost and repository is None:
        raise VolferryError(f"{store.url} {lost}, or name another store")
    if hurt:
        others = f" and {len(hurt) - 1} more" if len(hurt) > 1 else ""
        raise VolferryError(
            f"{store.url}: {holds}, and {min(hurt, key=str)}{others} cannot be restored as a whole: "
            f"`volferry list --all-hosts{'' if name is None else f' --store {name}'}` says why"
        )
    if (found := _probed(store)) is not None:
        free = f", {size_text(found.free_bytes)} free" if found.free_bytes is not None else ""
        tried = f"written, read and renamed for a trial{'' if repository else ' beside where it will be'}"
        return f"{store.url}: {holds}{free}; {tried}", (*((f"it {lost}",) if lost else ()), *found.lacks)
    from volferry.stores.s3 import S3Store  # noqa: PLC0415 -- boto3 is slow to import

    if isinstance(store, S3Store):
        return f"{store.url}: {holds}; written, read and deleted for a trial", store.probe().lacks
    if repository is not None:
        # Says by failing whether it can be written.
        store.create("volferry-doctor").abort()
    return f"{store.url}: {holds}", ()
