"""Containers, networks and images on their way to another engine: as one describes them, and as the other makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import docker.errors

from volferry.engine.client import Engine, says_no_container, translated, version_of
from volferry.engine.container_labels import is_own
from volferry.engine.labels import marks_incomplete
from volferry.engine.running import running_containers
from volferry.engine.volumes import container_name
from volferry.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_PROJECT = "com.docker.compose.project"
# Since then, a MAC address that was chosen looks as one that the engine has made up (1.52: `Config.MacAddress` is gone).
_LAST_WITH_MAC_ADDRESS = (1, 51)
_LOAD_SECONDS = 3600  # an image can be large, and its way slow

Document = dict[str, Any]


def containers_of(
    engine: Engine, volumes: Collection[str], project: str | None, *, but: Collection[str] = ()
) -> list[Document]:
    """In full, sorted by name: all of a compose project, or else all that mount one of `volumes`, running or not; without those
    whose ids are in `but`.
    """
    with translated("listing the containers"):
        listed = engine.api.containers(all=True)
    found = []
    for each in listed:
        labels = each.get("Labels") or {}
        if is_own(engine, each) or marks_incomplete(each) is not None or each["Id"] in but:
            continue
        mounted = {mount.get("Name") for mount in each.get("Mounts") or [] if mount.get("Type") == "volume"}
        if labels.get(_PROJECT) == project if project else mounted & set(volumes):
            found.append(each["Id"])
    details = [_in_full(engine, each) for each in found]
    return sorted((each for each in details if each is not None), key=lambda each: str(each["Name"]))


def container_named(engine: Engine, container: str) -> Document | None:
    """By its name or id, in full; None if there is none."""
    with translated(f"container {container[:12]}"):
        try:
            found: Document = engine.api.inspect_container(container)
        except docker.errors.APIError as error:
            if not says_no_container(error):
                raise
            return None
    return found


def _in_full(engine: Engine, container: str) -> Document | None:
    if version_of(engine) <= _LAST_WITH_MAC_ADDRESS:
        return container_named(engine, container)
    api = engine.api
    version = ".".join(map(str, _LAST_WITH_MAC_ADDRESS))
    with translated(f"container {container[:12]}"):
        response = api._get(f"{api.base_url}/v{version}/containers/{container}/json")  # noqa: SLF001 -- docker-py has no plainer way
        if response.status_code == 400:  # the engine has left that version behind
            return container_named(engine, container)
        if response.status_code == 404:
            return None
        api._raise_for_status(response)  # noqa: SLF001
        found: Document = response.json()
        return found


def podmans_words(engine: Engine, container: str) -> Document | None:
    """Returns the inspection of a container by Podman's own API, on the same socket; None if Podman, or a proxy before it, refuses the call."""
    api = engine.api
    major = engine.version.partition(".")[0]
    with translated(f"container {container[:12]}"):
        response = api._get(f"{api.base_url}/v{major}.0.0/libpod/containers/{container}/json")  # noqa: SLF001 -- docker-py does not know it
        if response.status_code != 200:
            return None
        try:
            found = response.json()
        except ValueError:
            return None
    return found if isinstance(found, dict) else None


def published_ports(engine: Engine) -> list[tuple[str, int, str, str]]:
    """Ports of the machine that its running containers have: `tcp`, 80, the address, and who has it."""
    with translated("listing the containers"):
        listed = running_containers(engine)
    return [
        (str(port.get("Type")), int(port["PublicPort"]), str(port.get("IP") or ""), container_name(each))
        for each in listed
        for port in each.get("Ports") or []
        if port.get("PublicPort")
    ]


def image_of(engine: Engine, name: str) -> Document | None:
    with translated(f"image {name}"):
        try:
            found: Document = engine.api.inspect_image(name)
        except docker.errors.ImageNotFound:
            return None
    return found


def images_of(engine: Engine) -> list[str]:
    """Ids of all, also of those without a name."""
    with translated("listing the images"):
        return [str(each["Id"]) for each in engine.api.images()]


def copy_image(source: Engine, target: Engine, name: str, advance: Callable[[int], None]) -> None:
    """As `docker save | docker load`, with nothing kept in between. Raises EngineError."""
    with translated(f"image {name}"):
        target_api = target.api
        usual = target_api.timeout
        target_api.timeout = _LOAD_SECONDS
        try:
            for said in target_api.load_image(_counted(source.api.get_image(name), advance)) or ():
                if isinstance(said, dict) and (error := _error_in(said)):
                    raise EngineError(f"image {name}: {error}")
        finally:
            target_api.timeout = usual


def _error_in(said: Document) -> str:
    """Of a line about progress; `error` is the older way, which engines of some day will not take."""
    detail = said.get("errorDetail") or {}
    return str(detail.get("message") or said.get("error") or detail or "")


def _counted(pieces: Iterator[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        done += len(piece)
        advance(done)
        yield piece


def network_of(engine: Engine, name: str) -> Document | None:
    with translated(f"network {name}"):
        try:
            found: Document = engine.api.inspect_network(name)
        except docker.errors.NotFound:
            return None
    return found


def create_network(engine: Engine, body: Document) -> str:
    """Its id. Raises EngineError."""
    return str(_post(engine, "/networks/create", body, f"making network {body['Name']}")["Id"])


def remove_network(engine: Engine, network: str) -> None:
    with translated(f"removing network {network[:12]}"):
        engine.api.remove_network(network)


def create_container(engine: Engine, name: str, body: Document) -> str:
    """With the engine's own words for a configuration: docker-py knows fewer of them. Its id. Raises EngineError."""
    return str(_post(engine, "/containers/create", body, f"making container {name}", {"name": name})["Id"])


def connect_network(engine: Engine, network: str, container: str, endpoint: Document) -> None:
    body = {"Container": container, "EndpointConfig": endpoint}
    _post(engine, f"/networks/{network}/connect", body, f"connecting a container with network {network}")


def remove_container(engine: Engine, container: str) -> None:
    """Its volumes stay."""
    with translated(f"removing container {container[:12]}"):
        engine.api.remove_container(container, force=True)


def _post(
    engine: Engine, path: str, body: Document, what: str, params: dict[str, str] | None = None
) -> Document:
    api = engine.api
    with translated(what):
        response = api._post_json(api._url(path), data=body, params=params or {})  # noqa: SLF001 -- docker-py has no plainer way
        api._raise_for_status(response)  # noqa: SLF001
        found: Document = response.json() if response.content else {}
        return found
