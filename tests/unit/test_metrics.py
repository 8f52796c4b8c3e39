"""What the daemon says at /metrics, of a state directory that is made up."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from volferry.history import History
from volferry.journal import Halt, Journal
from volferry.scheduler.agenda import Appointment
from volferry.upkeep import UpkeepLog
from volferry.verification_log import VerificationLog
from volferry.web.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from volferry.upkeep import Work

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DEAD = "0123456789ab"  # a run that there was


@dataclass
class Made:
    state_directory: Path
    appointments: list[Appointment] = field(default_factory=list)
    trouble: str = ""
    verify_late: bool | None = None
    gone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.history = History(self.state_directory)
        self.verified = VerificationLog(self.state_directory)
        self.upkeep = UpkeepLog(self.state_directory)
        self.stores: Mapping[Work, Mapping[str, str]] = {
            "copy": {"/offsite": "offsite", "/new": "new"},
            "prune": {"/main": "main"},
        }

    def going_on(self) -> dict[str, datetime]:
        return {}

    def exists(self, volume: str) -> bool:
        return volume not in self.gone

    @property
    def values(self) -> dict[str, float]:
        lines = Metrics(self).text().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.split()[-1]) for line in lines if line[:1] != "#"}


def test_a_replica_whose_copies_fail_is_seen(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.upkeep.done("copy", "/offsite", "host", "a", NOW)
    made.upkeep.done("copy", "/offsite", "host", "b", NOW + timedelta(hours=1))
    made.upkeep.failed("copy", "/offsite", "host", ["b", "c", "gone"], NOW + timedelta(hours=2), "no route")
    made.upkeep.failed("prune", "/main", "host", ["a"], NOW, "denied")
    made.gone.add("gone")
    values = made.values
    last = NOW + timedelta(hours=1)
    assert values['volferry_last_copy_success_timestamp_seconds{store="offsite"}'] == last.timestamp()
    assert 'volferry_last_copy_success_timestamp_seconds{store="new"}' not in values
    assert values['volferry_failing_copies{store="offsite"}'] == 2
    assert values['volferry_failing_copies{store="new"}'] == 0
    assert values['volferry_failing_prunes{store="main"}'] == 1
    assert 'volferry_last_prune_success_timestamp_seconds{store="main"}' not in values


def test_services_that_dead_runs_have_left_down_and_an_empty_schedule_are_seen(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert made.values["volferry_services_down"] == 0
    assert made.values["volferry_scheduled_volumes"] == 0
    (tmp_path / "runs" / DEAD).mkdir(parents=True)
    (tmp_path / "runs" / DEAD / "lock").touch()
    journal = Journal.of_run(tmp_path, DEAD, ("ENGINE", ""))
    journal.write(
        Halt("stop", "1", "web", 0, "", "done"),
        Halt("scale", "2", "shop_db", 1, "1", "under way"),
        Halt("stop", "3", "not reached", 2, ""),
        Halt("pause", "4", "up again", 3, "", "over"),
        Halt("hook", "", "this machine", 4, "", "done"),
    )
    journal.end(over=False)
    made.appointments.append(Appointment("vol", NOW, late=False))
    assert made.values["volferry_services_down"] == 2
    assert made.values["volferry_scheduled_volumes"] == 1


def test_of_volumes_that_are_gone_there_are_no_series(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for volume in ("stays", "anonymous"):
        made.history.end(made.history.begin("run", "host", volume, NOW), NOW, "failed", error="x")
    made.gone.add("anonymous")
    values = made.values
    assert values['volferry_runs_total{outcome="failed",volume="stays"}'] == 1
    assert not any("anonymous" in name for name in values)
    made.gone.clear()
    assert made.values['volferry_runs_total{outcome="failed",volume="anonymous"}'] == 1


def test_a_journal_that_cannot_be_read_counts_as_a_service_that_is_down(tmp_path: Path) -> None:
    made = Made(tmp_path)
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / f"{DEAD}.000001.jsonl").mkdir()
    assert made.values["volferry_services_down"] == 1


def test_metrics_that_cannot_be_had_cost_no_others(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.appointments = None  # type: ignore[assignment]
    failed: list[str] = []
    text = Metrics(made, lambda name, _: failed.append(name)).text().decode()
    assert "volferry_services_down 0.0" in text
    assert "volferry_scheduled_volumes" not in text
    assert set(failed) == {"metrics of the schedule"}
