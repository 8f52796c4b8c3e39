"""Dumps: of containers that are off, and of those that write too much or for too long."""

from __future__ import annotations

import os
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from volferry.errors import DumpFailed, EngineError, NotRunning, VolferryError
from volferry.labels import ContainerCommand, Dump, dumps_of
from volferry.model import VolumeUse
from volferry.observer import Silent
from volferry.operations import dumps as module
from volferry.operations.dumps import take_dumps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENGINE: Any = None


def dump(name: str, state: str = "running") -> Dump:
    return Dump(name, ContainerCommand("db", "d" * 64, ("sh", "-c", "pg_dump -psecret")), state)


def taking(monkeypatch: pytest.MonkeyPatch, run: Callable[..., int]) -> None:
    monkeypatch.setattr(module, "run_in_container", run)


def take(spool: Path, *dumps: Dump) -> tuple[list[str], list[str]]:
    taken, findings = take_dumps(ENGINE, dumps, spool=spool, environment={}, observer=Silent())
    assert {each.kind for each in findings} <= {"undumped"}
    assert {each.path for each in findings} <= {b""}
    return [each.file.name for each in taken], [each.detail for each in findings]


def writing(_engine: Any, command: ContainerCommand, *, on_stdout: Callable[[bytes], None], **_: Any) -> int:
    on_stdout(command.container.encode())
    return 0


@pytest.mark.parametrize("state", ["exited", "created", "paused", "restarting", "dead"])
def test_one_whose_container_is_off_is_a_finding_and_the_others_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    taking(monkeypatch, writing)
    assert take(tmp_path, dump("a", state), dump("b")) == (
        ["b"],
        [f"dump a was not taken: container db is {state}"],
    )


def test_so_is_one_whose_container_went_off_since_it_was_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def off(*_: Any, **__: Any) -> int:
        raise NotRunning("container d is not running")

    taking(monkeypatch, off)
    assert take(tmp_path, dump("a")) == ([], ["dump a was not taken: container db is off by now"])
    assert list(tmp_path.iterdir()) == []


def test_one_that_ends_half_way_fails_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def half(*_: Any, on_stdout: Callable[[bytes], None], **__: Any) -> int:
        on_stdout(b"half")
        raise EngineError("its output is cut off")

    taking(monkeypatch, half)
    with pytest.raises(DumpFailed, match="its output is cut off"):
        take(tmp_path, dump("a"))
    assert list(tmp_path.iterdir()) == []


def test_one_that_would_fill_the_disk_fails_before_it_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = [100]
    found = lambda _: SimpleNamespace(f_blocks=1000, f_frsize=1 << 20, f_bavail=free[0])  # noqa: E731
    monkeypatch.setattr(os, "statvfs", found)
    written = 0

    def much(*_: Any, on_stdout: Callable[[bytes], None], **__: Any) -> int:
        nonlocal written
        for _number in range(1000):
            on_stdout(os.urandom(1 << 20))
            written += 1
            free[0] -= 1
        return 0

    taking(monkeypatch, much)
    with pytest.raises(
        VolferryError, match=r"^dump a of container db is too large: .* less than 52\.4 MB free"
    ) as raised:
        take(tmp_path, dump("a"))
    assert not isinstance(raised.value, DumpFailed)
    assert 40 < free[0] <= 50
    assert written < 60
    assert list(tmp_path.iterdir()) == []


def test_a_dump_has_six_hours_unless_a_label_says_otherwise() -> None:
    labels = {"volferry.dump": "a", "volferry.dump.b": "b", "volferry.dump.b.timeout": "90s"}
    use = VolumeUse("db", "d" * 64, "image", "exited", "/data", read_write=True, labels=labels)
    found = dumps_of("pgdata", [use])
    assert [each.command.timeout for each in found] == [timedelta(seconds=90), timedelta(hours=6)]
    assert {each.state for each in found} == {"exited"}
