"""Who may say what of a volume by labels (docs/configuration.md, "Who may say what")."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from volferry.checked import Section
from volferry.labels import is_retention, is_spoken
from volferry.volume_settings import VolumeSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.model import Volume, VolumeUse


class LabelsConfig(Section, frozen=True):
    """Whether labels count, for machines on which not everybody who may write a compose file may decide about backups."""

    use: Annotated[bool, Meta(description="Whether labels of volumes and containers count.")] = True
    allow: Annotated[
        tuple[str, ...], Meta(description="Which labels count: names, or shell patterns for them.")
    ] = ("*",)

    def heard(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Without those that do not count. Labels that are no settings stay."""
        return {
            label: value for label, value in labels.items() if not is_spoken(label) or self._allows(label)
        }

    def heard_of(self, use: VolumeUse) -> VolumeUse:
        return replace(use, labels=self.heard(use.labels))

    def _allows(self, label: str) -> bool:
        return self.use and any(fnmatchcase(label, pattern) for pattern in self.allow)


def speakers(volume: Volume) -> tuple[list[VolumeUse], list[VolumeUse]]:
    """The containers whose labels say all of a volume, and those whose labels may add to its backups only: that are off, or whose
    labels may be their image's. What only reads the volume, and what `docker compose run` made, says nothing of it.
    """
    uses = [use for use in volume.uses if use.read_write and not use.one_off]
    whole = [use for use in uses if not use.off and use.image_known]
    return whole, [use for use in uses if use.off or not use.image_known]


def doubtful(volume: Volume) -> list[VolumeUse]:
    """Containers that would have a say, if it were known that it is theirs."""
    return [use for use in speakers(volume)[1] if not use.image_known and any(map(is_spoken, use.labels))]


def only_adding(said: VolumeSettings) -> VolumeSettings:
    """What of it leaves nothing out, of a schedule or of a backup. A service that is off keeps its times."""
    return VolumeSettings(
        enable=said.enable or None,
        schedule=said.schedule,
        quiesce=None if said.quiesce == "none" else said.quiesce,
        warm=said.warm,
        quiesce_after=said.quiesce_after,
        quiesce_window=said.quiesce_window,
        max_downtime=said.max_downtime,
        ping=said.ping,
    )


def labels_of_retention(use: VolumeUse) -> dict[str, str]:
    """What a manifest keeps of a container's labels: `prune` goes by them. Others may hold commands, with passwords in them."""
    if not use.read_write or use.one_off:
        return {}
    return {label: value for label, value in use.labels.items() if is_retention(label)}
