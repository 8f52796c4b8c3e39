"""How a command that needs the engine only for this machine's name in the store goes without it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from volferry.errors import VolferryError

if TYPE_CHECKING:
    from volferry.cli.session import Session


def without_engine(session: Session) -> str:
    """To stand after what says that it does not answer."""
    try:
        hosts = session.repository.hosts()
    except VolferryError:
        hosts = []
    if len(hosts) == 1:
        return f"what needs only the store goes without it, with --host {shlex.quote(hosts[0])}, the only host that has backups there"
    return "what needs only the store goes without it, with --host and the name that this machine has there"
