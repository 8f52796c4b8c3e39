"""Engines as they have described themselves and their containers, for what is asked of no engine that runs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import docker.errors

from volferry.operations.carrying import Places, carried

if TYPE_CHECKING:
    from volferry.engine.client import Engine
    from volferry.operations.carried import Carried

EVERY_KIND = ["docker-20.10", "docker-28.5", "podman-5.8"]
_RECORDED = Path(__file__).parents[1] / "unit/inspections"


class Api:
    """What an engine has said."""

    def __init__(self, api: str) -> None:
        self.api_version = api
        self.known_images: dict[str, dict[str, Any]] = {}
        self.known_networks: dict[str, dict[str, Any]] = {}
        self.base_url = "http+docker://localhost"
        self.podmans_words: dict[str, Any] | None = {}  # None: a proxy refuses the call
        self.asked: list[str] = []

    def _get(self, url: str) -> SimpleNamespace:
        self.asked.append(url)
        return SimpleNamespace(
            status_code=403 if self.podmans_words is None else 200, json=lambda: self.podmans_words
        )

    def inspect_image(self, name: str) -> dict[str, Any]:
        for known, image in self.known_images.items():
            if name in {known, image["Id"]}:
                return image
        raise docker.errors.ImageNotFound(name)

    def images(self) -> list[dict[str, Any]]:
        return list(self.known_images.values())

    def inspect_network(self, name: str) -> dict[str, Any]:
        if name not in self.known_networks:
            raise docker.errors.NotFound(name)
        return self.known_networks[name]

    def inspect_container(self, name: str) -> dict[str, Any]:
        raise docker.errors.NotFound(name)

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return []


class Recorded:
    def __init__(self, name: str, api: str | None = None) -> None:
        found = json.loads((_RECORDED / f"{name}.json").read_text())
        self.containers: dict[str, dict[str, Any]] = found["containers"]
        self.image: dict[str, Any] = found["image"]
        self.api = Api(api or found["api"])
        self.api.known_networks = found["networks"]
        self.info: dict[str, Any] = found["info"]
        self.is_podman = "BuildahVersion" in self.info

    def moved(self, container: str, target: Recorded, *others: dict[str, Any], **places: Any) -> Carried:
        """`others` move along, as they are described."""
        details = copy.deepcopy(self.containers[container])
        image = {**self.image, "Id": details["Image"]}
        self.api.known_images = {details["Config"]["Image"]: image}
        return carried(
            [details, *others],
            self.engine,
            target.engine,
            Places({}, {}, frozenset(), **places),
            source_image="helper",
            image="helper",
            resumed=False,
        )

    @property
    def engine(self) -> Engine:
        found = SimpleNamespace(
            api=self.api,
            info=self.info,
            is_podman=self.is_podman,
            name=self.info.get("Name"),
            version=self.info["ServerVersion"],
        )
        return cast("Engine", found)
