"""Exit codes of commands that need no engine: 2 for what must be typed or configured otherwise, 1 for what failed."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.parts.cli import Cli
from tests.parts.mounts import in_memory
from tests.unit.test_damage import lab  # noqa: F401 -- a fixture

if TYPE_CHECKING:
    from tests.unit.test_damage import Lab

# Of which each needs a store, though not what is in it.
ABOUT_A_STORE = (
    ("list",),
    ("show", "vol"),
    ("ls", "vol"),
    ("find", "*"),
    ("diff", "vol"),
    ("export", "vol", "-o", "out.tar"),
    ("restore", "vol", "--to", "out"),
    ("verify",),
    ("copy", "--to", "elsewhere"),
    ("accept", "vol"),
    ("forget", "vol@1"),
    ("prune",),
    ("status",),
)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """No engine is needed where a host is named."""
    return Cli("unix:///nowhere", tmp_path / "store", tmp_path / "state", tmp_path)


@pytest.mark.parametrize("command", ABOUT_A_STORE, ids=" ".join)
def test_a_store_that_nobody_has_ever_seen_is_mistyped(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    nowhere = str(tmp_path / "nosuch")
    done = cli(*command, "--host", "host", "--store", nowhere)
    done.fails_with("there is no volferry store at", nowhere, code=2)
    assert done.stdout == ""
    assert not (tmp_path / "nosuch").exists()


def test_a_store_that_is_yet_to_be_made_is_no_fault_of_the_daemons_host(cli: Cli) -> None:
    status = cli("status", "--host", "host")
    assert "there is no volferry store" not in status.stderr
    assert "Nothing was backed up" in status.stdout
    cli("verify", "--share", "--host", "host").exits(0)


@pytest.mark.parametrize("place", ["environment", "configuration"])
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_mistyped_store_is_no_machine_without_backups(
    lab: Lab,  # noqa: F811
    place: str,
    json: tuple[str, ...],
) -> None:
    lab.back_up()
    lab.cli("verify", "--share", "--host", "host").exits(0)
    assert "Verified: " in lab.cli("status", "--host", "host").stdout
    mistyped = str(lab.directory / "mistyped")
    if place == "environment":
        cli = lab.cli.at(store=lab.directory / "mistyped")
    else:
        config = lab.directory / "volferry.toml"
        config.write_text(f'[stores.main]\nurl = "{mistyped}"\n')
        cli = lab.cli.having(VOLFERRY_CONFIG=str(config), VOLFERRY_STORE="")
    status = cli("status", "--host", "host", *json)
    status.fails_with("there is no volferry store at", mistyped, code=2)
    assert status.stdout == ""


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://x",
        "ftp://host/x",
        "s3://",
        "s3:///prefix",
        "s3:/bucket/prefix",
        "s3:bucket",
        "nas:/backups",
        "file://host/x",
        "file:/srv/x",
        "~nobody-has-this-name/x",
        "",
        " ",
    ],
)
def test_a_place_that_can_be_none_is_mistyped_wherever_it_is_typed(lab: Lab, url: str) -> None:  # noqa: F811
    lab.back_up()
    for command in (("prune",), ("backup", "vol"), ("status",), ("volumes",)):
        done = lab.cli(*command, "--host", "host", "--store", url)
        done.fails_with(url.strip() or "empty", code=2)
    other = lab.directory / "other"
    copied = lab.cli("copy", "--host", "host", "--to", str(other), "--to", url)
    copied.fails_with(url.strip() or "empty", code=2)
    assert not other.exists()
    assert not url.strip() or not Path(url.partition("/")[0]).exists()


def test_the_mistyped_name_of_a_store_is_no_new_directory(lab: Lab) -> None:  # noqa: F811
    lab.back_up()
    config = lab.directory / "volferry.toml"
    config.write_text(
        f'[stores.main]\nurl = "{lab.store}"\n[stores.offsite]\nurl = "{lab.directory}/offsite"\n'
    )
    cli = lab.cli.having(VOLFERRY_CONFIG=str(config), VOLFERRY_STORE="main")
    done = cli("copy", "--host", "host", "--to", "offsit")
    done.fails_with("there is no store 'offsit': did you mean 'offsite'? (a directory is ./offsit)", code=2)
    assert not Path("offsit").exists()
    cli("copy", "--host", "host", "--to", "offsite").exits(0)
    assert (lab.directory / "offsite").exists()


def test_a_mistyped_volume_is_no_reason_to_prune_nothing_without_a_word(lab: Lab) -> None:  # noqa: F811
    lab.volume.name = "small"
    lab.back_up()
    prune = ("prune", "--host", "host")
    lab.cli(*prune, "smal").fails_with("there is nothing of volume 'smal'", "did you mean 'small'?", code=2)
    lab.cli(*prune, "other").fails_with("`volferry list` shows what there is", code=2)
    lab.cli(*prune, "small").exits(0)


def test_a_mistyped_volume_is_listed_as_nothing_with_the_name_that_was_meant(lab: Lab) -> None:  # noqa: F811
    lab.volume.name = "small"
    lab.back_up()
    of_host = ("--host", "host")
    nothing = "No backups of smal from host host"
    for command in (("smal", *of_host), ("host/smal", *of_host)):
        listed = lab.cli("list", *command).exits(0).stdout
        assert listed.startswith(nothing)
        assert listed.endswith("Did you mean 'small'?\n")
    assert "Did you mean 'small'?" in lab.cli("list", "smal", "--all-hosts").exits(0).stdout
    assert "`volferry list` shows those" in lab.cli("list", "other", *of_host).exits(0).stdout
    assert "There are some from: host " in lab.cli("list", "small", "--host", "hos").exits(0).stdout
    assert "There are some from: host " in lab.cli("list", "hos/smal").exits(0).stdout


@pytest.mark.parametrize(
    "command",
    [("ls", "vol"), ("find", "*"), ("restore", "vol", "--to", "out"), ("verify", "--read")],
    ids=" ".join,
)
def test_the_disk_of_the_state_directory_is_full(lab: Lab, command: tuple[str, ...]) -> None:  # noqa: F811
    for number in range(2000):  # of which the index is larger than what is left
        (lab.volume.data / f"{number}-{os.urandom(20).hex()}").touch()
    lab.back_up()
    with in_memory(lab.directory / "small", "2m") as small:
        cli = lab.cli.at(state=small / "state")
        cli("ls", "vol", "--host", "host").exits(0)
        with (small / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(b"x" * 4096):
                pass
        os.truncate(small / "filler", (small / "filler").stat().st_size - 32768)  # a run can begin
        done = cli(*command, "--host", "host")
        done.fails_with(f"cannot write to the state directory {small}/state: no space left on device")
    assert not Path("out").exists()


def test_a_mistyped_volume_is_not_searched(lab: Lab) -> None:  # noqa: F811
    lab.volume.name = "small"
    lab.back_up()
    find = ("find", "file", "--host", "host", "--volume")
    lab.cli(*find, "smal").fails_with("no backup of volume 'smal' from host 'host'", "did you mean 'small'?")
    lab.cli(*find, "other").fails_with("`volferry list` shows what there is")
    assert "small: file" in lab.cli(*find, "small").exits(0).stdout


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_an_export_takes_the_place_of_files_alone(
    lab: Lab,  # noqa: F811
    force: tuple[str, ...],
    kind: str,
) -> None:
    lab.back_up()
    target = lab.directory / "target"
    if kind == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
        (target / "file").write_text("content")
    done = lab.cli("export", "vol", "--host", "host", "-o", str(target), *force)
    done.fails_with(str(target), "is a directory" if kind == "directory" else "is no regular file", code=2)
    assert target.is_fifo() if kind == "fifo" else (target / "file").read_text() == "content"
    assert [path for path in lab.directory.iterdir() if path.name.endswith(".part")] == []


def test_help_has_every_exit_code_that_the_docs_have(cli: Cli) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = docs.partition("## Exit codes")[2].partition("\n## ")[0]
    said = cli("--help").exits(0).stdout.partition("Exit codes: ")[2]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == re.findall(r"\b\d+\b", said)


@pytest.mark.parametrize("command", [("list",), ("ls", "vol"), ("restore", "vol", "--to", "out"), ("prune",)])
def test_without_an_engine_it_says_how_to_go_without_it(
    lab: Lab,  # noqa: F811
    command: tuple[str, ...],
) -> None:
    lab.back_up()
    cli = lab.cli.having(DOCKER_HOST="unix:///nowhere")
    command = tuple(str(lab.directory / word) if word == "out" else word for word in command)
    done = cli(*command)
    done.fails_with("no Docker engine answers at unix:///nowhere: is it running?", "--engine", "--host host,")
    cli(*command, "--host", "host").exits(0)


def test_the_engine_that_a_migration_goes_to_is_named_by_to(cli: Cli) -> None:
    done = cli("migrate", "vol", "--to", "unix:///nope").exits(1)
    assert "at unix:///nope: is it running? (--to names another one)" in done.stderr


def test_doctor_says_once_that_the_engine_does_not_answer(cli: Cli) -> None:
    said = cli("doctor").exits(1).stdout
    assert said.count("no Docker engine answers") == 1
    assert said.count("not tried: the engine does not answer, see above") == 4
