"""What stands in the mark of a restore that has begun, and which marks are volferry's own.

Whoever can write a volume can write a mark, too. A mark that keeps a volume from being backed up must therefore be one that nobody in a
container can make: it is sealed with the id of a store, which whoever cannot read the store does not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hmac import compare_digest

from blake3 import blake3

_CONTEXT = "volferry 2026 mark of a restore"
_SEAL = re.compile(r"began ([0-9T:.+-]{10,40}) seal ([0-9a-f]{64})\n?")
# Machines' clocks differ; a restore of one that follows one of another is not taken for an older one.
_CLOCKS_DIFFER = timedelta(days=1)


def sealed_text(text: str, store_id: str, began: datetime) -> str:
    """The content of a mark: `text`, which is one line, and its seal."""
    time = began.astimezone(UTC).isoformat()
    return f"{text}\nbegan {time} seal {_seal(text, store_id, time)}\n"


def text_of(content: str) -> str:
    """The line that says what was begun."""
    return content.partition("\n")[0]


@dataclass(frozen=True, slots=True)
class KnownMarks:
    """What one machine knows of restores into one volume."""

    stores: frozenset[str] = frozenset()  # ids
    unfinished: bool = False  # it has begun a restore or an import there itself, which has not ended
    completed: datetime | None = None  # when one of its own was completed last

    def is_ours(self, content: str | None) -> bool:
        """Whether a mark is of a restore that has not ended, of whichever machine; None is of a volume that has none any longer. One from
        before the last that was completed has been kept by somebody, and put back.
        """
        if self.unfinished or content is None:
            return self.unfinished
        text, _, rest = content.partition("\n")
        match = _SEAL.fullmatch(rest)
        if match is None:
            return False
        time, seal = match.groups()
        if not any(compare_digest(seal, _seal(text, store_id, time)) for store_id in self.stores):
            return False
        return self.completed is None or datetime.fromisoformat(time) > self.completed - _CLOCKS_DIFFER


def _seal(text: str, store_id: str, time: str) -> str:
    parts = b"\0".join(part.encode("utf-8", "surrogateescape") for part in (store_id, time, text))
    return blake3(parts, derive_key_context=_CONTEXT).hexdigest()
