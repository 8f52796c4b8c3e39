"""A command whose stdout takes nothing: one line, or none where a pipe's reader has seen enough."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.parts.local_helper import LocalVolume
from volferry.repository import Repository
from volferry.stores.local import LocalStore

PROJECT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "--help",
    "--version",
    "config",
    "config schema",
    "list",
    "list --json",
    "show vol",
    "ls vol",
    "ls vol --json",
    "find *",
    "verify",
    "prune",
    "status",
    "export vol",
)
# In a shell, and with more on stdout than a pipe holds where a command has that much to say.
ENDS = {
    ">&-": "stdout is closed: send it to /dev/null if nobody is to read it",
    ">/dev/full": "cannot write to stdout: no space left on device",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("home")
    (directory / "data").mkdir()
    for number in range(3000):
        (directory / "data" / f"a file with a long name {number}").write_text("content")
    repository, _ = Repository.open_or_create(LocalStore(directory / "store"))
    LocalVolume(directory / "data", directory / "state").back_up(repository)
    return directory


def shell(home: Path, line: str) -> subprocess.CompletedProcess[str]:
    """`volferry` in it is ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VOLFERRY_")}
    environment |= {
        "PYTHONPATH": f"{PROJECT / 'daemon'}:{PROJECT}",
        "DOCKER_HOST": "unix:///nowhere",
        "VOLFERRY_HOST": "host",
        "VOLFERRY_STORE": str(home / "store"),
        "VOLFERRY_STATE_DIR": str(home / "state"),
        "HOME": str(home),
    }
    script = f'volferry() {{ "{sys.executable}" -m volferry "$@"; }}; set -o pipefail -f; {line}'
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_printed_is_one_line_and_a_failure(home: Path, command: str, end: str) -> None:
    done = shell(home, f"volferry {command} {end}")
    assert done.returncode == 1
    complaint = done.stderr.splitlines()[-1]
    assert complaint == f"volferry: {ENDS[end]}"
    assert "Traceback" not in done.stderr
    if command != "status" or end == ">&-":  # that has something else to say, too
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["ls vol", "ls vol --json", "find *", "export vol"])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(home: Path, command: str) -> None:
    done = shell(home, f"volferry {command} | head -c 1 >/dev/null")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("end", ["<&-", "2>&-", "<&- 2>&-"])
def test_other_outputs_and_inputs_that_are_closed_do_not_matter(home: Path, end: str) -> None:
    assert "vol@" in shell(home, f"volferry list {end}").stdout


@pytest.mark.parametrize("end", ["2>/dev/full", "2> >(exec true)", "2>&-"])
def test_what_cannot_be_complained_of_changes_nothing(home: Path, end: str) -> None:
    loop = 'sleep 0.2; for each in 1 2; do volferry list; volferry show nosuch; echo "$?"; done'
    done = shell(home, f"exec {end}; {loop}")
    assert done.stdout.count("vol@") == 2
    assert done.stdout.splitlines()[-1] == "1"
    complaints = "import sys\nfrom volferry.cli import output\noutput.prepare()\n"
    complaints += "for _ in range(9): print('x' * 9999, file=sys.stderr, flush=True)\nprint('done')"
    assert "done" in shell(home, f'exec {end}; sleep 0.2; "{sys.executable}" -c "{complaints}"').stdout


def test_what_is_closed_is_not_taken_by_a_file_that_is_written(home: Path) -> None:
    out = home / "out.tar"
    done = shell(
        home,
        f"volferry show nosuch <&- 2>&- ; volferry export vol -o {out} <&- 2>&-; tar -tf {out} | head -1",
    )
    assert "./" in done.stdout


@pytest.mark.parametrize(
    "command", ["list --all-hosts", "verify --all-hosts", "prune --all-hosts", "status", "find *"]
)
def test_names_in_a_store_do_not_drive_the_terminal(home: Path, tmp_path: Path, command: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(home / "store", store)
    odd = store / "manifests" / "host" / quote("\x1b[2Jvol\x07\x9b1m", safe="")
    shutil.copytree(store / "manifests" / "host" / "vol", odd)
    done = shell(home, f"VOLFERRY_STORE={store} VOLFERRY_STATE_DIR={tmp_path / 'state'} volferry {command}")
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert not set(said) & {"\x1b", "\x07", "\x9b"}
    if command.startswith(("list", "verify")):
        assert "\\u001b[2Jvol" in said


@pytest.mark.parametrize("command", ["list", "find *", "prune"])
def test_one_huge_object_in_place_of_a_manifest_costs_the_others_nothing(
    home: Path, tmp_path: Path, command: str
) -> None:
    store = tmp_path / "store"
    shutil.copytree(home / "store", store)
    with (store / "manifests" / "host" / "vol" / "20200101T000000Z-abcdef.json").open("wb") as file:
        file.truncate(65 << 20)
    done = shell(home, f"VOLFERRY_STORE={store} VOLFERRY_STATE_DIR={tmp_path / 'state'} volferry {command}")
    assert "20200101T000000Z-abcdef.json is damaged: it is larger than any manifest" in done.stderr
    assert done.returncode in {1, 3}
    if command != "prune":
        assert "vol" in done.stdout
