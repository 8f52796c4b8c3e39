"""What holds for volumes that are backed up together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from volferry.archive.excludes import Excludes
from volferry.cli.wanted import Wanted, WantedTogether, shared_hooks
from volferry.labels import ContainerCommand
from volferry.schedule import Span
from volferry.volume_settings import HostHooks


def wanted(**more: Any) -> Wanted:
    values: dict[str, Any] = {
        "excludes": Excludes(), "one_file_system": False, "quiesce": "stop", "warm": False, "full": False, "suspicious": True,
        "host_hooks": HostHooks(), "pre": [], "post": [], "on_error": [], "dumps": [], "max_downtime": None, "young": None,
    }  # fmt: skip
    return Wanted(**{**values, **more})


def minutes(number: int) -> timedelta:
    return timedelta(minutes=number)


def test_the_strictest_holds_of_what_anybody_says() -> None:
    plain = WantedTogether.of([wanted()])
    assert (plain.young, plain.max_downtime) == (minutes(5), minutes(60))
    said = WantedTogether.of([wanted(young=timedelta(), max_downtime=minutes(90)), wanted()])
    assert (said.young, said.max_downtime) == (timedelta(), minutes(90))
    both = WantedTogether.of(
        [wanted(young=minutes(1), max_downtime=minutes(9)), wanted(young=minutes(7), max_downtime=minutes(3))]
    )
    assert (both.young, both.max_downtime) == (minutes(7), minutes(3))


def test_who_stops_nothing_has_no_say_in_how_it_is_stopped() -> None:
    found = WantedTogether.of(
        [
            wanted(young=minutes(1)),
            wanted(quiesce="none", young=minutes(30), max_downtime=minutes(1), warm=True),
        ]
    )
    assert found == WantedTogether("stop", warm=False, max_downtime=minutes(60), young=minutes(1))
    assert WantedTogether.of([wanted(quiesce="none")]).quiesce == "none"
    assert WantedTogether.of([wanted(quiesce=each) for each in ("none", "pause", "stop")]).quiesce == "stop"


def test_a_line_on_this_machine_is_one_hook_of_all_that_have_it() -> None:
    found = shared_hooks(
        {
            "a": wanted(host_hooks=HostHooks(pre="freeze", post="thaw")),
            "b": wanted(host_hooks=HostHooks(pre="freeze", post="other", timeout=Span("20m"))),
            "c": wanted(),
        }
    )
    assert {each.volumes: (each.host.pre, each.host.post) for each in found} == {
        ("a", "b"): ("freeze", None), ("a",): (None, "thaw"), ("b",): (None, "other"),
    }  # fmt: skip
    assert {each.volumes: str(each.host.timeout) for each in found} == {
        ("a", "b"): "20m", ("a",): "10m", ("b",): "20m",
    }  # fmt: skip


def test_a_command_of_a_container_is_one_hook_of_all_that_it_mounts() -> None:
    command = ContainerCommand("app", "id", ("sh", "-c", "true"))
    other = ContainerCommand("web", "other", ("sh", "-c", "true"))
    found = shared_hooks({"a": wanted(pre=[command], post=[command]), "b": wanted(pre=[command, other])})
    assert {each.volumes: (len(each.pre), len(each.post)) for each in found} == {
        ("a", "b"): (1, 0), ("b",): (1, 0), ("a",): (0, 1),
    }  # fmt: skip
