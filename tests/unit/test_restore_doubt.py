"""A restore of a suspicious backup says so, and names the last one that is not and that is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.unit.test_damage import lab  # noqa: F401 -- a fixture
from volferry.cli.restore_doubt import Doubt
from volferry.cli.session import Session
from volferry.errors import SuspiciousBackup
from volferry.model import BackupRef

if TYPE_CHECKING:
    from tests.unit.test_damage import Lab


def test_what_is_named_in_its_place_is_whole(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    (lab.volume.data / "file").write_text("other")
    second = lab.back_up(full=True)
    for path in lab.volume.data.iterdir():
        path.unlink()
    emptied = lab.back_up()

    def told(place: str) -> str:
        return lab.cli("restore", "vol", "--host", "host", "--to", str(lab.directory / place)).exits(0).stderr

    assert "this backup is shrunk: from 5 to 1 entries" in told("one")
    assert f"; the last one that is not: `volferry restore {second}`" in told("two")
    (only_there,) = {*lab.packs(second)} - {*lab.packs(first)}
    only_there.unlink()
    assert f"; the last one that is not: `volferry restore {first}`" in told("three")
    lab.cli("accept", str(emptied), "--host", "host").exits(0)
    assert "is not" not in told("four")


def test_where_there_is_none(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    for path in lab.volume.data.iterdir():
        path.unlink()
    lab.back_up()
    lab.repository.forget(first)
    place = str(lab.directory / "place")
    lab.cli("list", "--host", "host")
    told = lab.cli("restore", "vol", "--host", "host", "--to", place).exits(0).stderr
    assert "; no earlier one that is not is left" in told


@pytest.mark.parametrize("good", [None, BackupRef("host", "vol", "20260101T000000Z-abcdef")])
def test_a_refusal_has_the_command_for_each_backup_that_is_there(good: BackupRef | None) -> None:
    ref = BackupRef("host", "vol", "20260102T000000Z-abcdef")
    doubt = Doubt(
        ref, "shrunk: from 5 to 1 entries", good, Session(cast("Any", None), store_option="s2"), True
    )
    with pytest.raises(SuspiciousBackup) as refused:
        doubt.check("vol", replaces=True, named=False)
    line = str(refused.value)
    assert line.endswith(f"; `volferry restore {ref} --replace --store s2` restores this one, if it is meant")
    better = "no earlier one that is not is left"
    if good:
        better = f"`volferry restore {good} --replace --store s2` restores the last one that is not"
    assert f"nothing was changed; {better}; " in line
