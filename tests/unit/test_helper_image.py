"""The image that is made from the machine's own programs: which of those on an engine are removed when a new one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import docker.errors
import pytest

from volferry.engine import image

if TYPE_CHECKING:
    from volferry.engine.client import Engine


class FakeEngine:
    """Of this machine."""

    info: ClassVar[dict[str, Any]] = {}

    shares_our_kernel = True

    def __init__(self) -> None:
        self.api = self
        self.found: dict[str, int] = {}
        self.made = 0

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

    def remove_image(self, tag: str) -> None:
        del self.found[tag]


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
