"""What an SFTP server says of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.stores.sftp_packets import DENIED, FSTAT, LSTAT, NO_SUCH_FILE, STAT, Refused, string

if TYPE_CHECKING:
    from volferry.stores.sftp_connection import Connection
    from volferry.stores.sftp_packets import Attributes


def attributes_of(connection: Connection, path: str) -> Attributes | None:
    """None where nothing is. Raises Lost, Refused."""
    try:
        return connection.call(LSTAT, string(path)).attributes()
    except Refused as error:
        if error.code == NO_SUCH_FILE:
            return None
        raise


def attributes_of_open(connection: Connection, handle: bytes, path: str) -> Attributes:
    """Of a file that nobody else has the name of: by its path, where an account may not ask by the handle. Raises Lost, Refused."""
    try:
        return connection.call(FSTAT, string(handle)).attributes()
    except Refused as refused:
        if refused.code not in DENIED:
            raise
        for kind in (LSTAT, STAT):
            try:
                return connection.call(kind, string(path)).attributes()
            except Refused:
                continue
        raise
