"""A first copy of a volume that is interrupted: a user hears that it can be gone on with, from the copy and from the store that it was for."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_damage import lab  # noqa: F401 -- a fixture
from volferry.layout import files_key, manifest_key

if TYPE_CHECKING:
    from tests.unit.test_damage import Lab

_GOES_ON = "what was sent so far stays, and the same command goes on from there"
_COPY = "`volferry copy --store SOURCE --to STORE` completes a copy that was interrupted; else put it back"


def test_the_same_command_goes_on_with_it(lab: Lab) -> None:  # noqa: F811
    for number in range(100):
        (lab.volume.data / f"more{number}").write_bytes(os.urandom(1 << 20))
    ref = lab.back_up()
    target = lab.directory / "target"
    command = ("copy", "--to", str(target), "--host", "host")
    running = lab.cli.start(*command, "--json")
    assert running.until(lambda: len(list((target / "packs").rglob("*.zst"))) > 3)
    running.send(signal.SIGINT)
    interrupted = running.outcome().exits(130)
    assert f"vol: {_GOES_ON}" in interrupted.stderr
    assert not (target / manifest_key(ref)).exists()
    sent = sum(path.stat().st_size for path in (target / "packs").rglob("*.zst"))
    (copied,) = lab.cli(*command, "--json").exits(0).json["copied"]
    whole = sum(path.stat().st_size for path in (target / "packs").rglob("*.zst"))
    assert copied["copied"] == [ref.id]
    assert 0 < copied["sent_bytes"] < whole - sent + (1 << 20)


@pytest.mark.parametrize(("command", "code"), [("list", 1), ("status", 1), ("prune", 3)])
def test_the_other_store_names_the_copy(lab: Lab, command: str, code: int) -> None:  # noqa: F811
    ref = lab.back_up()
    target = lab.directory / "target"
    lab.cli("copy", "--to", str(target), "--host", "host").exits(0)
    (target / manifest_key(ref)).unlink()
    elsewhere = lab.cli.at(state=lab.directory / "elsewhere")
    told = elsewhere(command, "--store", str(target), "--host", "host").exits(code).stderr
    assert f"{manifest_key(ref)} is missing" in told
    assert _COPY in told
    assert (target / files_key(ref)).exists()
