"""The lock that volferrys of several state directories have on an engine, with a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from volferry.engine.client import connect
from volferry.engine.engine_lock import LOCK_NAME, engine_lock
from volferry.engine.labels import is_ours
from volferry.errors import EngineBusy
from volferry.run import begin_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.world import World


def test_one_of_two_has_it(world: World, tmp_path: Path) -> None:
    engine = connect(world.engine.docker_host)
    first, second = tmp_path / "first", tmp_path / "second"
    with begin_run(first) as run, begin_run(second) as other:
        with engine_lock(engine, world.image, run, first, seconds=0):
            (lock,) = engine.api.containers(all=True, filters={"name": LOCK_NAME})
            assert is_ours(lock)
            with (
                pytest.raises(EngineBusy, match=run.id),
                engine_lock(engine, world.image, other, second, seconds=0),
            ):
                pass
            said = world.cli("doctor").exits(0).stdout
            assert f"another volferry (state directory {run.owner}, run {run.id}) is at work" in said
        with engine_lock(engine, world.image, other, second, seconds=0):
            pass
    assert world.own_containers() == []
    assert "none seen on this engine" in world.cli("doctor").exits(0).stdout
    engine.close()
