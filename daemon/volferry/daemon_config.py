"""Settings of the daemon: what it does when, and whom it tells."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal

from msgspec import Meta

from volferry.checked import Section
from volferry.schedule import Schedule, Span, Zone
from volferry.store_config import Secret

# What a template can name.
FIELDS = ("host", "event", "volume", "what", "error", "backup", "seconds", "downtime_seconds", "stored_bytes", "findings", "time")  # fmt: skip
_LOOPBACK = "127.0.0.1"
_PORT = re.compile(r"(?:(\[[0-9a-fA-F:]+\]|[^:\[\]/]+)?:)?(\d{1,5})")

EventKind = Literal["failure", "late", "suspicious", "recovery", "success", "digest"]


class Listen(str):
    """Where to listen: `127.0.0.1:9633`, `9633` (the same), `:9633` (everywhere), `unix:/run/volferry/http.sock`, or `off`."""

    __slots__ = ()

    @classmethod
    def of_document(cls, value: object) -> Listen:
        """Raises ValueError."""
        text = str(value)
        match = _PORT.fullmatch(text)
        if text == "off" or (text.startswith("unix:/") and len(text) < 100):
            return cls(text)
        if isinstance(value, bool) or not match or not 0 < int(match[2]) < 65536:
            raise ValueError(
                "it should be HOST:PORT, such as 127.0.0.1:9633, or unix:/path of a socket, or off"
            )
        # Whoever gives a port alone has not asked for the whole network.
        return cls(text if ":" in text else f"{_LOOPBACK}:{text}")

    @property
    def socket_path(self) -> Path | None:
        return Path(self.removeprefix("unix:")) if self.startswith("unix:") else None

    @property
    def address(self) -> tuple[str, int]:
        """Host, empty for everywhere, and port."""
        host, _, port = self.rpartition(":")
        return host.strip("[]"), int(port)


class Template(str):
    """Text with `{volume}` and so on."""

    __slots__ = ()

    @classmethod
    def of_document(cls, value: object) -> Template:
        """Raises ValueError for a name that is not known."""
        if not isinstance(value, str):
            raise ValueError("a template is text")
        try:
            names = [name for _, name, _, _ in Formatter().parse(value) if name is not None]
        except ValueError as error:
            raise ValueError(f"{error}: a brace is written twice") from error
        for name in names:
            if name not in FIELDS:
                close = get_close_matches(name, FIELDS, n=1, cutoff=0.5)
                hint = f"did you mean {{{close[0]}}}?" if close else f"use one of {', '.join(FIELDS)}"
                raise ValueError(f"there is no {{{name}}}: {hint}")
        return cls(value)


class NotifyConfig(Section, frozen=True):
    """Whom the daemon tells of what, by apprise."""

    urls: Annotated[
        tuple[Secret, ...],
        Meta(description="Where to: URLs of apprise, such as mailto://user:pass@example.org."),
    ] = ()
    urls_file: Annotated[Path | None, Meta(description="A file that holds more of them, one a line.")] = None
    on: Annotated[
        tuple[EventKind, ...],
        Meta(description="Of what: failure, late, suspicious, recovery, success, digest."),
    ] = ("failure", "late", "suspicious", "recovery")
    digest: Annotated[Schedule, Meta(description="When a digest is sent, if `on` has it.")] = Schedule(
        "0 8 * * *"
    )
    interval: Annotated[
        Span, Meta(description="Of one volume, the same is told once in so long at most.")
    ] = Span("1h")
    most: Annotated[
        int, Meta(ge=1, description="So many messages in that time at most; what is withheld is counted.")
    ] = 20
    again: Annotated[
        Span, Meta(description="What lasts is told again after so long: late; engine or store out of reach.")
    ] = Span("1d")
    down_again: Annotated[
        Span, Meta(description="That a service is down is told again after so long, until it is up.")
    ] = Span("1h")
    title: Annotated[Template, Meta(description="Of a message.")] = Template("volferry on {host}: {what}")
    body: Annotated[Template, Meta(description="Of a message.")] = Template("{what}\n{error}")


class DaemonConfig(Section, frozen=True):
    """How `volferry daemon` goes about it."""

    select: Annotated[
        Literal["all", "labelled"],
        Meta(description="Which volumes it backs up: all named ones, or those with `enable`."),
    ] = "all"
    at_once: Annotated[int, Meta(ge=1, le=64, description="How many runs at a time, at most.")] = 1
    stall: Annotated[
        Span, Meta(description="A run that makes no progress for so long is ended; 0s: never.")
    ] = Span("1h")
    timezone: Annotated[
        Zone | None, Meta(description="Of schedules, such as Europe/Berlin; default: the machine's.")
    ] = None
    jitter: Annotated[
        Span, Meta(description="Each run begins up to so much later, so that not all machines begin at once.")
    ] = Span("0s")
    log: Annotated[
        Literal["console", "json"], Meta(description="What its lines are for: people, or machines.")
    ] = "console"
    listen: Annotated[
        Listen,
        Meta(description="Where it answers /metrics, /healthz and /readyz: HOST:PORT, unix:/path, or off."),
    ] = Listen("127.0.0.1:9633")
