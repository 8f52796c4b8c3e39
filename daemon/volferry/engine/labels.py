"""Labels on everything that we create in an engine, by which left-overs are known; and which containers are ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLE = "volferry.role"  # carrier, helper, lock
IMAGE = "volferry.image"  # helper; not a role, for a container has the labels of its image
RUN = "volferry.run"  # the run that made it
OWNER = "volferry.owner"  # the state directory of the volferry that made it
STANDSTILL = (
    "volferry.standstill"  # on a lock: what its run has stopped, so that any volferry there can bring it back
)
TRIAL = "volferry.trial"  # on a volume that is made only to see whether the engine would
INCOMPLETE = "volferry.incomplete"  # on a container that mounts a volume whose migration has not ended

NOBODY = "0" * 16  # an owner: what is left of it is anybody's to remove

_RUN_ID = re.compile(r"[0-9a-f]{12}")
_OWNER_ID = re.compile(r"[0-9a-f]{16}")
_NO_NETWORK = {"none", "host"}  # Podman lists all as "host"
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")  # a volume's name
_SPOOL = "/spool"
_INCOMPLETE_PLACE = "/volume"
_PLACES = ("/volumes/", _SPOOL)


def labelled_as_ours(labels: Mapping[str, str]) -> bool:
    """Whether a container has all labels that we give to one. So may others: everybody can write labels, also into an image."""
    return (
        labels.get(ROLE) in {"carrier", "helper", "lock"}
        and _RUN_ID.fullmatch(labels.get(RUN, "")) is not None
        and _OWNER_ID.fullmatch(labels.get(OWNER, "")) is not None
    )


def is_ours(listed: Mapping[str, Any]) -> bool:
    """Whether a container, as the engine lists it, is a carrier, a helper or a lock: it has the labels, and looks like one. What an image says of itself
    makes no container one: it has no say in what is mounted where, nor in the network.
    """
    labels = listed.get("Labels") or {}
    if not labelled_as_ours(labels):
        return False
    network = (listed.get("HostConfig") or {}).get("NetworkMode", "none")
    # A helper's image that declares volumes brings anonymous ones of its own.
    places = [
        str(mount.get("Destination"))
        for mount in listed.get("Mounts") or []
        if not _ANONYMOUS.fullmatch(mount.get("Name") or "") or mount.get("Destination") == _SPOOL
    ]
    if network not in _NO_NETWORK or not all(place.startswith(_PLACES) for place in places):
        return False
    command = str(listed.get("Command", ""))
    if labels[ROLE] == "helper":
        return command.startswith("sh ") and _SPOOL in places
    never_started = listed.get("State") in {"created", "removing", "dead"}
    return command.endswith("true") and never_started and not (labels[ROLE] == "lock" and places)


def marks_incomplete(listed: Mapping[str, Any]) -> str | None:
    """The volume of which a container, as the engine lists it, says that its migration has not ended; None where it only has the label, as anybody's may."""
    if INCOMPLETE not in (listed.get("Labels") or {}) or listed.get("State") != "created":
        return None
    mounts = [mount for mount in listed.get("Mounts") or [] if mount.get("Destination") == _INCOMPLETE_PLACE]
    names = listed.get("Names") or []
    volume = next((str(mount.get("Name")) for mount in mounts), "")
    is_one = f"/{incomplete_name(volume)}" in names and str(listed.get("Command", "")).endswith("true")
    return volume if volume and is_one else None


def incomplete_name(volume: str) -> str:
    """Of that container."""
    return f"volferry-incomplete-{volume}"
