"""Stores that would go with the container that volferry runs in, and those that would not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from volferry.cli.own_layer import lost_with_us
from volferry.engine import own
from volferry.engine.own import OwnContainer, Surroundings

HERE = Surroundings(True, "host", "", frozenset({"/", "/var/lib/volferry", "/etc/hosts"}), (), frozenset())


def lost(
    monkeypatch: pytest.MonkeyPatch, place: str, here: Surroundings = HERE, *, known: bool = True
) -> str:
    container = OwnContainer("c" * 64, "image", []) if known else None
    monkeypatch.setattr(own.Surroundings, "seen", lambda: here)
    monkeypatch.setattr(own, "own_container", lambda *_: container)
    session: Any = SimpleNamespace(engine=None, config=SimpleNamespace(state_dir=Path("/state/volferry")))
    return lost_with_us(session, place)


@pytest.mark.parametrize(
    ("place", "mount"),
    [("/backups", "/backups"), ("/var/lib", "/var/lib"), ("/state/volferry/store", "/state/volferry")],
)
def test_where_nothing_is_mounted(monkeypatch: pytest.MonkeyPatch, place: str, mount: str) -> None:
    assert f"mount a volume at {mount} (" in lost(monkeypatch, place)


@pytest.mark.parametrize(
    "place", ["/var/lib/volferry/store", "s3://bucket", "sftp://host/backups", "ftp://x"]
)
def test_what_outlives_the_container(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    assert lost(monkeypatch, place) == ""


def test_a_link_to_what_is_mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/var/lib/volferry")
    assert lost(monkeypatch, str(tmp_path / "link" / "store")) == ""
    assert lost(monkeypatch, str(tmp_path / "other")) != ""


def test_on_a_host_and_in_a_container_of_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lost(monkeypatch, "/backups", replace(HERE, in_container=False)) == ""
    assert lost(monkeypatch, "/backups", known=False) == ""
