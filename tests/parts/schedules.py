"""Schedules by which the daemon backs up at once what was never backed up, and stops services for it."""

from __future__ import annotations

from datetime import UTC, datetime


def due_now() -> str:
    """Once an hour, for the first time a moment ago: so the first backup is in time, and no other one comes in the next half hour, in whatever zone."""
    minute = datetime.now(UTC).minute
    return f"{minute},{(minute + 30) % 60} * * * *"
