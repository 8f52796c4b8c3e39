"""Metrics for Prometheus: of the history, so that they outlive a restart, and of what is due (docs/operations.md, "Metrics")."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from volferry import __version__
from volferry.errors import VolferryError
from volferry.journal import journals_of_the_dead, unreadable_journals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from prometheus_client import Metric

    from volferry.history import History, PastRun
    from volferry.scheduler.agenda import Appointment
    from volferry.upkeep import Upkeep, UpkeepLog, Work
    from volferry.verification_log import VerificationLog

# Of the newest backup of each volume: name, what it says, and where it is in a run.
_OF_BACKUPS = (
    ("last_backup_duration_seconds", "How long the last good backup took.", "seconds"),
    ("last_backup_downtime_seconds", "How long its containers stood still.", "downtime_seconds"),
    ("last_backup_entries", "Its files, directories and links.", "entries"),
    ("last_backup_source_bytes", "The size of its files.", "source_bytes"),
    ("last_backup_read_bytes", "What was read of the volume.", "read_bytes"),
    ("last_backup_stored_bytes", "What was added to the store.", "stored_bytes"),
    ("last_backup_findings", "Files that vanished or changed while they were read.", "findings"),
)

_PLURAL: dict[Work, str] = {"copy": "copies", "prune": "prunes"}


class Source(Protocol):
    """Where the figures are."""

    history: History
    verified: VerificationLog
    upkeep: UpkeepLog

    @property
    def state_directory(self) -> Path: ...
    @property
    def stores(self) -> Mapping[Work, Mapping[str, str]]:
        """Where backups are copied to, and where they are pruned: names by place."""

    @property
    def appointments(self) -> Sequence[Appointment]: ...
    @property
    def trouble(self) -> str: ...
    @property
    def verify_late(self) -> bool | None: ...
    def going_on(self) -> Mapping[str, datetime]: ...
    def exists(self, volume: str) -> bool:
        """By the last look; of one that is gone there are no metrics: there may have been thousands."""


class Metrics:
    """Each time that it is asked, what is known then."""

    def __init__(self, source: Source, failed: Callable[[str, Exception], object] = lambda *_: None) -> None:
        """`failed` is told of what could not be found out, which is left out then."""
        self._source = source
        self._failed = failed
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        yield InfoMetricFamily("volferry_build", "The version of volferry.", value={"version": __version__})
        yield GaugeMetricFamily(
            "volferry_ready",
            "Whether the engine and the store could be looked at last time.",
            value=0 if self._source.trouble else 1,
        )
        yield GaugeMetricFamily("volferry_time_seconds", "The daemon's clock.", value=time.time())
        parts = {
            "runs": self._of_history,
            "the schedule": self._of_appointments,
            "verifying": self._of_verifying,
            "copies and prunes": self._of_upkeep,
            "services": self._of_journals,
        }
        for name, part in parts.items():
            found: list[Metric] = []
            try:
                found.extend(part())
            except Exception as error:  # noqa: BLE001 -- the others are asked for, too
                self._failed(f"metrics of {name}", error)
            yield from found

    def _of_history(self) -> Iterator[Metric]:
        history = self._source.history
        last, good = (
            {volume: run for volume, run in found.items() if self._source.exists(volume)}
            for found in (history.last(), history.last_good())
        )
        success = _gauge("last_success_timestamp_seconds", "When the last good backup began.")
        for volume, run in good.items():
            success.add_metric([volume], run.began.timestamp())
        yield success
        for name, text, field in _OF_BACKUPS:
            metric = _gauge(name, text)
            for volume, run in good.items():
                metric.add_metric([volume], float(getattr(run, field)))
            yield metric
        began = _gauge("last_run_timestamp_seconds", "When the last run began, good or not.")
        well = _gauge(
            "last_run_success", "Whether the last run that has ended made a backup, and left nothing down."
        )
        for volume, run in last.items():
            began.add_metric([volume], run.began.timestamp())
            if run.ended is not None:
                well.add_metric([volume], float(_is_well(run)))
        yield began
        yield well
        runs = CounterMetricFamily(
            "volferry_runs", "Runs that have ended: done, findings, troubled, failed, interrupted.",
            labels=["volume", "outcome"],
        )  # fmt: skip
        for (volume, outcome), count in sorted(history.totals().items()):
            if self._source.exists(volume):
                runs.add_metric([volume, outcome], count)
        yield runs

    def _of_appointments(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "volferry_scheduled_volumes",
            "Volumes that are to be backed up on schedule.",
            value=len(self._source.appointments),
        )
        going_on = self._source.going_on()
        following = _gauge("next_run_timestamp_seconds", "When the volume is due next.")
        late = _gauge("late", "Whether it has had no good backup for longer than its schedule allows.")
        running = _gauge("running", "Whether it is being backed up.")
        for appointment in self._source.appointments:
            volume = [appointment.volume]
            following.add_metric(volume, appointment.at.timestamp())
            late.add_metric(volume, float(appointment.late))
            running.add_metric(volume, float(appointment.volume in going_on))
        yield from (following, late, running)

    def _of_verifying(self) -> Iterator[Metric]:
        oldest = _gauge(
            "last_verified_timestamp_seconds",
            "Since when each object that the newest backup needed at the last share was read whole, or written.",
        )
        hurt = _gauge("hurt_backups", "Backups that need what is missing or damaged, at the last share.")
        for volume, state in self._source.verified.volumes().items():
            if not self._source.exists(volume):
                continue
            if state.oldest is not None:
                oldest.add_metric([volume], state.oldest.timestamp())
            hurt.add_metric([volume], state.hurt)
        yield from (oldest, hurt)
        if (late := self._source.verify_late) is not None:
            yield GaugeMetricFamily(
                "volferry_verify_late",
                "Whether no share of the store was read for longer than its schedule allows.",
                value=float(late),
            )

    def _of_upkeep(self) -> Iterator[Metric]:
        for work, stores in self._source.stores.items():
            success = _gauge(
                f"last_{work}_success_timestamp_seconds", f"When a {work} went well last.", "store"
            )
            failing = _gauge(f"failing_{_PLURAL[work]}", f"Volumes whose last {work} failed.", "store")
            found: dict[str, list[Upkeep]] = {place: [] for place in stores}
            for each in self._source.upkeep.all(work, stores.keys()):
                found[each.store].append(each)
            for place, name in stores.items():
                times = [each.succeeded for each in found[place] if each.succeeded is not None]
                if times:
                    success.add_metric([name], max(times).timestamp())
                wrong = [each for each in found[place] if each.failures and self._source.exists(each.volume)]
                failing.add_metric([name], len(wrong))
            yield from (success, failing)

    def _of_journals(self) -> Iterator[Metric]:
        state = self._source.state_directory
        try:
            down = sum(
                halt.action != "hook" and halt.state != "planned"
                for _, halts in journals_of_the_dead(state)
                for halt in halts
            )
            down += len(unreadable_journals(state))
        except VolferryError:  # the daemon says so at each look
            return
        yield GaugeMetricFamily(
            "volferry_services_down",
            "Containers and services that a run which died has left stopped, paused or scaled to 0; a journal that cannot be read counts as one.",
            value=down,
        )


def _gauge(name: str, text: str, label: str = "volume") -> GaugeMetricFamily:
    return GaugeMetricFamily(f"volferry_{name}", text, labels=[label])


def _is_well(run: PastRun) -> bool:
    return run.outcome in {"done", "findings"}
