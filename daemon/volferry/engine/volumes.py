"""Which volumes an engine has, who uses them, and which data of its containers is in no volume."""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker.errors

from volferry.engine.client import Engine, translated
from volferry.engine.container_labels import ContainerLabels, is_own
from volferry.engine.labels import TRIAL, marks_incomplete
from volferry.engine.running import in_dockers_words
from volferry.errors import EngineError, EngineUnreachable, NoSuchContainer, NoSuchVolume
from volferry.model import BindMount, Volume, VolumeUse, WritableLayer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_REMOVAL_SECONDS = 900  # the engine answers when it has deleted every file

_COMPOSE_PROJECT = "com.docker.compose.project"
_TRIED = re.compile(r"volferry-tried-[0-9a-f]{12}")
_DERIVED_BY_PODMAN = {"UID", "GID", "SIZE", "INODES", "NOQUOTA", "TIMEOUT"}
_STACK = "com.docker.stack.namespace"  # of Swarm, which is deployed from a compose file too
# The engine's words for when a container ended: `Exited (0) 5 seconds ago`, `About a minute ago`.
_LATELY = re.compile(r"\) .*\b(?:seconds?|minutes?) ago$")


def list_volumes(engine: Engine) -> list[Volume]:
    """All volumes, by name, with the containers that mount them."""
    with translated("listing the volumes"):
        found = engine.api.volumes().get("Volumes") or []
        uses, incomplete = _uses(engine)
    return sorted((_volume(each, uses, incomplete) for each in found), key=lambda volume: volume.name)


def find_volume(engine: Engine, name: str) -> Volume:
    """One volume. Raises NoSuchVolume; never creates one."""
    with translated(f"volume {name}"):
        if ".." in name.split("/"):  # it would be a path in the engine's API
            raise NoSuchVolume(_no_such_volume(engine, name))
        try:
            found = engine.api.inspect_volume(name)
        except (docker.errors.NotFound, docker.errors.NullResource) as error:
            raise NoSuchVolume(_no_such_volume(engine, name)) from error
        return _volume(found, *_uses(engine, name))


def create_volume(engine: Engine, volume: Volume) -> None:
    """Makes a volume with that name, driver, options and labels. Raises EngineError, also if it is there."""
    with translated(f"creating volume {volume.name}"):
        engine.api.create_volume(
            volume.name, driver=volume.driver, driver_opts=dict(volume.options), labels=dict(volume.labels)
        )


def refusal_of(engine: Engine, volume: Volume) -> str:
    """Why the engine would make no volume of its local driver with these options; empty if it would. Engines know different ones, and ask for different
    ones of them together. Another volume is made so, which is mounted nowhere, and removed, with those that killed runs have left.
    """
    left = engine.api.volumes(filters={"label": TRIAL}).get("Volumes") or []
    for each in left:
        if _TRIED.fullmatch(each["Name"]):
            with suppress(EngineError):
                remove_volume(engine, each["Name"])
    name = f"volferry-tried-{secrets.token_hex(6)}"
    why = ""
    try:
        with translated("trying the options of a volume"):
            engine.api.create_volume(
                name, driver="local", driver_opts=dict(volume.options), labels={TRIAL: "true"}
            )
    except EngineUnreachable:
        raise
    except EngineError as error:
        why = str(error).removeprefix("trying the options of a volume: ").removeprefix(f"create {name}: ")
    # Podman may leave what it could not make; another trial may have removed it.
    with suppress(EngineError):
        remove_volume(engine, name)
    return why


def remove_volume(engine: Engine, name: str) -> None:
    with translated(f"removing volume {name}"):
        usual = engine.api.timeout
        engine.api.timeout = _REMOVAL_SECONDS
        try:
            engine.api.remove_volume(name)
        finally:
            engine.api.timeout = usual


def volume_drivers(engine: Engine) -> list[str]:
    """That the engine has."""
    return list((engine.info.get("Plugins") or {}).get("Volume") or ["local"])


def container_mounts(engine: Engine, container: str) -> list[dict[str, Any]]:
    """As the engine describes them: Type, Name, Source, Destination, RW. Raises NoSuchContainer."""
    with translated(f"container {container}"):
        try:
            details = engine.api.inspect_container(container)
        except (docker.errors.NotFound, docker.errors.NullResource) as error:
            raise NoSuchContainer(f"there is no container {container!r} on {engine.url}") from error
    found: list[dict[str, Any]] = details.get("Mounts") or []
    return found


def container_volumes(engine: Engine, container: str) -> list[str]:
    """Names of the volumes that a container mounts, anonymous ones too. Raises NoSuchContainer."""
    mounts = container_mounts(engine, container)
    return [mount["Name"] for mount in mounts if mount.get("Type") == "volume" and mount.get("Name")]


def volume_sizes(engine: Engine) -> dict[str, int]:
    """Bytes that each volume uses, where the engine knows."""
    api = engine.api
    with translated("measuring the volumes"):
        # docker-py knows neither: images need not be measured, and since API 1.52 volumes are only listed for who asks for more.
        response = api._get(api._url("/system/df"), params={"type": "volume", "verbose": "1"})  # noqa: SLF001
        api._raise_for_status(response)  # noqa: SLF001
        said = response.json()
    usage = said.get("VolumesUsage") or said.get("VolumeUsage") or {}
    found = usage.get("Items") or said.get("Volumes") or []
    sizes = {each["Name"]: (each.get("UsageData") or {}).get("Size", -1) for each in found}
    return {name: size for name, size in sizes.items() if size >= 0}


def unprotected(engine: Engine) -> tuple[list[BindMount], list[WritableLayer]]:
    """Data of containers that is in no volume: bind mounts, and what was written to the container's own layer."""
    binds: list[BindMount] = []
    layers: list[WritableLayer] = []
    with translated("listing the containers"):
        containers = engine.api.containers(all=True, size=True)
    for each in containers:
        if is_own(engine, each) or marks_incomplete(each) is not None:
            continue
        name = container_name(each)
        binds.extend(
            BindMount(name, mount["Source"], mount["Destination"], bool(mount.get("RW")))
            for mount in each.get("Mounts") or []
            if mount.get("Type") == "bind"
        )
        if (size := each.get("SizeRw") or 0) > 0:
            layers.append(WritableLayer(name, each.get("Image", ""), size))
    return sorted(binds, key=lambda bind: (bind.container, bind.destination)), sorted(
        layers, key=lambda layer: layer.container
    )


def options_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Of a volume, as the engine describes it, without those that Podman derives from `o` and lists beside it: `o=uid=7` is also shown as `UID=7`, which Docker refuses."""
    options: dict[str, str] = dict(found.get("Options") or {})
    said = {each.partition("=")[0].upper() for each in options.get("o", "").split(",")}
    return {key: value for key, value in options.items() if key not in _DERIVED_BY_PODMAN & said}


def _volume(
    found: Mapping[str, Any], uses: Mapping[str, tuple[VolumeUse, ...]], incomplete: Collection[str]
) -> Volume:
    return Volume(
        name=found["Name"],
        driver=found.get("Driver", "local"),
        options=options_of(found),
        labels=found.get("Labels") or {},
        scope=found.get("Scope", "local"),
        created_at=found.get("CreatedAt") or "",
        uses=uses.get(found["Name"], ()),
        incomplete=found["Name"] in incomplete,
        mountpoint=found.get("Mountpoint") or "",
    )


def _uses(engine: Engine, volume: str | None = None) -> tuple[dict[str, tuple[VolumeUse, ...]], set[str]]:
    """Containers that mount each volume, or one, and which volumes one of ours says of that they are not complete. Ours are no users."""
    uses: dict[str, list[VolumeUse]] = {}
    incomplete: set[str] = set()
    all_labels = ContainerLabels(engine)
    for each in engine.api.containers(all=True, filters={} if volume is None else {"volume": volume}):
        if is_own(engine, each):
            continue
        mounts = [
            mount for mount in each.get("Mounts") or [] if mount.get("Type") == "volume" and mount.get("Name")
        ]
        if (marked := marks_incomplete(each)) is not None:
            incomplete.add(marked)
            continue
        for mount in mounts:
            uses.setdefault(mount["Name"], []).append(use_of(each, mount, all_labels))
    ordered = {name: tuple(sorted(found, key=lambda use: use.container)) for name, found in uses.items()}
    return ordered, incomplete


def use_of(container: Mapping[str, Any], mount: Mapping[str, Any], all_labels: ContainerLabels) -> VolumeUse:
    """Both as the engine's list of containers has them."""
    labels, image_known = all_labels.of(container)
    return VolumeUse(
        container=container_name(container),
        container_id=container["Id"],
        image=container.get("Image", ""),
        state=in_dockers_words(container.get("State", "")),
        destination=mount.get("Destination", ""),
        read_write=bool(mount.get("RW")),
        project=labels.get(_COMPOSE_PROJECT) or labels.get(_STACK),
        labels=labels,
        image_known=image_known,
        lately=_LATELY.search(container.get("Status") or "") is not None,
        network_of=_network_of(container),
    )


def _network_of(container: Mapping[str, Any]) -> str:
    mode = str((container.get("HostConfig") or {}).get("NetworkMode") or "")
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


def container_name(each: Mapping[str, Any]) -> str:
    """Of one in the engine's list."""
    names = each.get("Names") or []
    # A linked container has further names with a second slash.
    plain = [name for name in names if name.count("/") == 1]
    return str((plain or names or [each["Id"][:12]])[0]).lstrip("/")


def _no_such_volume(engine: Engine, name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 -- only needed for the hint

    names = [each["Name"] for each in engine.api.volumes().get("Volumes") or []]
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`volferry volumes` shows what there is"
    return f"there is no volume {name!r} on {engine.url}: {hint}"
