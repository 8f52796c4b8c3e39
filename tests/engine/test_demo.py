"""`./dev demo` is the first thing that people see of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.parts.world import World

PROJECT = Path(__file__).resolve().parents[2]


def test_the_demo_ends_well(world: World, tmp_path: Path) -> None:
    def demo() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tests.demo"],
            cwd=tmp_path,  # where its store and its state are made
            env={**world.cli.environment, "PYTHONPATH": str(PROJECT)},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "compared and equal" in done.stdout
        assert "identical" in done.stdout
        assert world.own_containers() == []
        return done.stdout

    assert "rm -r .demo" in demo()
    assert not any(world.cli.state.rglob("known-stores/*"))
    shutil.rmtree(tmp_path / ".demo")
    demo()
