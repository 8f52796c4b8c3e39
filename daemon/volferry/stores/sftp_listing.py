"""The objects of a store on an SFTP server: level by level, the directories of one read together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.errors import StoreError
from volferry.model import ObjectInfo
from volferry.stores.base import is_valid_key
from volferry.stores.sftp_attributes import attributes_of
from volferry.stores.sftp_directories import read_directories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from volferry.stores.sftp_access import Access
    from volferry.stores.sftp_connection import Connection
    from volferry.stores.sftp_packets import Attributes


def objects_below(connection: Connection, access: Access, path: str, prefix: str) -> list[ObjectInfo]:
    """Those in a directory whose keys begin with `prefix`, in any order. Raises Lost, Refused, StoreError."""
    if path and _is_no_directory(connection, access, path):
        return []
    found: list[ObjectInfo] = []
    level = [path]
    while level:
        entries = entries_in(connection, access, level, prefix)
        level = [key for key, attributes in entries if attributes.is_directory]
        found += [
            info_of(key, attributes)
            for key, attributes in entries
            if attributes.is_file and key.startswith(prefix)
        ]
    return found


def entries_in(
    connection: Connection, access: Access, directories: Sequence[str], prefix: str
) -> list[tuple[str, Attributes]]:
    """Files, and directories in which there may be some, by their keys. Links are none: they may lead anywhere, also back."""
    found = []
    above = {access.directories.path(each): f"{each}/" if each else "" for each in directories}
    for place, entries in read_directories(connection, list(above)):
        for entry in entries or ():
            key = f"{above[place]}{entry.name}"
            if "/" in entry.name or not is_valid_key(key):
                continue
            attributes = entry.attributes
            if attributes.mode is None:  # a server need not say it in a list
                attributes = attributes_of(connection, f"{place}/{entry.name}") or attributes
            if attributes.is_file or (
                attributes.is_directory and (f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"))
            ):
                found.append((key, attributes))
    return found


def info_of(key: str, attributes: Attributes) -> ObjectInfo:
    size = attributes.size or 0
    return (
        ObjectInfo(key, size) if attributes.modified is None else ObjectInfo(key, size, attributes.modified)
    )


def _is_no_directory(connection: Connection, access: Access, path: str) -> bool:
    """Whether it is missing. Raises StoreError for something else in its place: "nothing is there" would be believed."""
    attributes = attributes_of(connection, access.directories.path(path))
    if attributes is None:
        return True
    if not attributes.is_directory:
        raise StoreError(f"cannot list {path} in the store {access.client.url}: not a directory")
    known = access.known
    return known is not None and not known.exact_names and not access.directories.is_exact(connection, path)
