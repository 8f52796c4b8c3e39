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
_REST_LINES = 200


@dataclass(frozen=True, slots=True)
class Message:
    title: str
    body: str
    urgent: bool = False
    # Kind, volume and what: of two with the same, the later one says all that the earlier one did.
    key: tuple[str, str, str] | tuple[()] = ()


@dataclass(slots=True)
class Composer:
    """Turns events into messages: those that are wanted, and not more of them than a person reads. None is withheld for good: what was too
    much comes in one message, a little later.
    """

    host: Callable[[], str]
    # Of kind, volume and what: when, by the clock that only goes on.
    _told: dict[tuple[str, str, str], timedelta] = field(default_factory=dict)
    _recent: deque[timedelta] = field(default_factory=deque)
    _repeated: int = 0
    _too_many: list[Event] = field(default_factory=list)

    def compose(self, event: Event, config: NotifyConfig) -> Message | None:
        """None for what is not to be told, or not yet."""
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
        if self._repeated:
            body += f"\n\n{self._repeated} more messages were withheld: `volferry status` shows all."
            self._repeated = 0
        title = " ".join(config.title.format_map(values).split())
        lasts = event.kind in {"failure", "late"}
        key = (event.kind, event.volume, event.what) if lasts else ()
        return Message(title, body or event.what, event.urgent, key)

    def rest(self, now: timedelta, config: NotifyConfig) -> Message | None:
        """What was too much for messages of its own, once there is room for one more, or at once where some of it is urgent."""
        self._forget_recent(now, config)
        urgent = any(event.urgent for event in self._too_many)
        if not self._too_many or not (urgent or len(self._recent) < config.most):
            return None
        lines = [
            f"{event.what}{f': {event.ending.error}' if event.ending and event.ending.error else ''}"
            for event in self._too_many
        ]
        more = len(lines) - _REST_LINES
        if more > 0:
            lines[_REST_LINES:] = [f"and {more} more: `volferry status` shows all."]
        title = f"volferry on {self.host()}: {len(self._too_many)} more messages"
        self._too_many.clear()
        self._recent.append(now)
        return Message(title, "\n".join(lines), urgent)

    def lost(self, message: Message) -> None:
        """It could not be delivered: the next one of the kind is no repetition."""
        if message.key:
            self._told.pop(message.key, None)

    def _may(self, event: Event, config: NotifyConfig) -> bool:
        now = event.at.mono
        if event.kind == "digest" or (event.urgent and event.kind != "late"):
            return True
        self._forget_recent(now, config)
        key = (event.kind, event.volume, event.what)
        before = self._told.get(key)
        if not event.urgent and before is not None and now - before < config.interval.delta:
            self._repeated += 1
            return False
        self._told[key] = now
        if len(self._recent) >= config.most:
            self._too_many.append(event)
            return False
        self._recent.append(now)
        return True

    def _forget_recent(self, now: timedelta, config: NotifyConfig) -> None:
        while self._recent and now - self._recent[0] >= config.interval.delta:
            self._recent.popleft()


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
