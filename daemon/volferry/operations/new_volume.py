"""A volume that is made after another one: which of that one's options and labels it gets."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from volferry.model import ANONYMOUS_LABEL, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.model import Volume

# They say whose volume it is, and what is done with it: of a copy, neither is true. compose recreates a volume that is not as its
# label says, and the daemon would back the copy up, and stop its containers for that.
_OF_THE_ORIGINAL = ("com.docker.compose.", "volferry.", "docker-volume-backup.")
# Options of the local driver that lead to no other place.
_HARMLESS = frozenset({"size"})
_BINDS = frozenset({"bind", "rbind"})
_MOST_NAMED = 5


def leads_elsewhere(volume: Volume) -> bool:
    """Whether its data may lie outside of the engine's own data: in a directory, on a device, on a share, or where a plugin has it."""
    return volume.driver != "local" or not _HARMLESS.issuperset(volume.options)


def bind_path(volume: Volume) -> str | None:
    """The directory of the engine's machine which such a volume of the local driver is."""
    binds = _BINDS & set(volume.options.get("o", "").split(","))
    return volume.options.get("device", "") if volume.driver == "local" and binds else None


def refused_name(volume: Volume, *, podman: bool) -> str:
    """What an engine, Podman or Docker, has against the volume's name; empty if nothing. Docker wants two characters, Podman one; plugins, what
    they like.
    """
    if volume.driver != "local":
        return ""
    if re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", volume.name) is None:
        return "a name has letters, digits and _.- only, and begins with a letter or digit"
    return "" if podman or len(volume.name) > 1 else "Docker's names have two characters or more"


def place_of(volume: Volume) -> str:
    """Where its data lies, for a person."""
    if device := volume.options.get("device"):
        return _shown(device)
    return (
        "the engine's own data"
        if volume.driver == "local"
        else f"its place in the driver {_shown(volume.driver)}"
    )


def options_text(volume: Volume) -> str:
    """Driver and options, as a person wrote them; they may be anybody's: it holds nothing that a terminal would act upon."""
    driver = [f"driver={_shown(volume.driver)}"] if volume.driver != "local" else []
    return ", ".join([*driver, *(_shown(f"{key}={value}") for key, value in sorted(volume.options.items()))])


def made_plain(volume: Volume) -> Volume:
    """The same volume in the engine's own data."""
    return replace(volume, driver="local", options={})


def with_labels_of(original: Volume, volume: Volume, *, every: bool) -> Volume:
    """With the labels that it may have of `original`: not those of compose, volferry and docker-volume-backup if it has another name, driver
    or options, unless `every` one is asked for; never the one that says "anonymous".
    """
    # It has a name of its own now, and `docker volume prune` is not to take it for one that nobody named.
    labels = {key: value for key, value in original.labels.items() if key != ANONYMOUS_LABEL}
    if not every and _identity(original) != _identity(volume):
        labels = {key: value for key, value in labels.items() if not key.startswith(_OF_THE_ORIGINAL)}
    return replace(volume, labels=labels)


def labels_note(original: Volume, volume: Volume) -> str | None:
    """One line about the labels that were left out, if there are any."""
    left = sorted(original.labels.keys() - volume.labels.keys() - {ANONYMOUS_LABEL})
    if not left:
        return None
    return f"volume {volume.name} is made without {_named(left)}, labels that belong to the volume that was backed up: --labels all copies them"


def options_note(original: Volume) -> str:
    """One line about options that were not followed. They may be anybody's: it holds nothing that a terminal would act upon."""
    options = [_shown(f"{key}={value}") for key, value in sorted(original.options.items())]
    had = f"the driver {_shown(original.driver)}" if original.driver != "local" else "options"
    shown = f" ({', '.join(options)})" if options else ""
    return f"volume {original.name} is made as a plain local one; it had {had}{shown}: --with-options makes it so"


def _identity(volume: Volume) -> tuple[str, str, Mapping[str, str]]:
    return volume.name, volume.driver, dict(volume.options)


def _named(labels: list[str]) -> str:
    more = len(labels) - _MOST_NAMED
    return ", ".join(map(_shown, labels[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")


def _shown(text: str) -> str:
    return printable(text.encode("utf-8", "surrogateescape"))
