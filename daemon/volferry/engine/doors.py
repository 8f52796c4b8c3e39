"""Containers through which volferry reaches the engine: to stop one would cut it off, with services down."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import docker.errors

from volferry.engine.client import Engine, translated
from volferry.engine.containers import container_of
from volferry.engine.running import running_containers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def doors(engine: Engine, own: Collection[str]) -> dict[str, str]:
    """By the ids of containers that volferry cannot do without: why. It would never bring them back. `own` are the ids of those that it runs in."""
    found: dict[str, str] = {}
    mounted: set[str] = set()  # volumes that the engine's socket is in
    url = urlsplit(engine.url)
    with translated("looking at what volferry needs"):
        for each in own:
            try:
                inspected = engine.api.inspect_container(each)
            except docker.errors.NotFound:
                continue
            found |= dict.fromkeys(container_of(inspected).shares_with, "volferry has its network")
            mounted |= {
                mount["Name"]
                for mount in inspected.get("Mounts") or []
                if url.scheme == "unix"
                and mount.get("Type") == "volume"
                and PurePosixPath(url.path).is_relative_to(mount["Destination"])
            }
        listed = running_containers(engine) if mounted or url.scheme == "tcp" else []
    addresses = _addresses(url.hostname or "") if url.scheme == "tcp" else set[str]()
    ways = {each["Id"] for each in listed if _offers(each, mounted) or _answers(each, addresses, url.port)}
    # In a network of several containers, any of them may be the one that answers.
    networks = {*ways, *found} if any(ip_address(each).is_loopback for each in addresses) else ways
    shared = {f"container:{each}" for each in networks} if url.scheme == "tcp" else set[str]()
    ways |= {each["Id"] for each in listed if (each.get("HostConfig") or {}).get("NetworkMode") in shared}
    return dict.fromkeys(ways - {*own}, "volferry reaches the engine through it") | found


def _offers(listed: Mapping[str, Any], volumes: Collection[str]) -> bool:
    return any(mount.get("RW") and mount.get("Name") in volumes for mount in listed.get("Mounts") or [])


def _answers(listed: Mapping[str, Any], addresses: Collection[str], port: int | None) -> bool:
    """Whether it has one of the addresses, or its port is that of the machine: by a port, no two of them can be reached."""
    networks = ((listed.get("NetworkSettings") or {}).get("Networks") or {}).values()
    return any(network.get("IPAddress") in addresses for network in networks) or any(
        port is not None and each.get("PublicPort") == port for each in listed.get("Ports") or []
    )


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()
