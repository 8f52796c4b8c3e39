"""Tries all that a store does on an SFTP server, before the first backup finds out."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from volferry.errors import StoreError
from volferry.stores.probe import Probe
from volferry.stores.sftp_abilities import FILE_MODE
from volferry.stores.sftp_directories import TEMPORARY
from volferry.stores.sftp_packets import (
    CLOSE,
    EXTENDED,
    FSYNC,
    NO_SUCH_FILE,
    OPEN,
    OPEN_CREATE,
    OPEN_EXCLUSIVE,
    OPEN_READ,
    OPEN_WRITE,
    READ,
    REMOVE,
    STAT,
    WRITE,
    Refused,
    large_number,
    mode,
    number,
    string,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.stores.sftp_access import Access
    from volferry.stores.sftp_connection import Connection

_CONTENT = b"volferry doctor\n" * 512


def probe(connection: Connection, access: Access) -> Probe:
    """In the store, or beside where it is to be made, which leaves no directory behind. Raises StoreError where no store can be kept, Refused."""
    client, directories = access.client, access.directories
    if not _is_there(connection, directories.path("")):
        # A store is made by a backup, not by a look.
        return Probe(None, ("what the server lets this account do is found out when there is a store",))
    directories.make(connection, TEMPORARY)
    path = directories.path(f"{TEMPORARY}/{secrets.token_hex(8)}.doctor.part")
    syncs = True
    try:
        handle = connection.call(
            OPEN, string(path), number(OPEN_WRITE | OPEN_CREATE | OPEN_EXCLUSIVE), mode(FILE_MODE)
        ).handle()
        connection.call(WRITE, string(handle), large_number(0), string(_CONTENT)).done()
        syncs = connection.can_sync and _done(connection, EXTENDED, string(FSYNC), string(handle))
        connection.call(CLOSE, string(handle)).done()
        handle = connection.call(OPEN, string(path), number(OPEN_READ), number(0)).handle()
        found = connection.call(READ, string(handle), large_number(0), number(len(_CONTENT) + 1)).data()
        content = bytes(found)
        connection.call(CLOSE, string(handle)).done()
    finally:
        _done(connection, REMOVE, string(path))
    if content != _CONTENT:
        raise StoreError(
            f"the server of {client.url} gives back other bytes than were written: keep the store on another one"
        )
    abilities = access.look(connection)
    if abilities.rename == "denied" and not abilities.links:
        raise access.cannot_name(abilities)
    space = client.space(connection)
    return Probe(space.free_bytes if space else None, tuple(_lacks(access, syncs=syncs)))


def _lacks(access: Access, *, syncs: bool) -> Iterator[str]:
    abilities = access.known
    if abilities is None:
        return
    if abilities.rename == "denied":
        yield f'no renaming (the server says "{abilities.rename_words}"): objects get their names by links'
    if abilities.rename == "overwrites" and not abilities.links:
        yield "renaming goes over what is there: volferry looks itself that nothing is overwritten"
    if not abilities.deletes:
        yield "this account may not delete: `prune` and `forget` need another one, and what failed runs leave in .tmp stays"
    if not abilities.replaces:
        yield "this account may not rename over an object: damaged ones are repaired with another one"
    if not syncs:
        yield "no fsync@openssh.com: if the server's power fails, the newest objects may be gone"
    if not abilities.exact_names:
        yield (
            "no difference between upper and lower case, or no dot at the end of a name: volferry refuses volumes and hosts "
            "that it would mix up"
        )


def _done(connection: Connection, kind: int, *parts: bytes) -> bool:
    try:
        connection.call(kind, *parts).done()
    except Refused:
        return False
    return True


def _is_there(connection: Connection, path: str) -> bool:
    try:
        connection.call(STAT, string(path)).attributes()
    except Refused as error:
        if error.code == NO_SUCH_FILE:
            return False
        raise
    return True
