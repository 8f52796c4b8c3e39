"""`volferry volumes`: what is on this engine, who uses it, its size, and its last backup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.options import ConfigOption, EngineOption, HostOption, JsonOption, StoreOption
from volferry.cli.session import Session, print_json, say
from volferry.cli.text import local_time_text, size_text, table
from volferry.errors import EngineError, VolferryError
from volferry.model import time_of_id

if TYPE_CHECKING:
    from volferry.model import BindMount, Volume, WritableLayer


@dataclass(frozen=True, slots=True)
class _Overview:
    """The volumes of an engine, with sizes and newest backups."""

    volumes: list[Volume]
    sizes: dict[str, int]  # bytes by volume, where the engine knows
    newest: dict[str, str]  # id of the newest backup by volume
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
    from volferry.engine.volumes import list_volumes, unprotected, volume_sizes  # noqa: PLC0415

    session = Session.load(config=config, store=store, engine=engine, host=host)
    found = [volume for volume in list_volumes(session.engine) if everything or not volume.anonymous]
    try:
        sizes = volume_sizes(session.engine)
    except EngineError as error:  # a driver that does not answer; the list is still worth having
        say(f"volferry: sizes are not known: {error}")
        sizes = {}
    newest = _newest_backups(session, needs_store=store is not None)
    binds, layers = unprotected(session.engine) if everything else ([], [])
    overview = _Overview(found, sizes, newest, binds, layers)
    if json:
        print_json(_document(session, overview, everything=everything))
    else:
        _print(session, overview)
    return 0


def _newest_backups(session: Session, *, needs_store: bool) -> dict[str, str]:
    """Volume -> id of its newest backup from this host. A store that cannot be read is a note here, and no failure. Raises UnknownStore
    where the store is needed.
    """
    from volferry.errors import NoSuchStore  # noqa: PLC0415

    try:
        return {ref.volume: ref.id for ref in session.repository.refs(host=session.host)}
    except NoSuchStore:
        if needs_store:
            raise
        return {}
    except VolferryError as error:
        say(f"volferry: last backups are not known: {error}")
        return {}


def _document(session: Session, overview: _Overview, *, everything: bool) -> dict[str, Any]:
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
                "size_bytes": overview.sizes.get(volume.name),
                "last_backup": overview.newest.get(volume.name),
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
            }
            for bind in overview.binds
        ]
        document["writable_layers"] = [
            {"container": layer.container, "image": layer.image, "size_bytes": layer.size_bytes}
            for layer in overview.layers
        ]
    return document


def _print(session: Session, overview: _Overview) -> None:
    if not overview.volumes:
        print(f"No volumes on {session.engine.url}.")
    else:
        rows = []
        for volume in overview.volumes:
            users = ", ".join(
                f"{use.container}{'' if use.read_write else ' (ro)'}{'' if use.running else f' ({use.state})'}"
                for use in volume.uses
            )
            last = overview.newest.get(volume.name)
            state = local_time_text(time_of_id(last)) if last else "never"
            name = volume.name if not volume.anonymous else f"{volume.name[:12]}… (anonymous)"
            if volume.incomplete:
                name += " (incomplete)"
            size = size_text(overview.sizes[volume.name]) if volume.name in overview.sizes else "?"
            rows.append((name, volume.driver, size, state, users or "-"))
        print(table(("VOLUME", "DRIVER", "SIZE", "LAST BACKUP", "USED BY"), rows, right=(2,)))
    if overview.binds or overview.layers:
        print("\nNot in a volume, and not backed up:")
        lost = [
            (
                "bind mount",
                bind.container,
                f"{bind.source} at {bind.destination}{'' if bind.read_write else ' (ro)'}",
                "",
            )
            for bind in overview.binds
        ]
        lost += [
            ("writable layer", layer.container, layer.image, size_text(layer.size_bytes))
            for layer in overview.layers
        ]
        print(table(("KIND", "CONTAINER", "WHAT", "SIZE"), lost, right=(3,)))
