"""Which images move along, and what a container of the target is made from.

Images are compared by what is in them: the id of the same image is that of its configuration in Docker's own store, and that of its manifest in containerd's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from volferry.engine.carry import image_of, images_of
from volferry.operations.carried import Carried, CarriedImage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from volferry.engine.client import Engine

Document = dict[str, Any]

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
# Not the health check, nor what is for builds: OCI's format, in which some engines keep images, has no place for them.
_COMPARED = (
    "Env", "Cmd", "Entrypoint", "WorkingDir", "User", "Labels", "ExposedPorts", "Volumes", "StopSignal",
)  # fmt: skip


@dataclass(slots=True)
class Images:
    source: Engine
    target: Engine
    plan: Carried
    _chosen: dict[str, str] = field(default_factory=dict)  # references of the target, by ids of the source

    def reference(self, name: str, details: Document) -> str:
        """By which the container `name` is to be made."""
        wanted, said = str(details["Image"]), str((details.get("Config") or {}).get("Image") or "")
        found = image_of(self.source, wanted)
        by_name = image_of(self.source, said) if said else None
        if found is None:
            self.plan.in_the_way(name, f"its image {said or wanted} is not on the source any longer")
            return said or wanted
        is_named = by_name is not None and same_image(by_name, found) and not said.startswith("sha256:")
        on_target = image_of(self.target, said) if is_named else None
        if on_target is not None and same_image(on_target, found):
            return said
        is_for, target = _platform(found), _platform_of(self.target)
        fits = not all(is_for) or not all(target) or is_for == target
        if not fits and is_named and on_target is not None and _platform(on_target) == target:
            self.plan.notes.append(
                f"container {name} gets the target's own image {said}, which is for {'/'.join(target)}; that of the source is for {'/'.join(is_for)}"
            )
            return said
        key = f"{said if is_named else ''} {wanted}"
        if key not in self._chosen:
            self._chosen[key] = self._elsewhere(found, said if is_named else "", taken=on_target is not None)
        if not fits and _platform_of(self.source) == target:
            self.plan.notes.append(
                f"container {name} runs by emulation, which the target must have too: its image is for {'/'.join(is_for)}"
            )
        elif not fits:
            way = f": `docker pull {said}` there gets it one of its own" if is_named else ""
            self.plan.in_the_way(
                name,
                f"its image {said or wanted} is for {'/'.join(is_for)}, and the target is {'/'.join(target)}{way}",
            )
        return self._chosen[key]

    def once_each(self) -> None:
        """Who has an image by its id gets it by the name by which it is sent for others."""
        named = {each.id: each.reference for each in self.plan.images if each.reference != each.id}
        self.plan.images = [
            each for each in self.plan.images if each.reference != each.id or each.id not in named
        ]
        for container in self.plan.containers:
            container.body["Image"] = named.get(container.body["Image"], container.body["Image"])

    def _elsewhere(self, found: Document, said: str, *, taken: bool) -> str:
        """What the target does not have by its name `said`: it has it by another one, or is sent it."""
        wanted = str(found["Id"])
        by_name = bool(said) and "@" not in said and not taken  # a digest is not sent along
        if not by_name and (there := known_image(self.target, found, [wanted])) is not None:
            return there
        reference = wanted  # a name that is another image's over there stays so
        if by_name:  # a name alone stands for all tags where images are saved
            reference = said if ":" in said.rpartition("/")[2] else f"{said}:latest"
        if all(each.reference != reference for each in self.plan.images):
            self.plan.images.append(CarriedImage(reference, wanted, int(found.get("Size") or 0), found))
        return reference


def same_image(one: Document, other: Document) -> bool:
    """As engines describe them: the same layers, and what their containers get is the same, too."""
    return one.get("Id") == other.get("Id") or _content(one) == _content(other)


def known_image(engine: Engine, wanted: Document, first: Iterable[str] = ()) -> str | None:
    """By what name or id the engine has the image, if it has it; names in `first` are tried before all others."""
    for name in first:
        if (found := image_of(engine, name)) is not None and same_image(found, wanted):
            return name
    for each in images_of(engine):
        if (found := image_of(engine, each)) is not None and same_image(found, wanted):
            return each
    return None


def _content(image: Document) -> object:
    config = image.get("Config") or {}
    layers = (image.get("RootFS") or {}).get("Layers") or []
    if not layers:
        return image.get("Id")
    return (
        image.get("Os"), _architecture(str(image.get("Architecture") or "")), layers,
        [config.get(key) or None for key in _COMPARED],
    )  # fmt: skip


def _architecture(name: str) -> str:
    return _ARCHITECTURES.get(name, name)


def _platform(image: Document) -> tuple[str, str]:
    """As Docker calls its own."""
    return str(image.get("Os") or ""), _architecture(str(image.get("Architecture") or ""))


def _platform_of(engine: Engine) -> tuple[str, str]:
    return str(engine.info.get("OSType") or ""), _architecture(str(engine.info.get("Architecture") or ""))
