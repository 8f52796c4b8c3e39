"""The units, as systemd judges them."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from volferry.config import load_config

PROJECT = Path(__file__).resolve().parents[2]
UNITS = PROJECT / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
MOST_EXPOSURE = 4.0


def systemd(program: str, *arguments: str) -> str:
    assert shutil.which(program), f"{program} is missing; get it with: apt-get install systemd"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_there_is_nothing_to_complain_about() -> None:
    units = [str(unit) for unit in (*SERVICES, *UNITS.glob("*.timer"))]
    assert len(units) == 3
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
