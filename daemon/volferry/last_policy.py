"""What policy the last prune of a volume went by. One that keeps less because of labels waits for a day, and is told meanwhile: whoever
may write a label of a container can delete no backup before somebody has read of it.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from volferry.checked import document_of, value_of
from volferry.errors import VolferryError, reason
from volferry.retention import Keep

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "policy.json"
_GRACE = timedelta(days=1)


class LastPolicy:
    """Of one volume, in the directory that the state directory has for it. `settle` may be called several times before `note`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._last, self._last_by_config, self._less, self._since = _read(directory)
        self._document: dict[str, Any] | None = None
        self.until: datetime | None = (
            None  # when the smaller policy is in force; None if there is none that waits
        )
        self.changes = ""  # what it keeps less of

    def settle(self, wanted: Keep, by_config: Keep, now: datetime) -> Keep:
        """What to prune by. `wanted` is the policy with labels, `by_config` the one without."""
        last, less, since = self._last, self._less, self._since
        if (
            last is None and not by_config.is_empty
        ):  # as after an upgrade, or with another state directory: what labels say may be new
            last = by_config
        labels_matter = wanted != by_config or self._last != self._last_by_config
        self.until, self.changes = None, ""
        if last is None or wanted.keeps_all_of(last) or not labels_matter:
            self._document = _document(wanted, by_config)
            return wanted
        if since is None or since > now or less is None or not wanted.keeps_all_of(less):
            less, since = wanted, now
        if now - since >= _GRACE:
            self._document = _document(wanted, by_config)
            return wanted
        self.until = since + _GRACE
        self.changes = _changes(last, wanted)
        self._document = _document(last, self._last_by_config or last, less, since)
        return last.with_more(wanted)

    def note(self) -> None:
        """What `settle` said last is what the next prune finds. Raises VolferryError."""
        if self._document is None:
            return
        beginning = self._directory / f"{_NAME}.new"
        try:
            with beginning.open("w") as file:
                json.dump(self._document, file)
                file.flush()
                os.fsync(file.fileno())
            beginning.rename(self._directory / _NAME)
        except OSError as error:
            raise VolferryError(
                f"cannot write to the state directory {self._directory}: {reason(error)}"
            ) from error


def _document(
    last: Keep, by_config: Keep, less: Keep | None = None, since: datetime | None = None
) -> dict[str, Any]:
    return {
        "last": document_of(last),
        "by_config": document_of(by_config),
        "less": document_of(less) if less is not None else None,
        "since": since.isoformat() if since is not None else None,
    }


def _read(directory: Path) -> tuple[Keep | None, Keep | None, Keep | None, datetime | None]:
    try:
        document = json.loads((directory / _NAME).read_bytes())
        last, by_config = value_of(document["last"], Keep), value_of(document["by_config"], Keep)
        if document["less"] is None:
            return last, by_config, None, None
        return last, by_config, value_of(document["less"], Keep), datetime.fromisoformat(document["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None, None, None


def _changes(last: Keep, wanted: Keep) -> str:
    if last.is_empty:
        return "all was kept"
    before, now = document_of(last), document_of(wanted)
    return ", ".join(f"{key} {before[key]} is now {now[key]}" for key in before if before[key] != now[key])
