"""What the daemon does next, by what there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from volferry.checked import value_of
from volferry.config import Config
from volferry.model import ANONYMOUS_LABEL, Volume
from volferry.schedule import Schedule
from volferry.scheduler.agenda import Agenda, Appointment, Scheduled, Selection, scheduled_of
from volferry.scheduler.moments import Moment

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def volume(name: str, **labels: str) -> Volume:
    marked = {f"volferry.{key}": value for key, value in labels.items()}
    return Volume(name, "local", {}, marked, "local", "")


def at(wall: datetime) -> Moment:
    """By clocks that nobody has put."""
    return Moment(wall, wall - NOW + timedelta(days=9))


def config(**more: object) -> Config:
    return value_of({"defaults": {"schedule": "0 2 * * *"}, **more}, Config)


def appointments(
    agenda: Agenda,
    volumes: list[Volume],
    settings: Config,
    newest: dict[str, datetime],
    now: datetime = NOW,
    *,
    seen: datetime = NOW,
) -> list[Appointment]:
    scheduled, _ = scheduled_of(volumes, settings)
    seen_of = {each.name: seen for each in volumes}
    return agenda.appointments(scheduled, newest, seen_of, at(now), jitter=settings.daemon.jitter.delta)


def names(agenda: Agenda, volumes: list[Volume], settings: Config, **newest: datetime) -> list[str]:
    found = appointments(agenda, volumes, settings, newest)
    return [each.volume for each in found if each.at <= NOW]


def test_what_is_due_comes_by_what_was_due_first() -> None:
    volumes = [volume("new"), volume("old"), volume("done"), volume("often", schedule="every 1h")]
    newest = {
        "old": NOW - timedelta(days=3),
        "done": NOW - timedelta(hours=3),
        "often": NOW - timedelta(minutes=61),
    }
    assert names(Agenda(UTC), volumes, config(), **newest) == ["old", "often", "new"]


def test_which_volumes_are_selected() -> None:
    anonymous = Volume("a" * 64, "local", {}, {ANONYMOUS_LABEL: ""}, "local", "")
    wanted = Volume("b" * 64, "local", {}, {ANONYMOUS_LABEL: "", "volferry.enable": "true"}, "local", "")
    volumes = [volume("plain"), volume("no", enable="false"), volume("yes", enable="true"), anonymous, wanted]
    assert names(Agenda(UTC), volumes, config()) == ["b" * 64, "plain", "yes"]
    assert names(Agenda(UTC), volumes, config(daemon={"select": "labelled"})) == ["b" * 64, "yes"]
    assert names(Agenda(UTC), volumes, value_of({}, Config)) == []


def test_what_is_wrong_with_one_volume_is_no_matter_of_the_others() -> None:
    volumes = [volume("wrong", schedule="sometimes"), volume("good")]
    found, wrong = scheduled_of(volumes, config())
    assert [each.volume for each in found] == ["good"]
    assert list(wrong) == ["wrong"]


some_volumes = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["@daily", "every 1h", "sometimes", "@hourly"])
)


@given(looks=st.lists(st.tuples(some_volumes, st.booleans()), max_size=8))
def test_what_was_read_at_a_look_before_is_what_would_be_read_now(
    looks: list[tuple[dict[str, str], bool]],
) -> None:
    selection, settings = Selection(), [config(), config(daemon={"select": "labelled"})]
    for schedules, other in looks:
        volumes = [volume(name, schedule=schedule) for name, schedule in schedules.items()]
        assert selection.of(volumes, settings[other]) == scheduled_of(volumes, settings[other])


def test_what_failed_is_tried_again_later_and_later() -> None:
    agenda = Agenda(UTC)
    waits = [agenda.failed("vol", at(NOW)) for _ in range(12)]
    assert waits[:4] == [timedelta(minutes=minutes) for minutes in (1, 2, 4, 8)]
    assert set(waits[6:]) == {timedelta(hours=1)}
    assert names(agenda, [volume("vol")], config()) == []
    assert agenda.succeeded("vol", at(NOW - timedelta(days=1)))
    assert not agenda.succeeded("vol", at(NOW - timedelta(days=1)))
    assert names(agenda, [volume("vol")], config()) == ["vol"]


def test_jitter_is_the_same_each_time_and_differs_between_volumes() -> None:
    settings = config(daemon={"jitter": "30m"})
    volumes = [volume(f"vol{number}") for number in range(50)]
    newest = {each.name: NOW for each in volumes}
    found = appointments(Agenda(UTC), volumes, settings, newest)
    assert found == appointments(Agenda(UTC), volumes, settings, newest)
    times = {each.at for each in found}
    assert len(times) == len(volumes)
    at = datetime(2026, 3, 11, 2, tzinfo=UTC)
    assert at <= min(times) <= max(times) < at + timedelta(minutes=30)


def test_jitter_does_not_keep_a_new_volume_from_its_first_backup() -> None:
    assert names(Agenda(UTC), [volume("new")], config(daemon={"jitter": "30m"})) == ["new"]


def test_a_backup_from_the_future_counts_as_none() -> None:
    agenda, newest = Agenda(UTC), {"vol": NOW + timedelta(days=3650)}
    seen = NOW - timedelta(days=2)
    (found,) = appointments(agenda, [volume("vol")], config(), newest, seen=seen)
    assert (found.at, found.late) == (NOW, True)
    agenda.succeeded("vol", at(NOW))
    found = appointments(agenda, [volume("vol")], config(), newest, NOW + timedelta(minutes=5))[0]
    assert found.at == datetime(2026, 3, 11, 2, tzinfo=UTC)


def test_clocks_of_two_machines_may_differ_a_little() -> None:
    (found,) = appointments(Agenda(UTC), [volume("vol")], config(), {"vol": NOW + timedelta(minutes=4)})
    assert (found.at, found.late) == (datetime(2026, 3, 11, 2, tzinfo=UTC), False)


def test_failures_and_ends_from_the_future_say_nothing() -> None:
    agenda = Agenda(UTC)
    agenda.failed("vol", Moment(NOW + timedelta(days=3650), at(NOW).mono - timedelta(minutes=1)))
    assert names(agenda, [volume("vol")], config()) == ["vol"]
    agenda.succeeded("vol", at(NOW + timedelta(days=3650)))
    assert names(agenda, [volume("vol")], config()) == ["vol"]


def test_what_came_due_during_a_run_is_done_with_when_it_ends() -> None:
    agenda, began = Agenda(UTC), NOW - timedelta(hours=3)
    agenda.succeeded("vol", at(NOW - timedelta(minutes=1)))
    found = appointments(agenda, [volume("vol", schedule="@hourly")], config(), {"vol": began})
    assert [each.at for each in found] == [NOW]
    agenda.succeeded("vol", at(NOW))
    found = appointments(agenda, [volume("vol", schedule="@hourly")], config(), {"vol": began})
    assert [each.at for each in found] == [NOW + timedelta(hours=1)]


def test_an_interval_does_not_move_with_what_runs_take() -> None:
    agenda = Agenda(UTC)
    began = NOW
    agenda.succeeded("vol", at(NOW + timedelta(minutes=50)))
    every = [Scheduled("vol", Schedule("every 2h"))]
    (found,) = agenda.appointments(every, {"vol": began}, {}, at(NOW + timedelta(minutes=51)))
    assert found.at == began + timedelta(hours=2)
    # One that took longer than that: the next of its times, and not all that were missed.
    agenda.succeeded("vol", at(NOW + timedelta(hours=5)))
    (found,) = agenda.appointments(every, {"vol": began}, {}, at(NOW + timedelta(hours=5)))
    assert found.at == began + timedelta(hours=6)


def test_late_is_what_has_missed_two_of_its_times_or_never_had_a_backup_for_one() -> None:
    def late(newest: datetime | None, seen: datetime) -> bool:
        known = {} if newest is None else {"vol": newest}
        found = appointments(Agenda(UTC), [volume("vol")], config(), known, seen=seen)
        return found[0].late

    assert not late(NOW - timedelta(hours=11), NOW)
    assert not late(NOW - timedelta(hours=33), NOW)
    assert late(NOW - timedelta(hours=35), NOW)
    assert not late(None, NOW - timedelta(hours=9))
    assert late(None, NOW - timedelta(hours=11))
