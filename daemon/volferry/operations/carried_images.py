"""Which images move along, and what a container of the target is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volferry.engine.carry import image_of
from volferry.operations.carried import Carried, CarriedImage

if TYPE_CHECKING:
    from volferry.engine.client import Engine

Document = dict[str, Any]

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(slots=True)
class Images:
    source: Engine
    target: Engine
    plan: Carried

    def reference(self, name: str, details: Document) -> str:
        wanted, said = str(details["Image"]), str((details.get("Config") or {}).get("Image") or "")
        by_name = image_of(self.source, said) if said else None
        found = image_of(self.source, wanted)
        is_named = (
            by_name is not None
            and by_name["Id"] == wanted
            and not said.startswith("sha256:")
            and "@" not in said  # a digest is not sent along
        )
        if is_named and ":" not in said.rpartition("/")[2]:
            said += ":latest"  # a name alone stands for all tags where images are saved
        if found is None:
            self.plan.in_the_way(name, f"its image {said or wanted} is not on the source any longer")
            return said or wanted
        on_target = image_of(self.target, said) if is_named else None
        if on_target is not None and on_target["Id"] == wanted:
            return said
        is_for, target = _platform(found), _platform_of(self.target)
        fits = not all(is_for) or not all(target) or is_for == target
        if not fits and is_named and on_target is not None and _platform(on_target) == target:
            self.plan.notes.append(
                f"container {name} gets the target's own image {said}, which is for {'/'.join(target)}; that of the source is for {'/'.join(is_for)}"
            )
            return said
        # A name that is another image's over there stays so.
        reference = said if is_named and on_target is None else wanted
        if image_of(self.target, wanted) is None or reference == said:
            image = CarriedImage(reference, wanted, int(found.get("Size") or 0))
            if image not in self.plan.images:
                self.plan.images.append(image)
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
        return reference


def _platform(image: Document) -> tuple[str, str]:
    """As an engine calls its own."""
    architecture = str(image.get("Architecture") or "")
    return str(image.get("Os") or ""), _ARCHITECTURES.get(architecture, architecture)


def _platform_of(engine: Engine) -> tuple[str, str]:
    return str(engine.info.get("OSType") or ""), str(engine.info.get("Architecture") or "")
