from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.errors import HookFailed, Interrupted, Unfinished, VolumeBusy
from volferry.history import UNFINISHED, History, Record
from volferry.model import BackupRef, BackupStats, Finding
from volferry.run import begin_run

if TYPE_CHECKING:
    from volferry.history import Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STATS = BackupStats(BackupRef("host", "vol", "20260101T000000Z-aaaaaa"), None, 5, 100, 90, 80, 1.5, 0.25)


def test_what_was_run_is_there_with_how_it_went(tmp_path: Path) -> None:
    with Record(tmp_path, "run", "host", "vol") as record:
        assert [run.outcome for run in History(tmp_path).recent(9)] == ["running"]
        record.made(STATS, [])
    with Record(tmp_path, "run", "host", "other") as record:
        record.made(STATS, ["the service is down"])
    for error in (HookFailed("no"), OSError(28, "full")):
        with pytest.raises(type(error)), Record(tmp_path, "run", "host", "vol"):
            raise error
    with pytest.raises(Interrupted), Record(tmp_path, "run", "host", "vol"):
        raise Interrupted("by a signal")
    history = History(tmp_path)
    assert [(run.volume, run.outcome, run.error) for run in history.recent(9)] == [
        ("vol", "done", ""),
        ("other", "troubled", "the service is down"),
        ("vol", "failed", "no"),
        ("vol", "failed", "[Errno 28] full"),
        ("vol", "interrupted", "by a signal"),
    ]
    assert {name: run.outcome for name, run in history.last().items()} == {
        "vol": "interrupted",
        "other": "troubled",
    }
    good = history.last_good()["vol"]
    assert (good.backup, good.stored_bytes, good.downtime_seconds) == (STATS.ref.id, 80, 0.25)
    assert history.totals() == {
        ("vol", "done"): 1,
        ("other", "troubled"): 1,
        ("vol", "failed"): 2,
        ("vol", "interrupted"): 1,
    }


def test_a_run_that_is_refused_because_of_another_one_is_none(tmp_path: Path) -> None:
    with Record(tmp_path, "first", "host", "vol") as record:
        with pytest.raises(VolumeBusy), Record(tmp_path, "second", "host", "vol"):
            raise VolumeBusy("another run is at work")
        assert [run.run for run in History(tmp_path).recent(9)] == ["first"]
        record.made(STATS, [])
    history = History(tmp_path)
    assert history.last()["vol"].outcome == "done"
    assert (history.failed(), history.totals()) == (set(), {("vol", "done"): 1})


def test_a_store_has_its_own_runs_and_those_of_which_nobody_knows_the_store(tmp_path: Path) -> None:
    with Record(tmp_path, "old", "host", "vol") as record:
        record.made(STATS, [])
    with Record(tmp_path, "good", "host", "vol", "/srv/real") as record:
        record.made(STATS, [])
    with pytest.raises(HookFailed), Record(tmp_path, "bad", "host", "vol", "/srv/mistyped"):
        raise HookFailed("no")
    real, mistyped = History(tmp_path, "/srv/real"), History(tmp_path, "/srv/mistyped")
    assert (real.last()["vol"].run, real.last()["vol"].store, real.failed()) == ("good", "/srv/real", set())
    assert (mistyped.last()["vol"].run, mistyped.failed()) == ("bad", {"vol"})
    assert mistyped.last_good()["vol"].run == "old"
    assert [run.run for run in real.recent(9)] == ["old", "good"]
    assert [run.run for run in History(tmp_path).recent(9)] == ["old", "good", "bad"]
    assert real.has("bad", "vol")
    assert not real.has("bad", "other")


def test_a_database_of_an_earlier_version_is_read_and_written(tmp_path: Path) -> None:
    with Record(tmp_path, "old", "host", "vol") as record:
        record.made(STATS, [])
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as database:
        database.execute("ALTER TABLE runs DROP COLUMN store")
    history = History(tmp_path, "/srv")
    assert [(run.run, run.findings, run.store) for run in history.recent(9)] == [("old", 0, "")]
    with Record(tmp_path, "new", "host", "vol", "/srv") as record:
        record.made(STATS, [])
    assert [(run.run, run.store) for run in history.recent(9)] == [("old", ""), ("new", "/srv")]


def test_findings_are_an_outcome_of_their_own(tmp_path: Path) -> None:
    stats = BackupStats(STATS.ref, None, 5, 1, 1, 1, 1.0, 0.0, (Finding("torn", b"x", ""),), 1)
    with Record(tmp_path, "run", "host", "vol") as record:
        record.made(stats, [])
    assert [(run.outcome, run.findings, run.good) for run in History(tmp_path).recent(1)] == [
        ("findings", 1, True)
    ]


def test_a_run_whose_process_died_was_interrupted_and_one_that_lives_goes_on(tmp_path: Path) -> None:
    history = History(tmp_path)
    with begin_run(tmp_path) as run:
        history.begin(run.id, "host", "lives", NOW)
        history.begin("0123456789ab", "host", "died", NOW)
        assert [(each.volume, each.outcome) for each in history.settle(NOW)] == [("died", "interrupted")]
        assert [(each.volume, each.outcome) for each in history.recent(2)] == [
            ("lives", "running"),
            ("died", "interrupted"),
        ]
    assert [each.volume for each in history.settle(NOW)] == ["lives"]
    assert history.settle(NOW) == []


def test_it_does_not_grow_for_ever(tmp_path: Path) -> None:
    history = History(tmp_path)
    old = history.begin("run", "host", "gone", NOW - timedelta(days=500))
    history.end(old, NOW - timedelta(days=500), "done", stats=STATS)
    for _ in range(1005):
        history.end(history.begin("run", "host", "vol", NOW), NOW, "done", stats=STATS)
    assert len(history.recent(5000)) == 1000
    assert history.totals()["vol", "done"] == 1005


def test_a_damaged_one_is_begun_anew_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "history.sqlite").write_bytes(b"not a database" * 100)
    assert History(tmp_path).recent(1) == []
    for _ in range(2):
        with Record(tmp_path, "run", "host", "vol") as record:
            record.made(STATS, [])
    assert [run.outcome for run in History(tmp_path).recent(5)] == ["done"]


def test_volumes_are_seen_first_once(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.first_seen(["a"], NOW) == {"a": NOW}
    later = NOW + timedelta(days=1)
    assert history.first_seen(["a", "b"], later) == {"a": NOW, "b": later}
    # The clock was ahead, and was put back.
    assert history.first_seen(["a"], NOW) == {"a": NOW}
    assert history.first_seen(["a", "b"], NOW) == {"a": NOW, "b": NOW}


def seen(directory: Path) -> int:
    with closing(sqlite3.connect(directory / "history.sqlite")) as database:
        return len(database.execute("SELECT * FROM seen").fetchall())


def test_volumes_that_have_been_gone_for_a_month_are_forgotten(tmp_path: Path) -> None:
    history, now = History(tmp_path), NOW
    for day in range(60):
        now = NOW + timedelta(days=day)
        history.first_seen(["stays", f"anonymous {day}"], now)
    assert history.first_seen(["stays"], now) == {"stays": NOW}
    assert 25 < seen(tmp_path) < 35
    assert history.first_seen(["anonymous 0"], now) == {"anonymous 0": now}
    # One by an earlier version, for how long ever it has been gone.
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as database, database:
        database.execute("INSERT INTO seen VALUES ('old', 1.0)")
    history.first_seen([], now + timedelta(days=1))
    assert history.first_seen(["old"], now + timedelta(days=2)) == {"old": datetime.fromtimestamp(1, UTC)}


def test_a_clock_that_is_ahead_for_a_while_makes_no_volume_stay_for_ever(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.first_seen(["a", "gone"], NOW + timedelta(days=4000))
    for day in range(40):
        assert history.first_seen(["a"], NOW + timedelta(days=day)) == {"a": NOW}
    assert seen(tmp_path) == 1


@given(
    some=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["done", "failed", "troubled"]))),
    store=st.sampled_from(["", "/one", "/two"]),
)
def test_the_newest_run_of_each_volume_is_found(some: list[tuple[str, Outcome]], store: str) -> None:
    with TemporaryDirectory() as directory:
        state = Path(directory)
        runs = [(volume, outcome, place) for volume, outcome in some for place in ("", "/one")]
        for number, (volume, outcome, place) in enumerate(runs):
            history = History(state, place)
            history.end(history.begin(str(number), "host", volume, NOW), NOW, outcome)
        wanted = {
            volume: str(number)
            for number, (volume, _, place) in enumerate(runs)
            if store in {"", place} or not place
        }
        good = {
            volume: str(number)
            for number, (volume, outcome, place) in enumerate(runs)
            if outcome != "failed" and (store in {"", place} or not place)
        }
        assert {name: run.run for name, run in History(state, store).last().items()} == wanted
        assert {name: run.run for name, run in History(state, store).last_good().items()} == good


def test_what_a_later_version_has_written_keeps_nobody_from_starting(tmp_path: Path) -> None:
    history = History(tmp_path, "/srv")
    history.keep_scheduled([("a", "@daily", NOW), ("b", "at moonrise", None)])
    number = history.begin("run", "host", "vol", NOW)
    history.end(number, NOW, "done", stats=STATS)
    history.end(history.begin("other", "host", "odd", NOW), NOW, "done", stats=STATS)
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as database, database:
        database.execute("ALTER TABLE runs ADD COLUMN moon TEXT NOT NULL DEFAULT ''")
        database.execute("ALTER TABLE seen ADD COLUMN moon TEXT NOT NULL DEFAULT ''")
        database.execute("ALTER TABLE scheduled ADD COLUMN moon TEXT NOT NULL DEFAULT ''")
        database.execute("ALTER TABLE totals ADD COLUMN moon TEXT NOT NULL DEFAULT ''")
        database.execute("UPDATE runs SET outcome = 'eclipsed' WHERE volume = 'vol'")
        database.execute("UPDATE runs SET began = 'new moon' WHERE volume = 'odd'")
    assert history.scheduled() == [("a", "@daily", NOW)]
    assert {name: run.outcome for name, run in history.last().items()} == {"vol": "eclipsed"}
    assert history.failed() == set()
    with Record(tmp_path, "new", "host", "vol", "/srv") as record:
        record.made(STATS, [])
    assert history.last()["vol"].run == "new"
    assert history.first_seen(["a"], NOW) == {"a": NOW}
    history.keep_scheduled([("c", "@hourly", None)])
    assert history.scheduled() == [("c", "@hourly", None)]


def test_what_is_scheduled_is_kept_as_it_was_last(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.scheduled() == []
    history.keep_scheduled([("gone", "@daily", None)])
    kept: list[tuple[str, str, datetime | None]] = [("a", "@daily", NOW), ("b", "every 1h", None)]
    history.keep_scheduled(kept)
    assert history.scheduled() == kept


def test_a_run_that_was_refused_because_of_half_a_restore_is_known_as_such(tmp_path: Path) -> None:
    with pytest.raises(Unfinished), Record(tmp_path, "half", "host", "vol"):
        raise Unfinished("it holds the rest of an interrupted restore")
    with pytest.raises(HookFailed), Record(tmp_path, "other", "host", "other"):
        raise HookFailed("no")
    assert {name: run.cause for name, run in History(tmp_path).last().items()} == {
        "vol": UNFINISHED,
        "other": "",
    }
    with closing(
        sqlite3.connect(tmp_path / "history.sqlite")
    ) as database:  # as an earlier version has made it
        database.execute("ALTER TABLE runs DROP COLUMN cause")
    assert [(run.volume, run.outcome, run.cause) for run in History(tmp_path).recent(9)] == [
        ("vol", "failed", ""),
        ("other", "failed", ""),
    ]
