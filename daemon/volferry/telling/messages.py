"""Which of the daemon's events become messages, and what these say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from volferry.daemon_config import NotifyConfig
    from volferry.history import PastRun
    from volferry.scheduler.events import Event

_DIGEST_VOLUMES = 200


@dataclass(frozen=True, slots=True)
class Message:
    title: str
    body: str


@dataclass(slots=True)
class Composer:
    """Turns events into messages: those that are wanted, and not more of them than a person reads."""

    host: Callable[[], str]
    # Of kind, volume and what: when, by the clock that only goes on.
    _told: dict[tuple[str, str, str], timedelta] = field(default_factory=dict)
    _recent: deque[timedelta] = field(default_factory=deque)
    _withheld: int = 0

    def compose(self, event: Event, config: NotifyConfig) -> Message | None:
        """None for what is not to be told."""
        if event.kind == "recovery":  # what fails after that is news
            self._told = {
                key: time
                for key, time in self._told.items()
                if key[1] != event.volume or key[0] == "recovery"
            }
        if event.kind not in config.on or not self._may(event, config):
            return None
        ending = event.ending
        values = {
            "host": self.host(),
            "event": event.kind,
            "volume": event.volume,
            "what": event.what,
            "error": ending.error if ending else "",
            "backup": ending.backup if ending else "",
            "seconds": ending.seconds if ending else 0,
            "downtime_seconds": ending.downtime_seconds if ending else 0,
            "stored_bytes": ending.stored_bytes if ending else 0,
            "findings": ending.findings if ending else 0,
            "time": event.at.wall.astimezone(UTC).isoformat(timespec="seconds"),
        }
        body = config.body.format_map(values).rstrip()
        if self._withheld:
            body += f"\n\n{self._withheld} more messages were withheld: `volferry status` shows all."
            self._withheld = 0
        return Message(" ".join(config.title.format_map(values).split()), body or event.what)

    def _may(self, event: Event, config: NotifyConfig) -> bool:
        interval = config.interval.delta
        before = self._told.get((event.kind, event.volume, event.what))
        while self._recent and event.at.mono - self._recent[0] >= interval:
            self._recent.popleft()
        if event.kind == "digest":
            return True
        same = before is not None and event.at.mono - before < interval
        if same or len(self._recent) >= config.most:
            self._withheld += 1
            return False
        self._told[event.kind, event.volume, event.what] = event.at.mono
        self._recent.append(event.at.mono)
        return True


def digest(runs: Sequence[PastRun], late: Sequence[str], since: datetime) -> str:
    """What was run, in some lines for a person."""
    good = [run for run in runs if run.good]
    bad = [run for run in runs if run.outcome in {"failed", "interrupted"}]
    span = (
        f"since {since.astimezone():%Y-%m-%d %H:%M}: {len(good)} backups, {len(bad)} runs without one, "
        f"{sum(run.stored_bytes for run in good):,} bytes stored"
    )
    lines = [span]
    if late:
        lines.append(f"late: {', '.join(late)}")
    by_volume: dict[str, list[PastRun]] = {}
    for run in runs:
        by_volume.setdefault(run.volume, []).append(run)
    for volume, found in sorted(by_volume.items())[:_DIGEST_VOLUMES]:
        count = sum(run.good for run in found)
        last = found[-1]
        lines.append(
            f"{volume}: {count} of {len(found)} good; last: {last.outcome}{f', {last.error}' if last.error else ''}"
        )
    return "\n".join(lines)
