"""The units, as systemd judges them, and the service as it runs it."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engine.test_quiesce import await_true
from tests.parts.commands import executed, tried
from tests.parts.own_image import build
from volferry.config import load_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

    from tests.parts.world import World

PROJECT = Path(__file__).resolve().parents[2]
UNITS = PROJECT / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
MOST_EXPOSURE = 4.0


def systemd(program: str, *arguments: str) -> str:
    assert shutil.which(program), f"{program} is missing; get it with: apt-get install systemd"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# A machine that volferry is installed on, with systemd as its first process.
MACHINE = """
FROM {image}
RUN apt-get update && apt-get install --yes --no-install-recommends procps systemd
RUN ln -s /opt/volferry/bin/volferry /usr/local/bin/
COPY volferry.service /etc/systemd/system/
RUN systemctl enable volferry
ENTRYPOINT ["/lib/systemd/systemd"]
STOPSIGNAL SIGRTMIN+3
"""


def test_there_is_nothing_to_complain_about() -> None:
    units = [str(unit) for unit in (*SERVICES, *UNITS.glob("*.timer"))]
    assert len(units) == 5
    assert systemd("systemd-analyze", "verify", *units) == ""


@pytest.mark.parametrize("service", SERVICES, ids=lambda each: each.name)
def test_little_is_exposed(service: Path) -> None:
    said = systemd("systemd-analyze", "security", "--offline=yes", "--no-pager", str(service))
    (level,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert float(level) <= MOST_EXPOSURE


def test_the_user_is_a_member_of_the_sockets_group(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    systemd("systemd-sysusers", f"--root={tmp_path}", str(UNITS / "volferry.sysusers.conf"))
    users = (tmp_path / "etc/passwd").read_text()
    groups = (tmp_path / "etc/group").read_text()
    assert re.search(r"^volferry:x:\d+:\d+:volferry:/var/lib/volferry:/\S*nologin$", users, re.MULTILINE)
    assert re.search(r"^docker:x:\d+:volferry$", groups, re.MULTILINE)


def test_variables_are_not_for_everybody_to_read(tmp_path: Path) -> None:
    variables = tmp_path / "etc/volferry/volferry.env"
    variables.parent.mkdir(parents=True)
    variables.touch(0o644)
    systemd("systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "volferry.tmpfiles.conf"))
    assert stat.S_IMODE(variables.stat().st_mode) == 0o600
    assert stat.S_IMODE(variables.parent.stat().st_mode) == 0o755


def test_the_example_of_the_variables_is_right_with_everything_set(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "config/volferry.env").read_text()
    found = re.findall(r"^#(?=[A-Z])([A-Z_]+)=(.*)$", text, re.MULTILINE)
    for name, value in found:
        monkeypatch.setenv(name, value)
    config = load_config(None)
    assert config.host == "db1"
    assert str(config.store_config.url) == "s3://backups/volferry"
    assert config.defaults.schedule


@pytest.fixture
def machine(world: World, image: str, tmp_path: Path) -> Iterator[Container]:
    """Booted, with the service enabled."""
    (tmp_path / "Dockerfile").write_text(MACHINE.format(image=image))
    shutil.copy(UNITS / "volferry.service", tmp_path)
    build(world.engine, tmp_path, "volferry-test-machine")
    booted = world.client.containers.run(
        "volferry-test-machine",
        detach=True,
        network_mode="none",
        # What systemd itself needs in a container: to mount, and control groups to make its own in.
        cap_add=["SYS_ADMIN"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        cgroupns="host",
        volumes=[
            "/sys/fs/cgroup:/sys/fs/cgroup:rw",
            f"{world.volume()}:/var/lib/volferry",
            f"{world.engine.docker_host.removeprefix('unix://')}:/var/run/docker.sock",
        ],
        tmpfs={"/run": "", "/tmp": ""},
        environment={"container": "docker"},
    )
    yield booted
    booted.remove(force=True)


def test_the_service_does_its_work_in_its_sandbox(world: World, machine: Container) -> None:
    def said(*command: str) -> str:
        return executed(world.engine, machine, *command).decode()

    def is_active() -> bool:
        return tried(world.engine, machine, "systemctl", "is-active", "volferry") == (0, "active\n")

    volume = world.volume(labels={"volferry.schedule": "@yearly"})
    (world.data(volume) / "one").write_text("1")
    await_true(is_active)  # it has said that it is ready
    await_true(lambda: volume in tried(world.engine, machine, "volferry", "list")[1])
    await_true(lambda: world.own_containers() == [])
    assert said("volferry", "status", "--health") == "ok\n"
    pid = said("systemctl", "show", "--value", "--property", "MainPID", "volferry").strip()
    status = said("cat", f"/proc/{pid}/status")
    assert re.findall(r"^Cap(?:Prm|Eff|Bnd):\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 3
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)

    said("systemctl", "reload", "volferry")
    await_true(lambda: "the configuration was read again" in said("journalctl", "--unit", "volferry"))
    assert is_active()
    said("systemctl", "stop", "volferry")
    assert said("systemctl", "show", "--value", "--property", "Result", "volferry") == "success\n"
