"""The image that is made from the machine's own programs: which of those on an engine are removed when a new one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import docker.errors
import pytest

from volferry.engine import image
from volferry.errors import HelperImageError

if TYPE_CHECKING:
    from volferry.engine.client import Engine


class FakeEngine:
    """Of this machine."""

    info: ClassVar[dict[str, Any]] = {}

    shares_our_kernel = True

    def __init__(self) -> None:
        self.api = self
        self.found: dict[str, int] = {}
        self.made = self.tried = self.status = 0

    def inspect_image(self, tag: str) -> None:
        if tag not in self.found:
            raise docker.errors.ImageNotFound("no such image")

    def import_image_from_data(self, _: bytes, *, repository: str, tag: str, **__: Any) -> None:
        self.made += 1
        self.found[f"{repository}:{tag}"] = self.made

    def images(self, *, name: str) -> list[dict[str, Any]]:
        return [
            {"RepoTags": [tag], "Created": made}
            for tag, made in self.found.items()
            if tag.startswith(f"{name}:")
        ]

    def remove_image(self, tag: str, **_: Any) -> None:
        del self.found[tag]

    def create_host_config(self, **settings: Any) -> dict[str, Any]:
        return settings

    def create_container(self, _: str, **__: Any) -> dict[str, str]:
        return {"Id": "tried"}

    def start(self, _: str) -> None:
        pass

    def wait(self, _: str) -> dict[str, int]:
        return {"StatusCode": self.status}

    def remove_container(self, _: str, **__: Any) -> None:
        self.tried += 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr(image, "host_root_filesystem", lambda: b"")
    return FakeEngine()


def wanted(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, programs: str) -> str:
    """By a volferry with these programs."""
    monkeypatch.setattr(image, "_fingerprint", lambda _: programs)
    return image.helper_image(cast("Engine", engine), configured=None, own_container_image=None)


def test_two_volferrys_leave_each_other_their_images(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        for programs in ("one", "other"):
            assert wanted(engine, monkeypatch, programs) == f"volferry-helper:{programs}"
    assert engine.made == 2


def test_old_ones_go(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        wanted(engine, monkeypatch, str(number))
    assert set(engine.found) == {f"volferry-helper:{number}" for number in (7, 8, 9)}


def test_one_that_does_not_run_is_not_left(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.status = 11
    with pytest.raises(HelperImageError, match="its tar does not run in a container"):
        wanted(engine, monkeypatch, "one")
    assert engine.found == {}
    assert engine.tried == 1
    engine.status = 0
    for _ in range(2):
        wanted(engine, monkeypatch, "one")
    assert engine.tried == 2, "an image that is there is not tried again"
