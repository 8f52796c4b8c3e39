"""What is known of an S3 server: which things it does not take, and what it does with others. Kept in the state directory for a month."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from volferry.stores.s3_ways import BEGIN, COMPLETE, CRC32, HEAD, MD5, PART, PUT, UNLESS_THERE, Way, ways

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Then all is tried again: a server may have been brought up to date.
_KNOWN_FOR = timedelta(days=30)
_VERSION = 2


@dataclass(slots=True)
class Abilities:
    """None: not known yet."""

    heeds_if_none_match: bool | None = None
    checks_crc32: bool | None = None  # and says so: five times as fast as MD5
    multipart_crc32: bool | None = None  # in all steps of an upload
    checks_md5: bool | None = None  # looked at only where nothing else tells what has arrived
    keeps_versions: bool | None = None
    denies: bool = False  # it refuses what it does not know as others refuse those without permission
    ways: dict[str, Way] = field(default_factory=dict)  # by call, where it is not the first one
    foreign_tags: set[str] = field(
        default_factory=set
    )  # calls whose entity tags look like an MD5, and are none

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Abilities:
        """Raises KeyError, TypeError, ValueError, AttributeError."""
        if "version" not in document:  # of earlier versions
            return cls(bool(document["heeds_if_none_match"]), bool(document["checks_crc32"]))
        names = ("heeds_if_none_match", "checks_crc32", "multipart_crc32", "checks_md5", "keeps_versions")
        return cls(
            **{name: document[name] for name in names},
            denies=bool(document["denies"]),
            ways={str(call): frozenset(map(str, way)) for call, way in document["ways"].items()},
            foreign_tags=set(map(str, document["foreign_tags"])),
        )

    def document(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            # Read by earlier versions, too.
            "heeds_if_none_match": self.heeds_if_none_match,
            "checks_crc32": self.checks_crc32,
            "multipart_crc32": self.multipart_crc32,
            "checks_md5": self.checks_md5,
            "keeps_versions": self.keeps_versions,
            "denies": self.denies,
            "ways": {call: sorted(way) for call, way in sorted(self.ways.items())},
            "foreign_tags": sorted(self.foreign_tags),
        }


class Knowledge:
    """What is known of the server, and remembered; a user is told of each thing that it lacks once."""

    def __init__(self, memory: Path | None, endpoint: str, note: Callable[[str], None]) -> None:
        self._memory = memory
        self._endpoint = endpoint
        self._note = note
        self._lock = threading.RLock()
        self._learned = datetime.now(UTC)
        self._said: set[str] = set()
        self.abilities = Abilities()
        self._remembered()
        self._proven: set[tuple[str, Way]] = set()

    @property
    def heeds_if_none_match(self) -> bool:
        return self.abilities.heeds_if_none_match is True

    @property
    def checks_crc32(self) -> bool:
        return self.abilities.checks_crc32 is True

    @property
    def offered_for_parts(self) -> Way:
        """The checksums that make sense: CRC-32 where the server says that it has checked it, or where it takes no other."""
        with self._lock:
            known = self.abilities
            by_crc32 = known.checks_crc32 or MD5 not in known.ways.get(PUT, {MD5})
            return frozenset({CRC32, MD5} if by_crc32 and known.multipart_crc32 is not False else {MD5})

    def way(self, call: str, offered: Way) -> Way:
        """The one to begin with: the safest that the server is not known to refuse."""
        with self._lock:
            known = self.abilities.ways.get(call)
        if known is None:
            return ways(call, offered)[0]
        # What is offered may be less than usual: nothing is to be left alone where an object is replaced.
        return max(
            (way for way in ways(call, offered) if way <= known), key=len, default=ways(call, offered)[-1]
        )

    def is_proven(self, call: str, way: Way) -> bool:
        """Whether it was taken before, by this process's experience."""
        return (call, way) in self._proven

    def took(self, call: str, way: Way) -> None:
        self._proven.add((call, way))

    def refused(self, call: str, refused: Way, taken: Way) -> None:
        """Another way of asking was taken."""
        with self._lock:
            self._proven.discard((call, refused))
            self._proven.add((call, taken))
            self.abilities.ways[call] = taken
            if UNLESS_THERE in refused - taken and call == PUT:
                self.abilities.heeds_if_none_match = False
            if CRC32 in refused - taken:
                if call == PUT:
                    self.abilities.checks_crc32 = False
                if call in {BEGIN, PART, COMPLETE}:  # all of them, or none
                    self.abilities.multipart_crc32 = False
            self._keep()

    def found(self, **abilities: bool | None) -> None:
        with self._lock:
            before = self.abilities.document()
            for name, value in abilities.items():
                setattr(self.abilities, name, value)
            if self.abilities.document() != before:
                self._keep()

    def doubt_parts(self) -> None:
        """An upload was refused: the next one is tried with a few bytes first."""
        if self.abilities.multipart_crc32:
            self.found(multipart_crc32=None)

    def has_foreign_tags(self, call: str) -> bool:
        return call in self.abilities.foreign_tags

    def found_foreign_tags(self, call: str) -> None:
        with self._lock:
            if call not in self.abilities.foreign_tags:
                self.abilities.foreign_tags.add(call)
                self._keep()

    def reads_back(self, call: str) -> None:
        """Nothing else tells what has arrived."""
        what = "small objects" if call == PUT else "multipart uploads"
        self._tell(
            f"{self._endpoint} does not confirm what it received ({what}): volferry reads back what it wrote, which takes longer"
        )
        self._store()

    def begin_anew(self) -> None:
        """Believes nothing that was remembered: a server may have been brought up to date."""
        with self._lock:
            self._learned = datetime.now(UTC)
            self.abilities = Abilities()
            self._proven.clear()

    def _keep(self) -> None:
        """Remembers it, and tells what is new of it."""
        for line in self.lacks():
            self._tell(line)
        self._store()

    def lacks(self) -> list[str]:
        """What the server does not have, and what that means."""
        known, lines = self.abilities, []
        if known.heeds_if_none_match is False:
            lines.append(
                f"{self._endpoint} does not know If-None-Match: volferry looks itself that nothing is overwritten"
            )
        elif UNLESS_THERE not in known.ways.get(COMPLETE, {UNLESS_THERE}):
            lines.append(
                f"{self._endpoint} does not take If-None-Match with multipart uploads: volferry looks itself that nothing is overwritten"
            )
        if checks := [self._of_checksums(call) for call in (PUT, PART) if call in known.ways]:
            lines += [line for line in checks if line]
        elif known.multipart_crc32 is False:
            lines.append(
                f"{self._endpoint} refuses CRC-32 checksums in multipart uploads: volferry has parts checked by MD5"
            )
        elif CRC32 not in known.ways.get(HEAD, {CRC32}) or CRC32 not in known.ways.get(BEGIN, {CRC32}):
            lines.append(
                f"{self._endpoint} refuses some uses of CRC-32 checksums: volferry does without them there"
            )
        return lines

    def _of_checksums(self, call: str) -> str:
        way = self.abilities.ways[call]
        if way & {CRC32, MD5}:
            if CRC32 in way:
                return ""
            return f"{self._endpoint} refuses CRC-32 checksums: volferry has what it sends checked by MD5"
        what = "small objects" if call == PUT else "parts of uploads"
        return f"{self._endpoint} takes no checksum of {what}: volferry compares entity tags with what it sent, or reads it back"

    def _tell(self, line: str) -> None:
        with self._lock:
            if line in self._said:
                return
            self._said.add(line)
        self._note(line)

    def _remembered(self) -> None:
        try:
            found = json.loads(self._memory.read_text()) if self._memory else None
            if not isinstance(found, dict):
                return
            self._said = set(map(str, found.get("said", ())))
            changed = self._memory.stat().st_mtime if self._memory else 0
            learned = datetime.fromtimestamp(float(found.get("learned", changed)), UTC)
            if not timedelta() <= datetime.now(UTC) - learned + timedelta(minutes=1) < _KNOWN_FOR:
                return
            self.abilities, self._learned = Abilities.of_document(found), learned
            self._said.update(self.lacks())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.abilities = Abilities()

    def _store(self) -> None:
        if self._memory is None:
            return
        document = {
            **self.abilities.document(),
            "learned": self._learned.timestamp(),
            "said": sorted(self._said),
        }
        temporary = self._memory.with_name(f"{self._memory.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            self._memory.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            temporary.write_text(json.dumps(document))
            temporary.replace(self._memory)
        except OSError:  # found out again next time
            pass
