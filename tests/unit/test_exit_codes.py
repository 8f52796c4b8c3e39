"""Exit codes of commands that need no engine: 2 for what must be typed or configured otherwise, 1 for what failed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.parts.cli import Cli
from tests.parts.local_helper import LocalVolume
from volferry import errors
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.model import BackupRef

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


@dataclass(frozen=True)
class Lab:
    cli: Cli
    backups: list[BackupRef]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A store with two backups of `vol`, neither of which is suspicious; a directory and a file that hold something."""
    directory = tmp_path_factory.mktemp("lab")
    data, full = directory / "data", directory / "full"
    for each in (data, full):
        each.mkdir()
        (each / "file").write_text("content")
    repository, _ = Repository.open_or_create(LocalStore(directory / "store"))
    volume = LocalVolume(data, directory / "state")
    backups = [volume.back_up(repository).ref, volume.back_up(repository).ref]
    return Lab(Cli("unix:///nowhere", directory / "store", directory / "state", directory), backups)


# What is typed, and a word of the answer. {0} and {1} are the backups, {home} is where everything is.
WRONG = (
    ("list --nosuch", "--nosuch"),
    ("list nosuch", "nosuch"),
    ("list nosuch --all-hosts", "nosuch"),
    ("list --config {home}/nosuch.toml", "nosuch.toml"),
    ("show nosuch", "nosuch"),
    ("show vol@1999", "1999"),
    ("show vol@2", "2 backups"),
    ("show @", "'@'"),
    ("ls nosuch", "nosuch"),
    ("ls vol nosuch", "nosuch"),
    ("find * --volume nosuch", "nosuch"),
    ("diff nosuch", "nosuch"),
    ("export nosuch -o {home}/new", "nosuch"),
    ("export vol -o {home}/full/file", "--force"),
    ("export vol --dump nosuch -o {home}/new", "nosuch"),
    ("restore nosuch --to {home}/new", "nosuch"),
    ("restore vol --to {home}/full", "--replace"),
    ("restore vol nosuch --to {home}/new", "nosuch"),
    ("restore vol no* --glob --to {home}/new", "no*"),
    ("restore vol file --to {home}/full", "--replace"),
    ("verify nosuch", "nosuch"),
    ("verify {0} --all", "--all"),
    ("copy", "--to"),
    ("copy nosuch --to {home}/replica", "nosuch"),
    ("copy --to {home}/store", "copied from"),
    ("accept nosuch", "nosuch"),
    ("accept vol", "not suspicious"),
    ("accept vol --undo", "not accepted"),
    ("forget vol", "names no single backup"),
    ("forget vol@1999", "1999"),
    ("forget {1}", "newest"),
    ("prune nosuch", "nosuch"),
    ("status --store {home}/nosuch", "no volferry store"),
    ("import --into photos", "name what to import"),
    ("import nosuch.tar --into photos", "nosuch.tar"),
    ("import x.tar --into x", "volume's name"),
    ("migrate vol --to nosuch --remove-source", "--checksum"),
    ("daemon --config {home}/nosuch.toml", "nosuch.toml"),
    ("volumes --engine nosuch", "nosuch"),
)
FAILS = (
    ("volumes", "no Docker engine answers"),
    ("backup vol", "no Docker engine answers"),
    ("restore vol", "no Docker engine answers"),
    ("list --store {home}/full/file", "not a directory"),
    ("export vol -o {home}/nosuch/file", "cannot write"),
    ("status --health", "does not answer"),
)


def files(home: Path) -> dict[str, bytes]:
    """But for the state directory, of which each command may keep what it has learned."""
    found = [path for path in home.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found if not path.is_relative_to(home / "state")}


@pytest.mark.parametrize(
    ("typed", "word", "code"), [(*each, 2) for each in WRONG] + [(*each, 1) for each in FAILS]
)
def test_what_must_be_typed_otherwise_is_2_and_what_fails_is_1(
    lab: Lab, typed: str, word: str, code: int
) -> None:
    home = lab.cli.home
    before = files(home)
    words = typed.format(*lab.backups, home=home).split(" ")
    done = lab.cli.having(VOLFERRY_HOST="host")(*words)
    done.exits(code)
    assert len([line for line in done.stderr.splitlines() if line.startswith("volferry: ")]) == 1, done.story
    assert word in done.stderr
    assert done.stdout == ""
    assert files(home) == before


@pytest.mark.parametrize(
    "typed", ["list", "prune", "verify", "show vol", "find nosuch", "list --host nosuch"]
)
def test_an_answer_is_0_also_where_it_is_empty(lab: Lab, typed: str) -> None:
    lab.cli.having(VOLFERRY_HOST="host")(*typed.split(" ")).exits(0)


def test_every_class_of_error_ends_as_its_docstring_says() -> None:
    drawn = re.findall(
        r"^[ │├└─]*([A-Z]\w+)(?: +(\d+)\b)?", str(errors.__doc__).partition("\n\n")[2], re.MULTILINE
    )
    codes = {name: code for name, code in drawn if hasattr(errors, name)}
    defined = {
        name: each
        for name, each in vars(errors).items()
        if isinstance(each, type) and hasattr(each, "exit_code")
    }
    assert codes.keys() == defined.keys()
    for name, each in defined.items():
        inherited = each.__mro__[1].exit_code if hasattr(each.__mro__[1], "exit_code") else None
        assert str(each.exit_code) == (codes[name] or str(inherited)), name
