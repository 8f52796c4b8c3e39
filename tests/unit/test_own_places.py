"""Volumes that hold a store or the state directory are known, however they are mounted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from volferry.cli.own_volumes import own_directories
from volferry.config import Config
from volferry.engine import own_places
from volferry.engine.own import OwnContainer
from volferry.engine.own_places import OwnPlaces
from volferry.model import Volume
from volferry.store_config import StoreConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCKER = "/var/lib/docker/volumes"


def volume(name: str, device: str = "", mountpoint: str | None = None, **more: str) -> Volume:
    options = {"type": "none", "o": "bind", "device": device, **more} if device else {}
    where = f"{DOCKER}/{name}/_data" if mountpoint is None else mountpoint
    return Volume(name, "local", options, {}, "local", "", mountpoint=where)


def places(
    monkeypatch: pytest.MonkeyPatch,
    directories: Mapping[str, Path],
    *,
    mounts: list[dict[str, Any]] | None = None,
    volumes: Mapping[str, Any] | None = None,
    here: bool = True,
) -> OwnPlaces:
    container = OwnContainer("c" * 64, "image", mounts) if mounts is not None else None
    monkeypatch.setattr(own_places, "own_container", lambda _: container)
    inspect = lambda name: {"Driver": "local", "Options": (volumes or {}).get(name)}  # noqa: E731
    engine: Any = SimpleNamespace(shares_our_kernel=here, api=SimpleNamespace(inspect_volume=inspect))
    return OwnPlaces(engine, directories)


def mounted(kind: str, source: str, destination: str) -> dict[str, Any]:
    where = {"Source": source}
    if kind == "volume":
        where = {"Source": f"{DOCKER}/{source}/_data", "Name": source}
    return {"Type": kind, "Destination": destination, **where}


class TestInAContainer:
    def test_what_is_mounted_where_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mounts = [
            mounted("volume", "state", "/var/lib/volferry"),
            mounted("volume", "backups", "/backups"),
            mounted("volume", "engine", "/run/engine"),
        ]
        directories = {
            "the state directory": Path("/var/lib/volferry"),
            "the store": Path("/backups/deep/down"),
        }
        own = places(monkeypatch, directories, mounts=mounts)
        assert own.in_volume(volume("backups")) == "the store"
        assert own.in_volume(volume("state")) == "the state directory"
        assert own.in_volume(volume("engine")) == own.in_volume(volume("pgdata")) == ""

    @pytest.mark.parametrize(
        "source",
        ["/srv/backups", "/srv/backups/deep", f"{DOCKER}/pgdata/_data", f"{DOCKER}/pgdata/_data/deep"],
    )
    def test_a_bind_mount_of_what_is_a_volumes(self, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
        own = places(monkeypatch, {"the store": Path("/b/main")}, mounts=[mounted("bind", source, "/b")])
        inside = volume("pgdata", device="" if source.startswith(DOCKER) else "/srv/backups")
        assert own.in_volume(inside) == "the store"
        assert own.in_volume(volume("other", device="/srv/back")) == ""
        assert own.in_volume(volume("parent", device="/srv/../srv/")) == (
            "" if source.startswith(DOCKER) else "the store"
        )

    def test_another_volume_that_leads_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"type": "none", "o": "bind,ro", "device": "/srv/nas"}
        own = places(
            monkeypatch,
            {"the store": Path("/b/deep/down")},
            mounts=[mounted("volume", "backups", "/b")],
            volumes={"backups": options},
        )
        assert own.in_volume(volume("twin", device="/srv/nas")) == "the store"
        assert own.in_volume(volume("twin", device="/srv/nas/deep")) == "the store"
        assert own.in_volume(volume("twin", device="/srv/nas/other")) == ""
        assert own.in_volume(volume("twin", device="/srv/nas", o="addr=10.0.0.1")) == ""
        assert own.in_volume(volume("twin", device=f"{DOCKER}/backups/_data")) == "the store"

    def test_paths_of_its_own_file_system_are_nobodys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = places(monkeypatch, {"the store": Path(f"{DOCKER}/x/_data")}, mounts=[])
        assert own.in_volume(volume("x")) == ""


class TestOnAHost:
    def test_a_store_in_a_volume(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = places(monkeypatch, {"the store": Path(f"{DOCKER}/backups/_data/deep/down")})
        assert own.in_volume(volume("backups")) == "the store"
        assert own.in_volume(volume("backups2")) == ""

    def test_by_another_path(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        data = tmp_path / "volumes" / "v" / "_data"
        data.mkdir(parents=True)
        (tmp_path / "link").symlink_to(data)
        config = Config(store=str(tmp_path / "link" / "store"), state_dir=tmp_path / "state")
        own = places(monkeypatch, own_directories(config))
        assert own.in_volume(volume("v", mountpoint=str(data))).startswith("the store ")
        # As the kernel shows a bind mount of it: the same directory, whatever it is called.
        (tmp_path / "store").mkdir()
        own = places(monkeypatch, {"the store": tmp_path / "store" / "new"})
        assert own.in_volume(volume("v", mountpoint=f"{tmp_path}/volumes/../store")) == "the store"
        assert own.in_volume(volume("v", mountpoint=str(data))) == ""

    def test_of_another_machine_they_are_in_no_volume(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = places(monkeypatch, {"the store": Path(f"{DOCKER}/backups/_data")}, here=False)
        assert own.in_volume(volume("backups")) == ""


def test_all_stores_are_volferrys_own(tmp_path: Path) -> None:
    stores = {
        "main": StoreConfig(url=str(tmp_path / "main")),
        "far": StoreConfig(url="s3://bucket"),
        "odd": StoreConfig(url="ftp://x"),
        "copy": StoreConfig(url=f"file://{tmp_path}/copy", replica_of="main"),
    }
    found = own_directories(Config(stores=stores, state_dir=tmp_path / "state"))
    assert set(found.values()) == {tmp_path / "main", tmp_path / "copy", tmp_path / "state"}
