"""What stands in the mark of a restore that has begun, and which marks are volferry's own.

Whoever can write a volume can write a mark, too. A mark that keeps a volume from being backed up must therefore be one that nobody in a
container can make: it is sealed with the id of a store, which whoever cannot read the store does not know. Nor must it be one that somebody
has kept: the seal is of one volume, and a mark from before that volume was known to be whole is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hmac import compare_digest

from blake3 import blake3

_CONTEXT = "volferry 2026 mark of a restore into a volume"
_NAMES_CONTEXT = "volferry 2026 names in the mark of a restore"
_UNKNOWN = "unknown"
_SEAL = re.compile(
    r"began ([0-9T:.+-]{10,40}) engine (unknown|[0-9a-f]{16}) machine (unknown|[0-9a-f]{16}) seal ([0-9a-f]{64})\n?"
)
# Machines' clocks differ; a restore of one that follows one of another is not taken for an older one.
_CLOCKS_DIFFER = timedelta(days=1)


def text_of(content: str) -> str:
    """The line that says what was begun."""
    return content.partition("\n")[0]


def digest_of(name: str) -> str:
    """Of an engine or a machine, as it stands in marks: they are nobody's business in a container. Empty for none."""
    return blake3(name.encode(), derive_key_context=_NAMES_CONTEXT).hexdigest()[:16] if name else ""


@dataclass(frozen=True, slots=True)
class KnownMarks:
    """What one machine knows of restores into one volume."""

    stores: frozenset[str] = frozenset()  # ids
    volume: str = ""  # its name
    engine: str = ""  # `digest_of` its id; empty if that is not known
    shared: bool = False  # other engines may have the same data in a volume of that name
    machine: str = ""  # `digest_of` the id of the state directory
    unfinished: bool = False  # it has begun a restore or an import there itself, which has not ended
    completed: datetime | None = None  # when one of its own was completed last
    backed_up: datetime | None = None  # when the last backup of it began that it made itself
    ended: frozenset[str] = frozenset()  # seals of marks in whose place something whole has come

    def of(self, volume: str, store_id: str) -> KnownMarks:
        return replace(self, volume=volume, stores=self.stores | {store_id})

    def sealed(self, text: str, store_id: str, began: datetime) -> str:
        """The content of a mark of this machine: `text`, which is one line, and its seal."""
        mark = _Mark(
            text, began.astimezone(UTC).isoformat(), self.engine or _UNKNOWN, self.machine or _UNKNOWN
        )
        return (
            f"{text}\nbegan {mark.began} engine {mark.engine} machine {mark.machine} "
            f"seal {mark.seal_by(store_id, self.volume)}\n"
        )

    def seal_in(self, content: str | None) -> str:
        """The seal of a mark of this volume, whether it still counts or not; empty for any other."""
        return self._read(content)[1]

    def is_ours(self, content: str | None) -> bool:
        """Whether a mark is of a restore that has not ended, of whichever machine; None is of a volume that has none any longer. One from
        before the volume was known to be whole has been kept by somebody, and put back.
        """
        if self.unfinished or content is None:
            return self.unfinished
        mark, seal = self._read(content)
        if mark is None or seal in self.ended:
            return False
        if not self.shared and len({mark.engine, self.engine or _UNKNOWN} - {_UNKNOWN}) > 1:
            return False
        margin = timedelta() if self.machine and mark.machine == self.machine else _CLOCKS_DIFFER
        began = datetime.fromisoformat(mark.began)
        return all(whole is None or began > whole - margin for whole in (self.completed, self.backed_up))

    def _read(self, content: str | None) -> tuple[_Mark | None, str]:
        """A mark that is sealed, and its seal."""
        text, _, rest = (content or "").partition("\n")
        match = _SEAL.fullmatch(rest)
        if match is None:
            return None, ""
        began, engine, machine, seal = match.groups()
        mark = _Mark(text, began, engine, machine)
        if not any(compare_digest(seal, mark.seal_by(store_id, self.volume)) for store_id in self.stores):
            return None, ""
        return mark, seal


@dataclass(frozen=True, slots=True)
class _Mark:
    text: str
    began: str
    engine: str
    machine: str

    def seal_by(self, store_id: str, volume: str) -> str:
        parts = (store_id, volume, self.engine, self.machine, self.began, self.text)
        data = b"\0".join(part.encode("utf-8", "surrogateescape") for part in parts)
        return blake3(data, derive_key_context=_CONTEXT).hexdigest()
