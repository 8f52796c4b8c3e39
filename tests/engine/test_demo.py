"""`./dev demo` is the first thing that people see of it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.engine.test_quiesce import await_true

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

    said = demo()
    assert "rm -r .demo" in said
    # What it says to try next works as it is printed, also when the engine is gone.
    cli = world.cli.at(store=tmp_path / ".demo" / "store", state=tmp_path / ".demo" / "state")
    without_engine = cli.having(DOCKER_HOST="unix:///nowhere")
    (listed, exported) = re.findall(r"\.venv/bin/volferry ((?:ls|export) .*)$", said, re.MULTILINE)
    assert "project" in without_engine(*listed.split()).exits(0).stdout
    *words, name = exported.split()
    without_engine(*words, str(tmp_path / name)).exits(0)
    assert not any(world.cli.state.rglob("known-stores/*"))
    shutil.rmtree(tmp_path / ".demo")
    demo()


def test_what_is_read_through_the_engine_is_let_go_of_before_its_container_is_removed(world: World) -> None:
    """The engine removes no container of which it sends something: Ctrl-C waited for two minutes, and was a traceback."""
    volume = world.volume()
    with (world.data(volume) / "large").open("wb") as file:
        file.truncate(64 << 30)  # more than is read before the signal
    script = (
        "import docker, sys; from tests import demo; import signal; signal.signal(signal.SIGINT, demo._end);"
        "from tests.parts.demonstration import nodes;"
        "print('reading', flush=True); nodes(docker.from_env(timeout=120), sys.argv[1])"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script, volume],
        env={**world.cli.environment, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "reading\n"
        spooled = Path(f"/proc/{running.pid}/io")
        await_true(lambda: int(spooled.read_text().split("wchar: ")[1].split()[0]) > 64 << 20)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    finally:
        running.kill()
    assert (running.returncode, said) == (130, "")
    assert [each.name for each in world.client.containers.list(all=True)] == []
