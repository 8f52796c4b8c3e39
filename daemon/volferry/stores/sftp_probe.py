"""Tries all that a store does on an SFTP server, before the first backup finds out."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from volferry.errors import StoreError
from volferry.stores.probe import Probe
from volferry.stores.sftp_abilities import FILE_MODE, find_abilities
from volferry.stores.sftp_directories import TEMPORARY, Directories
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
    RMDIR,
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

    from volferry.stores.sftp_abilities import Abilities
    from volferry.stores.sftp_access import Access
    from volferry.stores.sftp_client import Client
    from volferry.stores.sftp_connection import Connection

_CONTENT = b"volferry doctor\n" * 512


def probe(connection: Connection, access: Access) -> Probe:
    """In the store, or beside where it is to be made, which leaves no directory behind. Raises StoreError where no store can be kept, Refused."""
    directories = access.directories
    if not _is_there(connection, directories.path("")):
        return _beside(connection, access)
    syncs = _written(connection, access, directories)
    abilities = _able(access, access.look(connection))
    space = access.client.space(connection)
    return Probe(space.free_bytes if space else None, tuple(_lacks(abilities, syncs=syncs)))


class _TrialDirectories(Directories):
    """Of no store, in a directory of their own."""

    def __init__(self, client: Client, root: str) -> None:
        super().__init__(client)
        self._root = root

    def remove(self, connection: Connection) -> bool:
        """Whether that can be done."""
        return all(_done(connection, RMDIR, string(self.path(each))) for each in (TEMPORARY, ""))


def _beside(connection: Connection, access: Access) -> Probe:
    """A store is made by a backup, not by a look."""
    parent = _nearest(connection, access.directories.path(""))
    directories = _TrialDirectories(access.client, f"{parent}.volferry-doctor-{secrets.token_hex(8)}")
    try:
        directories.make(connection, TEMPORARY)
    except Refused as error:
        raise StoreError(
            f'no store can be made at {access.client.url}: the server says "{error.text}" to a new directory in '
            f"{parent or 'the directory in which a login begins'}: make the store's there, or name one in which this account may write"
        ) from error
    space = access.client.space(connection, directories.path(""))
    free_bytes = space.free_bytes if space else None
    # Before there is more that would stay.
    if not directories.remove(connection):
        stays = f"this account may not delete: the trial's directory {directories.path('')} stays, and what else it may do is found out when there is a store"
        return Probe(free_bytes, (stays,))
    directories.forget()
    try:
        syncs = _written(connection, access, directories)
        abilities = _able(access, find_abilities(connection, directories))
    finally:
        directories.remove(connection)
    return Probe(free_bytes, tuple(_lacks(abilities, syncs=syncs)))


def _nearest(connection: Connection, path: str) -> str:
    """The directory that is there, with its slash at the end; empty for the one in which a login begins."""
    parent, slash, _ = path.rpartition("/")
    if not parent or _is_there(connection, parent):
        return parent + slash
    return _nearest(connection, parent)


def _written(connection: Connection, access: Access, directories: Directories) -> bool:
    """Writes a file and reads it. Whether the server syncs it. Raises StoreError, Refused."""
    directories.make(connection, TEMPORARY)
    path = directories.path(f"{TEMPORARY}/{secrets.token_hex(8)}.doctor.part")
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
            f"the server of {access.client.url} gives back other bytes than were written: keep the store on another one"
        )
    return syncs


def _able(access: Access, found: Abilities) -> Abilities:
    """Raises StoreError where it can name no object."""
    if found.rename == "denied" and not found.links:
        raise access.cannot_name(found)
    return found


def _lacks(abilities: Abilities, *, syncs: bool) -> Iterator[str]:
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
