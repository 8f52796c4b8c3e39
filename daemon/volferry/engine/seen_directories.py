"""Whether Podman has the directories that we have: looked at before one is shared, as it makes what it has not, and kept in the state directory
for a month.
"""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from volferry.engine.host_paths import kind_of_path
from volferry.errors import EngineError, EngineUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.engine.client import Engine

_KNOWN_FOR = timedelta(days=30)


def known_to_see(engine: Engine, state_directory: Path) -> bool | None:
    """As it was found out before; None if it was not, or long ago."""
    try:
        found = json.loads(_memory(engine, state_directory).read_text())
        age = datetime.now(UTC) - datetime.fromtimestamp(float(found["learned"]), UTC)
        return bool(found["sees"]) if timedelta() <= age + timedelta(minutes=1) < _KNOWN_FOR else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def sees(engine: Engine, image: str, directory: Path, state_directory: Path) -> bool | None:
    """Of a new directory: whether the engine's machine has it. None where the engine, or a proxy before it, does not let us look. Raises
    EngineUnreachable.
    """
    try:
        found = kind_of_path(engine, image, str(directory)) == "directory"
    except EngineUnreachable:
        raise
    except EngineError:
        return None
    _keep(_memory(engine, state_directory), sees=found)
    return found


def forget(engine: Engine, state_directory: Path) -> None:
    """It is looked at anew the next time."""
    try:
        _memory(engine, state_directory).unlink(missing_ok=True)
    except OSError:  # in a month, then
        pass


def _keep(path: Path, *, sees: bool) -> None:
    beginning = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        beginning.write_text(json.dumps({"sees": sees, "learned": datetime.now(UTC).timestamp()}))
        beginning.replace(path)
    except OSError:  # found out again next time
        pass


def _memory(engine: Engine, state_directory: Path) -> Path:
    return state_directory / "engines" / f"{sha256(engine.id.encode()).hexdigest()[:16]}.json"
