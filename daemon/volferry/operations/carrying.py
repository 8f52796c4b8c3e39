"""Which containers move along with their volumes, and what each is on the target: its source's inspection, with other names in it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from volferry.engine.carry import container_named, image_of, published_ports
from volferry.engine.client import version_of
from volferry.engine.containers import container_of, in_order
from volferry.engine.host_paths import kind_of_path
from volferry.operations.carried import Carried, CarriedContainer
from volferry.operations.carried_bodies import adapted, without_podmans_own
from volferry.operations.carried_from_podman import FromPodman
from volferry.operations.carried_images import Images
from volferry.operations.carried_networks import BUILT_IN, Networks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.engine.client import Engine

Document = dict[str, Any]

_SWARM_SERVICE = "com.docker.swarm.service.id"
_SHORT_ID = 12
_SUBPATH_API = (1, 45)
_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104 -- addresses that others listen on


def mounted_volumes(details: Document) -> set[str]:
    return {mount["Name"] for mount in details.get("Mounts") or [] if mount.get("Type") == "volume"}


@dataclass(frozen=True, slots=True)
class Places:
    """What the mounts become."""

    volumes: Mapping[str, str]  # names on the target, by those of the source
    binds: Mapping[str, str]  # volumes of the target, by paths of the source
    kept: frozenset[str]  # paths that the target has, too, whatever is in them


def carried(
    found: list[Document],
    source: Engine,
    target: Engine,
    places: Places,
    *,
    source_image: str,
    image: str,
    resumed: bool,
) -> Carried:
    """In the order of starting. The images are of helpers, for looking at paths of either machine; `resumed` if an interrupted run is
    gone on with.
    """
    plan = Carried()
    names = {str(each["Name"]).lstrip("/") for each in found}
    ids = {str(each["Id"]): str(each["Name"]).lstrip("/") for each in found}
    by_id = {str(each["Id"]): each for each in found}
    found = [by_id[each.id] for each in in_order([container_of(each) for each in found])]
    images, networks = Images(source, target, plan), Networks(source, target, plan)
    podman = FromPodman(source, target, plan) if source.is_podman else None
    look = _Look(
        source,
        target,
        places,
        source_image,
        image,
        names,
        ids,
        plan,
        images,
        networks,
        podman,
        resumed=resumed,
    )
    ports = published_ports(target)
    for each in found:
        look.container(each)
        name = str(each["Name"]).lstrip("/")
        for kind, number, address in sorted(_wanted_ports(each)):
            holders = {
                holder
                for its_kind, its_number, its_address, holder in ports
                if (its_kind, its_number) == (kind, number)
                and (its_address == address or {its_address, address} & _EVERYWHERE)
            }
            if holders:
                plan.obstacles.append(
                    f"container {name} publishes port {number}/{kind}, which container {', '.join(sorted(holders))} on the target has"
                )
    images.once_each()
    return plan


@dataclass(slots=True)
class _Look:
    source: Engine
    target: Engine
    places: Places
    source_image: str
    image: str
    names: set[str]
    ids: Mapping[str, str]
    plan: Carried
    images: Images
    networks: Networks
    podman: FromPodman | None
    resumed: bool

    def container(self, details: Document) -> None:
        name = str(details["Name"]).lstrip("/")
        config = copy.deepcopy(details.get("Config") or {})
        if _SWARM_SERVICE in (config.get("Labels") or {}):
            self.plan.in_the_way(
                name, "it is a task of a Swarm service: make the service on the target (docker stack deploy)"
            )
            return
        if self.podman is not None:
            said = self.podman.looked_at(name, details)
            if said is None:
                return
            details = said
        self._name(name)
        host = copy.deepcopy(details.get("HostConfig") or {})
        host["ContainerIDFile"] = ""
        if self.source.is_podman:
            without_podmans_own(config, host)
        self._hostname(details, config, host)
        self._modes(name, host)
        self._devices(name, host)
        self._mounts(name, details, config, host)
        reference = self.images.reference(name, details)
        of_image = (image_of(self.source, str(details["Image"])) or {}).get("Config") or {}
        if not config.get("Entrypoint") and of_image.get("Entrypoint"):
            config["Entrypoint"] = [""]  # none, where the image has one
        adapted(config, host, self.source, self.target, partial(self.plan.lost, name))
        networks = self.networks.endpoints(name, details)
        mode = str(host.get("NetworkMode") or "")
        if networks and self.source.is_podman and mode == "bridge" and not _in_podmans_bridge(details):
            mode = next(iter(networks))  # it says so of every network that is a bridge
        at_once = self.networks.of_the_bridge(config, mode)
        if networks and mode not in BUILT_IN:  # an endpoint would take the place of the built-in network
            host["NetworkMode"] = mode if mode in networks else next(iter(networks))  # it may be an id
            at_once = {host["NetworkMode"]: networks[host["NetworkMode"]]}
        body = {**config, "Image": reference, "HostConfig": host}
        if at_once:
            body["NetworkingConfig"] = {"EndpointsConfig": at_once}
        # One that is paused or being restarted is to run, too.
        ran = (details.get("State") or {}).get("Status") in {"running", "paused", "restarting"}
        self.plan.containers.append(CarriedContainer(details["Id"], name, ran, body, networks))

    def _name(self, name: str) -> None:
        if len(name) < 2 and not self.target.is_podman:
            self.plan.in_the_way(
                name,
                f"Docker's names have two characters or more: rename it on the source (podman rename {name} NAME)",
            )
            return
        there = container_named(self.target, name)
        if there is None:
            return
        if self.resumed and (there.get("State") or {}).get("Status") == "created":
            self.plan.left_over.append(there["Id"])  # of the run that is gone on with
        else:
            self.plan.in_the_way(
                name, f"the target has a container of that name: remove it there (docker rm {name})"
            )

    def _hostname(self, details: Document, config: Document, host: Document) -> None:
        """What the engine shows of another container's, or of the machine's, it refuses to be told; an id is its own choice."""
        mode = str(host.get("NetworkMode") or "")
        if mode.startswith("container:"):
            dropped: tuple[str, ...] = ("Hostname", "Domainname", "ExposedPorts", "MacAddress")
        elif host.get("UTSMode") == "host" or (mode == "host" and config.get("Hostname") == self.source.name):
            dropped = ("Hostname", "Domainname")
        elif str(config.get("Hostname", "")) == str(details["Id"])[:_SHORT_ID]:
            dropped = ("Hostname",)
        else:
            dropped = ()
        for key in dropped:
            config.pop(key, None)

    def _modes(self, name: str, host: Document) -> None:
        """What it shares with another container, which has another id on the target."""
        for key in ("NetworkMode", "PidMode", "IpcMode"):
            kind, _, other = str(host.get(key) or "").partition(":")
            if kind != "container":
                continue
            if (known := self.ids.get(other, other)) in self.names:
                host[key] = f"container:{known}"
            else:
                self.plan.in_the_way(
                    name, f"it shares {key} with container {other[:_SHORT_ID]}, which does not move along"
                )
        host["Links"] = [
            link.replace("/", "", 1).replace(f":/{name}/", ":") for link in host.get("Links") or []
        ] or None

    def _devices(self, name: str, host: Document) -> None:
        for device in host.get("Devices") or []:
            path = device.get("PathOnHost", "")
            if kind_of_path(self.target, self.image, path) is None:
                self.plan.in_the_way(name, f"it has the device {path}, which the target lacks")
            else:
                self.plan.notes.append(
                    f"container {name} has the device {path}: the target's own, from then on"
                )
        if host.get("Init") and self.target.is_podman:
            self.plan.notes.append(
                f"container {name} has an init process of the engine's: Podman on the target must have its catatonit"
            )
        requests = host.get("DeviceRequests") or []
        if self.target.is_podman:  # it takes any, and looks at those for CDI alone
            host["DeviceRequests"] = [each for each in requests if each.get("Driver") == "cdi"]
            for each in requests:
                if each not in host["DeviceRequests"]:
                    kinds = [kind for kinds in each.get("Capabilities") or [] for kind in kinds]
                    self.plan.lost(
                        name, f"the devices it asks for ({', '.join(kinds) or each.get('Driver')})"
                    )
        if host.get("DeviceRequests"):
            self.plan.notes.append(
                f"container {name} asks for devices such as GPUs: the target must have them"
            )

    def _mounts(self, name: str, details: Document, config: Document, host: Document) -> None:
        """All of them by name: those of `--volumes-from` and anonymous volumes are named, too."""
        host["VolumesFrom"] = None
        options = {
            str(mount.get("Target")).rstrip("/"): mount
            for mount in host.get("Mounts") or []
            if mount.get("Type") in {"volume", "bind"}
        }
        mounts = [m for m in host.get("Mounts") or [] if m.get("Type") not in {"volume", "bind"}]
        for mount in details.get("Mounts") or []:
            place = mount.get("Destination")
            read_only = not mount.get("RW", True)
            given = options.get(place) or {}
            if mount.get("Type") == "volume":
                chosen = self.places.volumes.get(mount["Name"], mount["Name"])
                extra = {"VolumeOptions": {**(given.get("VolumeOptions") or {}), "NoCopy": True}}
                extra["VolumeOptions"].pop("DriverConfig", None)  # of volumes that are to be made
                if extra["VolumeOptions"].get("Subpath") and (
                    self.target.is_podman or version_of(self.target) < _SUBPATH_API
                ):
                    self.plan.in_the_way(
                        name,
                        f"it mounts a part of volume {mount['Name']}: the target's engine cannot do that",
                    )
                mounts.append(
                    {"Type": "volume", "Source": chosen, "Target": place, "ReadOnly": read_only, **extra}
                )
            elif mount.get("Type") == "bind" and (made := self._bind(name, mount, given)):
                mounts.append({**made, "Target": place, "ReadOnly": read_only})
        host["Mounts"] = mounts
        host["Binds"] = None
        config["Volumes"] = {
            place: each
            for place, each in (config.get("Volumes") or {}).items()
            if place not in {mount["Target"] for mount in mounts}
        } or None

    def _bind(self, name: str, mount: Document, given: Document) -> Document | None:
        path = mount["Source"]
        volume = self.places.binds.get(path)
        if volume is not None:
            return {"Type": "volume", "Source": volume, "VolumeOptions": {"NoCopy": True}}
        here = kind_of_path(self.source, self.source_image, path) if path not in self.places.kept else None
        there = kind_of_path(self.target, self.image, path)
        if there is None:
            way = f"--bind-to-volume {path}=VOLUME moves it into a volume, or " if here == "directory" else ""
            self.plan.in_the_way(
                name, f"it has {path} of the source's machine, which the target lacks: {way}make it there"
            )
        elif here == "directory":
            self.plan.in_the_way(
                name,
                f"it has the directory {path} of the source's machine: --bind-to-volume {path}=VOLUME moves it into a volume, "
                f"--keep-bind {path} takes what the target has there",
            )
        else:
            self.plan.notes.append(f"container {name} has {path}: the target's own, from then on")
            options: Document = dict(given.get("BindOptions") or {})
            options.setdefault("Propagation", mount.get("Propagation") or "rprivate")
            return {"Type": "bind", "Source": path, "BindOptions": options}
        return None


def _in_podmans_bridge(details: Document) -> bool:
    return "podman" in ((details.get("NetworkSettings") or {}).get("Networks") or {})


def _wanted_ports(details: Document) -> set[tuple[str, int, str]]:
    """`tcp`, 80, and the address; without those that the engine may choose."""
    found = set()
    for port, bindings in ((details.get("HostConfig") or {}).get("PortBindings") or {}).items():
        kind = port.partition("/")[2] or "tcp"
        for each in bindings or []:
            if (each.get("HostPort") or "").isdigit() and int(each["HostPort"]):
                found.add((kind, int(each["HostPort"]), each.get("HostIp") or ""))
    return found
