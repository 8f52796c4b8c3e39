"""The engine restarts in the middle of a run that the daemon has begun: the service is up, it is said, and the next backup is made."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import docker
import pytest

from tests.engine.test_coming_back import journals
from tests.engine.test_daemon import DUE, LOG, backups, ended, scheduled_now
from tests.engine.test_quiesce import await_true, large, state_of
from tests.parts.engine import private_engine
from tests.parts.world import world_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_the_engine_restarts_in_the_middle_of_a_run_of_the_daemon(tmp_path: Path, how: str) -> None:
    with private_engine() as private:
        client = docker.DockerClient(base_url=private.docker_host, timeout=120)
        with world_of(private, client, tmp_path) as world:
            path = tmp_path / "volferry.toml"
            path.write_text(LOG)
            world.cli = world.cli.having(VOLFERRY_CONFIG=str(path))
            volume = world.volume(labels={**scheduled_now(), "volferry.quiesce": "stop"})
            large(world, volume)
            containers = [
                world.container(volume, stop_signal="SIGKILL"),
                world.container(
                    volume,
                    stop_signal="SIGKILL",
                    restart_policy={"Name": "unless-stopped", "MaximumRetryCount": 0},
                ),
            ]
            daemon = world.cli.start("daemon")

            def all_are(state: str) -> bool:
                return all(state_of(each)["Status"] == state for each in containers)

            assert daemon.until(lambda: all_are("exited"))
            (helper,) = [each for each in world.own_containers() if each["State"] == "running"]
            # The reading lasts until the engine ends the helper: one that is paused, it would let go on.
            for process in client.api.top(helper["Id"])["Processes"]:
                with suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(int(process[1]), signal.SIGSTOP)
            client.close()  # what it has open would end with the engine
            getattr(private, how)()
            private.start()
            assert daemon.until(lambda: all_are("running"))
            assert daemon.until(lambda: not journals(world))
            assert backups(world, volume) == 0
            # One that is due now; and by hand, what the daemon tries again in a minute.
            other = world.volume(labels=DUE)
            assert daemon.until(lambda: backups(world, other) == 1)
            world.cli("backup", volume, "--quiesce", "stop").exits(0)
            assert all_are("running")
            await_true(lambda: world.own_containers() == [])
            lines = ended(daemon)
            (failed,) = [line for line in lines if line["event"] == "the run failed"]
            assert failed["volume"] == volume
            # Whichever is noticed first.
            assert re.search("the helper ended before its work did|does not answer", failed["error"])
            assert world.cli("show", volume, "--json").exits(0).json["consistency"] == "stop"
        client.close()
