"""Frozen values that the layers hand to each other."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
BIND_DRIVER = "bind"  # in place of a volume driver, of a bind mount that was backed up
ANONYMOUS_NAME = re.compile(r"[0-9a-f]{64}")

MOST_AHEAD = timedelta(days=1)  # of an id whose clock may be believed
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

BACKUP_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
_PACK_NUMBER = re.compile(r"[0-9]{4,}")
# Of ids and of a manifest's times: outside of them, another time zone's is no date.
FIRST_YEAR, LAST_YEAR = 1970, 9998
_LAST_SECOND = datetime(LAST_YEAR, 12, 31, 23, 59, 59, tzinfo=UTC)

_UNITS = ("kB", "MB", "GB", "TB", "PB")
_KILO = 1000


def is_backup_id(text: str) -> bool:
    """Whether it has the form of an id, and its time is one: `20261399T999999Z-abcdef` is none."""
    if BACKUP_ID.fullmatch(text) is None:
        return False
    try:
        return FIRST_YEAR <= datetime.fromisoformat(text[:15]).year <= LAST_YEAR
    except ValueError:
        return False


def is_pack_name(name: object) -> bool:
    """`<id>.<nnnn>`, of an id that is one."""
    if not isinstance(name, str):
        return False
    backup_id, _, number = name.partition(".")
    return _PACK_NUMBER.fullmatch(number) is not None and is_backup_id(backup_id)


def new_backup_id(now: datetime, *, newest: str | None = None) -> str:
    """`YYYYMMDDTHHMMSSZ-xxxxxx`: two machines do not meet, and it sorts after `newest`, of the same volume, also within
    one second and when the clock was put back: of two backups, the later one is the newer one.
    """
    if newest is not None:
        last = time_of_id(newest)
        now = max(now, min(last, _LAST_SECOND) + timedelta(seconds=1))
    now = min(now, _LAST_SECOND)  # at the end of all ids there is no later one
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def printable(path: bytes) -> str:
    r"""A path as one line of text that names it exactly: what is not printable UTF-8 as `\xNN`, `\` as `\\`."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        char if char.isprintable() and char != "\\" else "\\\\" if char == "\\" else _escaped(char)
        for char in text
    )


def size_text(size: float) -> str:
    """Bytes in decimal units, three digits at most: `999 B`, `1.50 GB`."""
    if size < _KILO:
        return f"{int(size)} B"
    for unit in _UNITS:
        size /= _KILO
        for decimals, limit in ((2, 9.995), (1, 99.95), (0, 999.5)):
            if size < limit:
                return f"{size:.{decimals}f} {unit}"
    return f"{size:.0f} {_UNITS[-1]}"


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def time_of_id(backup_id: str) -> datetime:
    """When the backup began, to the second. Raises ValueError for what is no id (`is_backup_id`)."""
    # strptime takes ten times as long, and a store has thousands of ids.
    return datetime.fromisoformat(backup_id[:15]).replace(tzinfo=UTC)


def age_of(backup_id: str, seen: datetime, now: datetime) -> timedelta:
    """How old is what was made under an id and was `seen` at a time of its own, such as an object's: the younger of the two counts. An
    id whose clock was ahead by more than a day says nothing.
    """
    named = time_of_id(backup_id)
    return now - (seen if named > now + MOST_AHEAD else max(named, seen))


def project_of_labels(labels: Mapping[str, str]) -> str:
    """The compose project, or the stack, that a volume was made for; empty if it was made for none."""
    return labels.get("com.docker.compose.project") or labels.get("com.docker.stack.namespace") or ""


@dataclass(frozen=True, slots=True)
class VolumeUse:
    """One container's mount of a volume."""

    container: str
    container_id: str
    image: str
    state: (
        str  # Docker's: created, running, paused, restarting, removing, exited, dead; and Podman's: stopping
    )
    destination: str
    read_write: bool
    project: str | None = None  # compose
    labels: Mapping[str, str] = field(default_factory=dict)  # without those of its image, with its service's
    image_known: bool = True  # else they may be those of the image, which is gone
    lately: bool = False  # of one that is off: it went off within the hour
    network_of: str = ""  # the id of the container whose network it has

    @property
    def running(self) -> bool:
        return self.state in {"running", "paused", "restarting", "stopping"}

    @property
    def off(self) -> bool:
        """Whether nobody expects it to run. One that is started anew, or stands still for a backup, is not off."""
        return self.state in {"exited", "dead"} and not self.lately

    @property
    def one_off(self) -> bool:
        """Whether `docker compose run` made it."""
        return self.labels.get("com.docker.compose.oneoff") == "True"


@dataclass(frozen=True, slots=True)
class HostPath:
    """A directory of the engine's machine, or a file, in place of a volume. A file is mounted in a directory of its own."""

    name: str  # what the helper has it under
    path: str
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class Volume:
    """A Docker volume, as the engine describes it."""

    name: str
    driver: str
    options: Mapping[str, str]
    labels: Mapping[str, str]
    scope: str
    created_at: str
    uses: tuple[VolumeUse, ...] = ()
    incomplete: bool = False  # a migration to it has begun and not ended
    mountpoint: str = ""  # on the engine's machine; empty for some drivers
    bind: HostPath | None = None  # of a bind mount, which is backed up as if it were a volume

    @property
    def mountable(self) -> Volume | HostPath:
        """What a helper mounts."""
        return self.bind or self

    @property
    def writers_by(self) -> str:
        """What `writers` finds its containers by: the name, or the path of a bind mount."""
        return self.bind.path if self.bind else self.name

    @property
    def anonymous(self) -> bool:
        """Made without a name of its own: by label since Engine 23, by the form of the name before."""
        if self.bind:
            return False
        return ANONYMOUS_LABEL in self.labels or ANONYMOUS_NAME.fullmatch(self.name) is not None

    @property
    def in_memory(self) -> bool:
        """Whether its content is gone when its last container stops: a tmpfs of the local driver."""
        return self.driver == "local" and self.options.get("type") in {"tmpfs", "ramfs"}

    @property
    def projects(self) -> frozenset[str]:
        """Compose projects that it belongs to, or whose containers mount it."""
        own = project_of_labels(self.labels)
        return frozenset([*([own] if own else []), *(use.project for use in self.uses if use.project)])

    @property
    def own_projects(self) -> frozenset[str]:
        """The one that made it; else, of those whose running containers write to it. What only reads it, as one that sends logs of all of them does, makes no company."""
        own = project_of_labels(self.labels)
        if own:
            return frozenset([own])
        writers = [use for use in self.uses if use.running and use.read_write and not use.one_off]
        return frozenset(use.project for use in writers if use.project)


@dataclass(frozen=True, slots=True)
class BindMount:
    """A host directory in a container: data that is not in a volume."""

    container: str
    source: str
    destination: str
    read_write: bool


@dataclass(frozen=True, slots=True)
class WritableLayer:
    """What a container wrote into its own filesystem: lost with the container."""

    container: str
    image: str
    size_bytes: int


# vanished: listed, and gone when it was to be read. torn: changed while it was read. unreadable: not in the backup, or
# not whole. shrunk, rewritten, volatile, unwritten, disturbed, unstopped, marked, undumped: of the volume as a whole, whose path is empty (docs/format.md, "Manifest").
FindingKind = Literal[
    "vanished",
    "torn",
    "unreadable",
    "shrunk",
    "rewritten",
    "volatile",
    "unwritten",
    "disturbed",
    "unstopped",
    "marked",
    "undumped",
]
Suspicious = Literal["shrunk", "rewritten"]  # unlike the backup before


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one entry, or the whole volume, that a user must know of, though the run goes on."""

    kind: FindingKind
    path: bytes
    detail: str


@dataclass(frozen=True, slots=True)
class BackupRef:
    """Names one backup: where it is in a store."""

    host: str
    volume: str
    id: str

    @property
    def time(self) -> datetime:
        """When the backup began, to the second."""
        return time_of_id(self.id)

    def __str__(self) -> str:
        return f"{self.host}/{self.volume}@{self.id}"


@dataclass(frozen=True, slots=True)
class PackInfo:
    """One pack that a backup refers to. `name` is `<id>.<nnnn>`."""

    name: str
    stored_bytes: int
    live_bytes: int
    digest: str  # `xxh128:<hex>`, or `blake3:<hex>` as format 1 had it


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a store."""

    key: str
    size: int
    modified: datetime = field(compare=False, default=_LONG_AGO)  # when it was written, by the store's clock


@dataclass(frozen=True, slots=True)
class BackupStats:
    """What one backup of one volume cost and gave. Bytes and seconds."""

    ref: BackupRef
    base: str | None
    entries: int
    source_bytes: int  # sum of the apparent sizes of the regular files
    read_bytes: int  # tar bytes that came out of the volume
    stored_bytes: int  # packs, index and manifest of this backup
    seconds: float
    downtime_seconds: float
    findings: tuple[Finding, ...] = field(default=())
    findings_total: int = 0
    dumps: tuple[str, ...] = ()  # names
    set_id: str | None = None  # of the backups that were made together with it

    @property
    def suspicious(self) -> str:
        """In what it is suspiciously unlike the backup before; empty if it is not."""
        return next(
            (f"{each.kind}: {each.detail}" for each in self.findings if each.kind in {"shrunk", "rewritten"}),
            "",
        )


@dataclass(frozen=True, slots=True)
class RestoreStats:
    ref: BackupRef
    volume: str
    entries: int
    source_bytes: int
    fetched_bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()  # what could not be restored as it was, in tar's words
