"""What the documentation names is what there is: keys, options, fields and links."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import typer.main
from msgspec import Struct

from volferry.archive.manifest import Manifest
from volferry.checked import value_of
from volferry.cli.main import build_app
from volferry.config import Config, PruneConfig, VerifyConfig, load_config
from volferry.daemon_config import DaemonConfig, NotifyConfig
from volferry.helper_config import HelperConfig
from volferry.label_rights import LabelsConfig
from volferry.store_config import StoreConfig
from volferry.volume_settings import Rule, VolumeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "config" / "volferry.toml"
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Settings are commented out without a blank behind the "#", prose with one.
COMMENTED_OUT = re.compile(r"^#(?=[a-z\[])", re.MULTILINE)


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("VOLFERRY_"):
            monkeypatch.delenv(name)


def config_keys() -> Iterator[str]:
    """As docs/configuration.md writes them."""
    for key in Config.__struct_fields__:
        if key == "stores":
            yield from (f"stores.NAME.{inner}" for inner in StoreConfig.__struct_fields__)
        elif key == "helper":
            yield from (f"helper.{inner}" for inner in HelperConfig.__struct_fields__)
        elif key == "daemon":
            yield from (f"daemon.{inner}" for inner in DaemonConfig.__struct_fields__)
        elif key == "notify":
            yield from (f"notify.{inner}" for inner in NotifyConfig.__struct_fields__)
        elif key == "prune":
            yield from (f"prune.{inner}" for inner in PruneConfig.__struct_fields__)
        elif key == "verify":
            yield from (f"verify.{inner}" for inner in VerifyConfig.__struct_fields__)
        elif key == "labels":
            yield from (f"labels.{inner}" for inner in LabelsConfig.__struct_fields__)
        elif key == "defaults":
            yield from (f"defaults.{inner}" for inner in VolumeSettings.__struct_fields__)
        else:
            yield key


def commands(command: Any = None, path: tuple[str, ...] = ("volferry",)) -> Iterator[tuple[str, list[str]]]:
    """Each command with its options."""
    command = command or typer.main.get_command(build_app())
    options = [name for each in command.params for name in each.opts if name.startswith("-")]
    yield " ".join(path), options
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def fields(model: type[Struct]) -> Iterator[str]:
    """Names of a model's fields, and of the models in it."""
    for field in msgspec.structs.fields(model):
        yield field.name
        for inner in (field.type, *getattr(field.type, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, Struct):
                yield from fields(inner)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


class TestTheExampleOfTheConfiguration:
    def test_changes_nothing_as_it_is(self) -> None:
        assert load_config(EXAMPLE) == load_config(None)

    def test_loads_with_everything_set(self, tmp_path: Path) -> None:
        whole = tmp_path / "whole.toml"
        whole.write_text(COMMENTED_OUT.sub("", EXAMPLE.read_text()))

        config = load_config(whole)

        assert config.host == "db1"
        assert config.store_config.url == "/srv/backups/volferry"
        assert config.helper.image

    def test_has_every_key(self) -> None:
        document = tomllib.loads(COMMENTED_OUT.sub("", EXAMPLE.read_text()))
        assert set(document) == set(Config.__struct_fields__)
        assert set(document["helper"]) == set(HelperConfig.__struct_fields__)
        assert set(document["defaults"]) == set(VolumeSettings.__struct_fields__)
        (rule,) = document["rules"]
        assert set(rule) == set(Rule.__struct_fields__)
        assert set().union(*document["stores"].values()) == set(StoreConfig.__struct_fields__)
        assert set(document["daemon"]) == set(DaemonConfig.__struct_fields__)
        assert set(document["notify"]) == set(NotifyConfig.__struct_fields__)
        assert set(document["verify"]) == set(VerifyConfig.__struct_fields__)
        assert set(document["labels"]) == set(LabelsConfig.__struct_fields__)
        assert set(document["prune"]) == set(PruneConfig.__struct_fields__)

    def test_shows_the_defaults(self) -> None:
        document = tomllib.loads(COMMENTED_OUT.sub("", EXAMPLE.read_text()))
        assert value_of({**document["helper"], "image": None}, HelperConfig) == load_config(None).helper
        assert document["compression"] == load_config(None).compression


@pytest.mark.parametrize("key", list(config_keys()))
def test_every_key_is_described(key: str) -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text()
    variable = "VOLFERRY_" + key.upper().replace(".", "__")
    assert re.search(rf"^\| `{re.escape(key)}` \| `{variable}` \|", page, re.MULTILINE)


def test_the_units_of_spans_are_described() -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text()
    said = page.partition("- **`prune.grace`**")[2].partition("\n- **")[0]
    shown = re.findall(r"`(\d\w*)`", said)
    assert shown
    for span in shown:
        assert value_of({"grace": span, "hold": span}, PruneConfig).grace == span
    for unit, word in (("y", "years"), ("m", "months"), ("d", "days"), ("h", "hours")):
        assert value_of({"grace": f"1{unit}"}, PruneConfig).grace
        assert word in said
    with pytest.raises(ValueError, match="a span has"):
        value_of({"grace": "90s"}, PruneConfig)
    assert "no minutes or seconds" in said


@pytest.mark.parametrize("key", list(Rule.__struct_fields__))
def test_every_key_of_a_rule_is_described(key: str) -> None:
    assert f"`{key}`" in (PROJECT / "docs" / "configuration.md").read_text()


@pytest.mark.parametrize(("command", "options"), list(commands()))
def test_every_command_and_option_is_described(command: str, options: list[str]) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert f"`{command}" in text or f"$ {command}" in text or f"\n{command} " in text
    for option in options:
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), option


def typed() -> Iterator[tuple[str, str]]:
    """Name of the page, and each command line of volferry in its boxes."""
    for page in PAGES:
        for box in CODE.findall(page.read_text()):
            for line in re.findall(r"^(?:[$#] |[\d*]\S* [\d* ]+ )?(volferry [^>|;&\n]*)", box, re.MULTILINE):
                yield page.name, line.strip()


@pytest.mark.parametrize(("group", "least"), [("volferry", 16), ("volferry config", 3)])
def test_the_help_has_a_whole_sentence_for_each_command(group: str, least: int) -> None:
    command: Any = typer.main.get_command(build_app())
    for name in group.split()[1:]:
        command = command.commands[name]
    context = typer.Context(command, info_name=group, terminal_width=80)
    shown = context.get_help().partition("Commands:")[2].partition("Exit codes")[0]
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) >= least
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize(("page", "line"), list(typed()))
def test_what_the_examples_type_exists(page: str, line: str) -> None:
    known = dict(commands())
    words = line.split()
    command = " ".join(words[:2])
    assert command in known
    assert [
        word for word in words if word.startswith("-") and word != "-" and word not in known[command]
    ] == []


@pytest.mark.parametrize("name", sorted(set(fields(Manifest))))
def test_every_field_of_a_manifest_is_specified(name: str) -> None:
    page = (PROJECT / "docs" / "format.md").read_text()
    assert f"`{name}`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_no_link_is_broken(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(PROJECT), link
        if anchor:
            assert anchor in anchors(target), link
