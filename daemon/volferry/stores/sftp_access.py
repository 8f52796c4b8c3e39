"""What readers and writers of one store on an SFTP server have in common, and what this machine remembers of that."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

from blake3 import blake3

from volferry.errors import StoreError
from volferry.stores.sftp_abilities import Abilities, find_abilities
from volferry.stores.sftp_client import Client
from volferry.stores.sftp_directories import Directories
from volferry.stores.throttle import Throttle
from volferry.stores.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from volferry.store_config import StoreConfig
    from volferry.stores.places import Remote
    from volferry.stores.sftp_connection import Connection


class Access:
    """To one store. `state` is the state directory; `note` is told what a user should know, once."""

    def __init__(
        self, remote: Remote, settings: StoreConfig, state: Path | None, note: Callable[[str], None]
    ) -> None:
        self.client = Client(remote, settings)
        self.directories = Directories(self.client)
        name = blake3(remote.url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._place = state / "sftp" / name if state else None
        self.uploads = Uploads(self._place)
        self._note = note
        self.throttle = Throttle()
        self._lock = threading.Lock()
        self._abilities: Abilities | None = None
        self._can_sync = True

    def abilities(self, connection: Connection) -> Abilities:
        """Found out with the first object that is written, and remembered. Raises Refused, StoreError."""
        with self._lock:
            if self._abilities is None:
                self._abilities = self._remembered() or self.look(connection)
                if self._abilities.rename == "denied" and not self._abilities.links:
                    raise self.cannot_name(self._abilities)
                self._say(self._abilities, connection)
            return self._abilities

    @property
    def known(self) -> Abilities | None:
        """By now."""
        return self._abilities

    def look(self, connection: Connection) -> Abilities:
        """Finds them out anew. Raises Refused, StoreError."""
        self._abilities = find_abilities(connection, self.directories)
        self._remember(self._abilities)
        return self._abilities

    def cannot_name(self, found: Abilities) -> StoreError:
        return StoreError(
            f'cannot write to the store {self.client.url}: the server refuses to rename ("{found.rename_words}"), and volferry gives an '
            "object its name when it is whole: let this account rename"
        )

    def can_sync(self, connection: Connection) -> bool:
        return connection.can_sync and self._can_sync

    def syncs_nothing(self) -> None:
        """The server offers it, and refuses it."""
        self._can_sync = False

    def forget(self) -> None:
        """What was remembered: something was refused that was not before."""
        with self._lock:
            self._abilities = None
            if self._place is not None:
                (self._place / "server.json").unlink(missing_ok=True)

    def _say(self, found: Abilities, connection: Connection) -> None:
        host = self.client.remote.host
        if found.rename == "overwrites" and not found.links:
            self._note(
                f"{host} renames over what is there: volferry looks itself that nothing is overwritten"
            )
        if not connection.can_sync:
            self._note(f"{host} has no fsync@openssh.com: if its power fails, the newest objects may be gone")

    def _remembered(self) -> Abilities | None:
        try:
            document = json.loads((self._place / "server.json").read_text()) if self._place else {}
            found = Abilities(**document)
        except (OSError, ValueError, TypeError):
            return None
        # One that could name nothing is asked again: somebody may have seen to it.
        return found if found.links or found.rename in {"keeps", "overwrites"} else None

    def _remember(self, found: Abilities) -> None:
        if self._place is None:
            return
        try:
            self._place.mkdir(parents=True, mode=0o700, exist_ok=True)
            (self._place / "server.json").write_text(json.dumps(asdict(found)))
        except OSError:  # found out again next time
            pass
