"""Which options and labels a volume gets that is made after another one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from volferry.model import Volume
from volferry.operations.migration_plan import target_volume
from volferry.operations.new_volume import (
    bind_path,
    labels_note,
    leads_elsewhere,
    options_note,
    options_text,
    place_of,
    refused_name,
    with_labels_of,
)

LABELS = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.config-hash": "0123",
    "volferry.schedule": "@daily",
    "docker-volume-backup.stop-during-backup": "true",
    "com.docker.volume.anonymous": "",
    "tier": "gold",
    "com.docker.composer": "kept",
}
SIZED = Volume("data", "local", {"size": "1g"}, LABELS, "local", "")


def migrated(**changes: Any) -> Volume:
    asked: dict[str, Any] = {"renamed": {}, "drivers": {}, "options": {}} | changes
    return target_volume(SIZED, **asked)


def test_the_same_volume_keeps_all_but_the_label_that_says_anonymous() -> None:
    same = migrated()
    assert same.labels == {key: value for key, value in LABELS.items() if "anonymous" not in key}
    assert labels_note(SIZED, same) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"renamed": {"data": "copy"}},
        {"drivers": {"data": "other"}},
        {"options": {"data": {"size": "2g"}}},
        {"options": {"data": {"size": None}}},
    ],
    ids=["name", "driver", "option", "option that goes"],
)
def test_another_volume_lacks_what_was_about_the_original(changes: dict[str, dict[str, str]]) -> None:
    other = migrated(**changes)
    assert other.labels == {"tier": "gold", "com.docker.composer": "kept"}
    note = labels_note(SIZED, other) or ""
    assert all(key in note for key in LABELS.keys() - other.labels.keys() - {"com.docker.volume.anonymous"})
    assert "--labels all" in note

    every = with_labels_of(SIZED, other, every=True)
    assert every.labels == migrated().labels


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        ("local", {}, False),
        ("local", {"size": "1g"}, False),
        ("local", {"type": "none", "o": "bind", "device": "/srv"}, True),
        ("local", {"type": "nfs", "o": "addr=10.0.0.1", "device": ":/export"}, True),
        ("local", {"size": "1g", "device": "/dev/sdb1"}, True),
        ("rclone", {}, True),
    ],
)
def test_options_that_lead_out_of_the_engines_data_are_known(
    driver: str, options: dict[str, str], expected: bool
) -> None:
    assert leads_elsewhere(Volume("data", driver, options, {}, "local", "")) is expected


def test_what_a_store_says_is_shown_and_does_nothing_to_a_terminal() -> None:
    odd = "x\x1b[2J\nvolferry: all is well"
    volume = Volume("data", odd, {odd: odd}, {f"volferry.{odd}": ""}, "local", "")
    copy = with_labels_of(volume, replace(volume, name="copy"), every=False)
    for note in (options_note(volume), labels_note(volume, copy) or ""):
        assert "\\x1b[2J\\x0avolferry" in note
        assert note.isprintable()


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        ("local", {"type": "tmpfs", "device": "tmpfs"}, True),
        ("local", {"type": "ramfs", "device": "ramfs"}, True),
        ("local", {"type": "none", "o": "bind", "device": "/dev/shm"}, False),
        ("plugin", {"type": "tmpfs"}, False),
    ],
)
def test_a_volume_in_memory_is_known(driver: str, options: dict[str, str], expected: bool) -> None:
    assert Volume("data", driver, options, {}, "local", "").in_memory is expected


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        ("local", {"o": "bind", "device": "/srv"}, "/srv"),
        ("local", {"type": "none", "o": "ro,rbind", "device": "/srv"}, "/srv"),
        ("local", {"type": "nfs", "o": "addr=10.0.0.1,nobind", "device": ":/srv"}, None),
        ("local", {"device": "/srv"}, None),
        ("other", {"o": "bind", "device": "/srv"}, None),
    ],
)
def test_volumes_that_are_directories_of_the_machine_are_known(
    driver: str, options: dict[str, str], expected: str | None
) -> None:
    assert bind_path(Volume("data", driver, options, {}, "local", "")) == expected


def test_a_place_is_shown_and_does_nothing_to_a_terminal() -> None:
    volume = Volume("data", "nfs\x1b[2J", {"share": "a\nb"}, {}, "local", "")
    assert options_text(volume) == r"driver=nfs\x1b[2J, share=a\x0ab"
    assert place_of(volume) == r"its place in the driver nfs\x1b[2J"


@pytest.mark.parametrize(
    ("name", "docker", "podman"),
    [
        ("data", True, True),
        ("v", False, True),
        ("a/b", False, False),
        ("-v", False, False),
        ("7.x_y-z", True, True),
    ],
)
def test_names_that_an_engine_refuses_are_known(name: str, docker: bool, podman: bool) -> None:
    volume = replace(SIZED, name=name)
    assert [not refused_name(volume, podman=podmans) for podmans in (False, True)] == [docker, podman]
    assert not refused_name(replace(volume, driver="a-plugin"), podman=False)
