"""`volferry volumes`: what is on this engine, who uses it, its size, and its last backup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.interrupted import restore_document, restore_state
from volferry.cli.options import ConfigOption, EngineOption, HostOption, JsonOption, StoreOption
from volferry.cli.output import print_json, say
from volferry.cli.session import Session
from volferry.cli.text import local_time_text, size_text, table
from volferry.errors import EngineError
from volferry.model import time_of_id
from volferry.restore_record import begun_restore

if TYPE_CHECKING:
    from volferry.cli.stored import StoredOfHost
    from volferry.model import BindMount, Volume, WritableLayer
    from volferry.restore_record import BegunRestore


@dataclass(frozen=True, slots=True)
class _Overview:
    """The volumes of an engine, with sizes and newest backups."""

    volumes: list[Volume]
    sizes: dict[str, int]  # bytes by volume, where the engine knows
    stored: StoredOfHost
    restores: dict[str, BegunRestore]  # that run, or were interrupted, by volume
    binds: list[BindMount]
    layers: list[WritableLayer]


def volumes(
    *,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", "-a", help="Also anonymous volumes, and data that is in no volume: bind mounts, layers."
        ),
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Show the volumes of this engine. With each: the containers that use it, and its last backup."""
    from volferry.cli.stored import stored_of_host  # noqa: PLC0415 -- slow to import
    from volferry.engine.volumes import list_volumes, unprotected, volume_sizes  # noqa: PLC0415

    session = Session.load(config=config, store=store, engine=engine, host=host)
    if store is not None:
        session.check_place()
    found = [volume for volume in list_volumes(session.engine) if everything or not volume.anonymous]
    try:
        sizes = volume_sizes(session.engine)
    except EngineError as error:  # a driver that does not answer; the list is still worth having
        say(f"volferry: sizes are not known: {error}")
        sizes = {}
    # A store that cannot be read keeps nobody from seeing the volumes.
    stored = stored_of_host(session, {}, needs_store=store is not None)
    if stored.unknown:
        say(f"volferry: last backups are not known: {stored.unknown}")
    binds, layers = unprotected(session.engine) if everything else ([], [])
    restores = {
        volume.name: begun
        for volume in found
        if (begun := begun_restore(session.state_of_content(volume.name))) is not None
    }
    overview = _Overview(found, sizes, stored, restores, binds, layers)
    if json:
        print_json(_document(session, overview, everything=everything))
    else:
        _print(session, overview)
    return 1 if stored.unknown else 0


def _document(session: Session, overview: _Overview, *, everything: bool) -> dict[str, Any]:
    from volferry.engine.bind_mounts import bind_name  # noqa: PLC0415 -- slow to import

    document: dict[str, Any] = {
        "engine": session.engine.url,
        "host": session.host,
        "volumes": [
            {
                "name": volume.name,
                "driver": volume.driver,
                "options": dict(volume.options),
                "labels": dict(volume.labels),
                "scope": volume.scope,
                "created_at": volume.created_at,
                "anonymous": volume.anonymous,
                "incomplete": volume.incomplete,
                "restore": restore_document(overview.restores[volume.name])
                if volume.name in overview.restores
                else None,
                "size_bytes": overview.sizes.get(volume.name),
                **_last_backup(overview.stored, volume.name),
                "containers": [
                    {
                        "name": use.container,
                        "id": use.container_id,
                        "image": use.image,
                        "state": use.state,
                        "destination": use.destination,
                        "read_write": use.read_write,
                        "project": use.project,
                    }
                    for use in volume.uses
                ],
            }
            for volume in overview.volumes
        ],
    }
    if everything:
        document["bind_mounts"] = [
            {
                "container": bind.container,
                "source": bind.source,
                "destination": bind.destination,
                "read_write": bind.read_write,
                **_last_backup(overview.stored, bind_name(bind.source)),
            }
            for bind in overview.binds
        ]
        document["writable_layers"] = [
            {"container": layer.container, "image": layer.image, "size_bytes": layer.size_bytes}
            for layer in overview.layers
        ]
    return document


def _last_backup(stored: StoredOfHost, volume: str) -> dict[str, str | bool | None]:
    last = stored.newest.get(volume)
    return {
        "last_backup": last.id if last else None,
        "last_backup_whole": last not in stored.troubles if last else None,
    }


def _last_backup_text(stored: StoredOfHost, volume: str) -> str:
    last = stored.newest.get(volume)
    if last is None:
        return "?" if stored.unknown else "never"
    return f"{local_time_text(time_of_id(last.id))}{' (not whole)' if last in stored.troubles else ''}"


def _print(session: Session, overview: _Overview) -> None:
    from volferry.engine.bind_mounts import bind_name  # noqa: PLC0415

    if not overview.volumes:
        print(f"No volumes on {session.engine.url}.")
    else:
        rows = []
        for volume in overview.volumes:
            users = ", ".join(
                f"{use.container}{'' if use.read_write else ' (ro)'}{'' if use.running else f' ({use.state})'}"
                for use in volume.uses
            )
            last_backup = _last_backup_text(overview.stored, volume.name)
            name = volume.name if not volume.anonymous else f"{volume.name[:12]}… (anonymous)"
            if volume.incomplete:
                name += " (incomplete)"
            elif volume.name in overview.restores and (
                state := restore_state(overview.restores[volume.name])
            ):
                name += f" ({state})"
            size = size_text(overview.sizes[volume.name]) if volume.name in overview.sizes else "?"
            rows.append((name, volume.driver, size, last_backup, users or "-"))
        print(table(("VOLUME", "DRIVER", "SIZE", "LAST BACKUP", "USED BY"), rows, right=(2,)))
    if overview.binds or overview.layers:
        print("\nNot in a volume, and backed up only where somebody asks for it:")
        outside = [
            (
                "bind mount",
                bind.container,
                f"{bind.source} at {bind.destination}{'' if bind.read_write else ' (ro)'}",
                "",
                _last_backup_text(overview.stored, bind_name(bind.source)),
            )
            for bind in overview.binds
        ]
        outside += [
            ("writable layer", layer.container, layer.image, size_text(layer.size_bytes), "never")
            for layer in overview.layers
        ]
        print(table(("KIND", "CONTAINER", "WHAT", "SIZE", "LAST BACKUP"), outside, right=(3,)))
