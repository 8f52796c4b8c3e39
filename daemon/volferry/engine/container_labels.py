"""What a container itself says by labels: without what its image says, and with what its Swarm service says. And whether one that says that it is
volferry's own is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import docker.errors

from volferry.engine.client import translated
from volferry.engine.labels import ROLE, is_ours

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.engine.client import Engine

# Only these mean anything to volferry.
_SPEAKING = ("volferry.", "docker-volume-backup.")
_SWARM_SERVICE = "com.docker.swarm.service.id"
_NO_MANAGER = 503
_MOST_IMAGES = 4096

# An image's id is the digest of what it is, labels included: on whatever engine, they never change.
_of_images: dict[str, Mapping[str, str]] = {}


def is_own(engine: Engine, listed: Mapping[str, Any]) -> bool:
    """As `is_ours`, and it does not have that from its image: whoever publishes one has no say in what is a container of volferry's. Of an image that
    is gone, it is not known.
    """
    if not is_ours(listed):
        return False
    with translated("looking at the image of a container of volferry's"):
        image = ContainerLabels(engine).of_image(str(listed.get("ImageID") or ""))
    return ROLE not in (image or {})


class ContainerLabels:
    """For one list of an engine's containers: each image and each service is looked at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._services: dict[str, Mapping[str, str]] = {}
        self._gone: set[str] = set()  # images
        self._manager = True  # whether this node knows its services

    def of(self, container: Mapping[str, Any]) -> tuple[dict[str, str], bool]:
        """Of one in the engine's list, and whether its image is there: else they may be labels of the image. A label that an image
        has with the same value is the image's. The caller translates errors.
        """
        labels: dict[str, str] = dict(container.get("Labels") or {})
        known = True
        if any(label.startswith(_SPEAKING) for label in labels):
            image = self.of_image(str(container.get("ImageID") or ""))
            known = image is not None
            labels = {
                label: value
                for label, value in labels.items()
                if not label.startswith(_SPEAKING) or (image or {}).get(label) != value
            }
        service = labels.get(_SWARM_SERVICE)
        return {**(self._of_service(service) if service else {}), **labels}, known

    def of_image(self, image: str) -> Mapping[str, str] | None:
        """None if it is gone."""
        if image in self._gone or not image:
            return None
        if image not in _of_images:
            try:
                found = self._engine.api.inspect_image(image)
            except docker.errors.NotFound:
                self._gone.add(image)
                return None
            if len(_of_images) >= _MOST_IMAGES:
                _of_images.clear()
            _of_images[image] = _speaking((found.get("Config") or {}).get("Labels"))
        return _of_images[image]

    def _of_service(self, service: str) -> Mapping[str, str]:
        """Those of compose's `deploy:`. None on a node that is no manager, and of a service that is gone."""
        if service not in self._services:
            spec: Mapping[str, Any] = {}
            try:
                if self._manager:
                    spec = self._engine.api.inspect_service(service).get("Spec") or {}
            except docker.errors.NotFound:
                pass
            except docker.errors.APIError as error:
                if error.status_code != _NO_MANAGER:
                    raise
                self._manager = False
            self._services[service] = _speaking(spec.get("Labels"))
        return self._services[service]


def _speaking(labels: Mapping[str, str] | None) -> dict[str, str]:
    return {label: value for label, value in (labels or {}).items() if label.startswith(_SPEAKING)}
