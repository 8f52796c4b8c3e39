"""Copies and prunes: how they went is known, and copies that are owed are made up for."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_damage import flip, lab  # noqa: F401 -- a fixture
from volferry.cli.daemon_copies import DaemonCopies
from volferry.config import Config, load_config
from volferry.history import History, Record
from volferry.layout import files_key
from volferry.scheduler import copies
from volferry.scheduler.copies import Copies, CopyEnding
from volferry.scheduler.moments import Moment
from volferry.upkeep import Upkeep, UpkeepLog, Work

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.cli import Cli
    from tests.unit.test_damage import Lab
    from volferry.scheduler.events import Event

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
CONFIG = """
host = "host"
[stores.main]
url = "store"
[stores.offsite]
url = "offsite"
replica_of = "main"
"""


def test_how_the_last_one_went_is_kept_by_store_and_volume(tmp_path: Path) -> None:
    log = UpkeepLog(tmp_path)
    log.done("copy", "/a", "host", "vol", NOW)
    for hours in (1, 2):
        log.failed("copy", "/a", "host", ["vol"], NOW + timedelta(hours=hours), "no route")
    log.done("copy", "/b", "host", "vol", NOW)
    log.failed("prune", "/a", "host", ["vol"], NOW, "denied")
    assert log.all("copy", ["/a"]) == [
        Upkeep("copy", "/a", "host", "vol", NOW + timedelta(hours=2), NOW, 2, "no route", owed=True)
    ]
    assert [each.failures for each in log.all("copy", ["/a", "/b"])] == [2, 0]
    assert [each.error for each in log.all("prune", ["/a"])] == ["denied"]
    log.done("copy", "/a", "host", "vol", NOW + timedelta(hours=3))
    (now,) = log.all("copy", ["/a"])
    assert (now.failures, now.error, now.owed, now.succeeded) == (0, "", False, NOW + timedelta(hours=3))


def test_it_is_in_the_history_without_being_in_its_way(tmp_path: Path) -> None:
    log = UpkeepLog(tmp_path)
    assert log.all("copy", ["/a"]) == []
    log.owe(["/a"], "host", "vol")
    with pytest.raises(OSError, match="full"), Record(tmp_path, "run", "host", "vol"):
        raise OSError(28, "full")
    assert [run.outcome for run in History(tmp_path).recent(9)] == ["failed"]
    assert [each.owed for each in log.all("copy", ["/a"])] == [True]
    (tmp_path / "history.sqlite").write_bytes(b"not a database" * 100)
    assert log.all("copy", ["/a"]) == []
    log.done("copy", "/a", "host", "vol", NOW)  # and nothing is raised


def test_a_database_of_an_earlier_version_is_completed(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as database:
        database.execute("CREATE TABLE runs (number INTEGER PRIMARY KEY)")
    UpkeepLog(tmp_path).done("copy", "/a", "host", "vol", NOW)
    assert len(UpkeepLog(tmp_path).all("copy", ["/a"])) == 1


@given(failures=st.integers(1, 60), put_back=st.booleans())
def test_what_fails_is_tried_again_later_and_later_within_four_hours(failures: int, put_back: bool) -> None:
    tried = NOW + timedelta(days=400) if put_back else NOW
    each, more = (
        Upkeep("copy", "/a", "host", "vol", tried, None, count, "x", owed=True)
        for count in (failures, failures + 1)
    )
    if put_back:
        assert each.due(NOW) == NOW
    else:
        assert timedelta(minutes=1) <= each.due(NOW) - NOW <= more.due(NOW) - NOW <= timedelta(hours=4)


def test_all_that_is_owed_to_a_store_is_due_with_the_first_of_it(tmp_path: Path) -> None:
    log = UpkeepLog(tmp_path)
    log.failed("copy", "/a", "host", ["one", "gone"], NOW, "x")
    log.failed("copy", "/a", "host", ["two"], NOW - timedelta(minutes=5), "x")
    log.failed("copy", "/b", "host", ["one"], NOW, "x")
    log.failed("copy", "/a", "other host", ["one"], NOW - timedelta(days=1), "x")
    log.done("copy", "/a", "host", "well", NOW - timedelta(days=1))
    due, following = log.due("copy", ["/a", "/b"], "host", {"one", "two", "well"}, NOW)
    assert {store: [each.volume for each in owed] for store, owed in due.items()} == {"/a": ["two", "one"]}
    assert following == NOW + timedelta(minutes=1)
    assert log.due("copy", [], "host", {"one"}, NOW) == ({}, None)


@dataclass
class Made:
    """A daemon's copies, with processes that are made up."""

    directory: Path
    now: datetime = NOW
    begun: list[tuple[str, list[str]]] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    running: dict[str, datetime] = field(default_factory=dict)
    copy_goes_on: bool = False
    work: Work = "copy"

    def __post_init__(self) -> None:
        (self.directory / "volferry.toml").write_text(CONFIG)
        self.config: Config = load_config(self.directory / "volferry.toml", {})
        self.log = UpkeepLog(self.directory)
        self.owed = DaemonCopies(lambda: self.config, lambda: "host", lambda: ["one", "two"], self.log)
        self.copies = Copies(
            self, self.owed, self.tell, structlog.wrap_logger(None, processors=[self._drop]), self.work
        )

    def _drop(self, *_: Any) -> Any:
        raise structlog.DropEvent

    def going_on(self) -> dict[str, datetime]:
        return self.running

    def upkeep_goes_on(self, work: Work) -> bool:
        assert work == self.work
        return self.copy_goes_on

    def start_upkeep(self, work: Work, store: str, volumes: list[str], now: datetime) -> None:
        assert work == self.work
        self.begun.append((store, volumes))
        self.copy_goes_on = True
        self._began = now

    def ends(self, error: str = "", **more: Any) -> None:
        self.copy_goes_on = False
        store, volumes = self.begun[-1]
        if not error and not more:  # as the command does
            for each in volumes:
                self.log.done(self.work, next(iter(self.owed.stores[self.work])), "host", each, self.now)
        self.copies.ended(
            CopyEnding(store, volumes, self._began, self.work, error=error, **more), self.moment
        )

    def tell(self, event: Event) -> None:
        self.told.append((event.kind, event.what))

    def after(self, **span: float) -> datetime | None:
        self.now += timedelta(**span)
        again = self.copies.step(self.moment)
        return self.moment.at(again) if again is not None else None

    @property
    def moment(self) -> Moment:
        return Moment(self.now, self.now - NOW + timedelta(days=9))


def test_a_copy_that_failed_is_made_up_for_without_another_backup(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert made.after() is None
    made.owed.owe("one")
    made.owed.failed("copy", "one", NOW, NOW, "no route")
    assert made.after(seconds=30) == NOW + timedelta(minutes=1)
    made.running["one"] = NOW  # its own copy follows
    assert made.after(seconds=31) is None
    made.running.clear()
    made.after()
    assert made.begun == [("offsite", ["one"])]
    made.ends("no route")
    assert made.told == []  # the run has told
    assert made.after(seconds=119) == made.now + timedelta(seconds=1)
    made.after(seconds=1)
    assert len(made.begun) == 2
    made.ends()
    assert made.told == [("recovery", "copying to offsite works again")]
    assert made.after() is None


def test_a_copy_that_was_interrupted_is_made_at_the_next_start(tmp_path: Path) -> None:
    Made(tmp_path).owed.owe("one")
    made = Made(tmp_path)
    made.after()
    assert made.begun == [("offsite", ["one"])]
    made.ends("killed", interrupted=True)
    made.after(minutes=1)
    made.ends("disk full")
    assert made.told == [("failure", "copying to offsite failed")]


def test_a_prune_that_failed_is_made_up_for_later_and_later_until_it_goes_well(tmp_path: Path) -> None:
    made = Made(tmp_path, work="prune")
    assert made.after(days=1) is None
    made.owed.failed("prune", "one", made.now, made.now, "no route")
    (name,) = made.owed.stores["prune"].values()
    assert made.after(seconds=59) == made.now + timedelta(seconds=1)
    made.running["one"] = made.now  # its own prune follows
    assert made.after(seconds=1) is None
    made.running.clear()
    for minutes in (1, 2, 4, 8):
        assert made.after() is None
        assert made.begun.pop() == (name, ["one"])
        made.begun.append((name, ["one"]))
        made.ends("no route")
        made.after(minutes=minutes * 2 - 0.1)
        assert not made.copy_goes_on
        made.after(minutes=0.1)
    assert made.told == []  # the run has told
    made.ends()
    assert made.told == [("recovery", f"pruning {name} works again")]
    assert made.after(days=9) is None


def test_what_is_more_than_one_command_takes_comes_in_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_AT_ONCE", 1)
    made = Made(tmp_path)
    for volume in ("one", "two"):
        made.owed.owe(volume)
    for _ in range(4):
        made.after(seconds=1)
        if made.copy_goes_on:
            made.ends("no route")
    assert made.begun == [("offsite", ["one"]), ("offsite", ["two"])]


def test_a_history_that_cannot_be_written_makes_no_copies_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(tmp_path)
    made.owed.owe("one")
    monkeypatch.setattr(UpkeepLog, "_write", lambda *_: None)
    for _ in range(100):
        made.after(seconds=3)
        if made.copy_goes_on:
            made.ends()
    assert 4 <= len(made.begun) <= 6


def configured(lab: Lab) -> Cli:  # noqa: F811
    (lab.directory / "volferry.toml").write_text(
        CONFIG.replace('"store"', f'"{lab.store}"').replace('"offsite"', f'"{lab.directory / "offsite"}"', 1)
    )
    return lab.cli.having(VOLFERRY_CONFIG=str(lab.directory / "volferry.toml"), VOLFERRY_STORE="")


def test_status_says_which_copies_failed_until_they_go_well(lab: Lab) -> None:  # noqa: F811
    ref = lab.back_up()
    cli = configured(lab)
    (lab.directory / "offsite").write_text("no directory")
    cli("copy").exits(1)
    status = cli("status", "--json").exits(1)
    (copied,) = status.json["copies"]
    assert (copied["store"], copied["volume"], copied["failures"]) == ("offsite", "vol", 1)
    assert copied["error"]
    assert any(
        "copying vol to offsite failed at" in line and "`volferry copy --to offsite`" in line
        for line in status.complaints
    )
    (lab.directory / "offsite").unlink()
    cli("copy").exits(0)
    cli("prune").exits(0)
    status = cli("status", "--json")
    (copied,), (pruned,) = status.json["copies"], status.json["prunes"]
    assert (copied["failures"], copied["error"], copied["owed"]) == (0, None, False)
    assert pruned["succeeded"]
    assert not any("copying" in line or "pruning" in line for line in status.complaints)
    assert "last copy to offsite: 20" in cli("status").stdout
    flip(lab.store / files_key(ref))
    (lab.directory / "offsite" / files_key(ref)).unlink()
    cli("copy").exits(1)  # of the backup alone: the store is well
    (copied,) = cli("status", "--json").json["copies"]
    assert copied["error"].startswith(f"{ref}: ")
