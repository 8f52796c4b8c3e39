"""The calls that a filtering proxy must let through: all that volferry makes, and no others."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.engine.test_quiesce import writing
from tests.parts.api_proxy import ApiProxy, Options, api_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.world import World

PROJECT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = PROJECT / "config/compose.socket-proxy.yaml"
_NAME = re.compile(
    r"(?<=/)(containers|volumes|images|exec|services)/(?!create$|json$)[^/]+(?:/[^/]+(?=/json$))?"
)
# Not called by what is done below: Swarm's, which need a swarm, and one that makes a terminal of a command as large as ours.
ELSEWHERE = {
    ("GET", "/services/ID"),
    ("POST", "/services/ID/update"),
    ("GET", "/tasks"),
    ("POST", "/exec/ID/resize"),
}


def options_of(file: Path, mark: str = "-") -> list[str]:
    """Those of the proxy, as a compose file has them."""
    return re.findall(rf"^      {mark} '?(-[a-zA-Z]+(?:=.*?)?)'?$", file.read_text(), re.MULTILINE)


def allowed(*, restores: bool = False) -> Options:
    """With what the file offers for restores into new volumes, or as it is."""
    offered = options_of(COMPOSE_FILE, "#-") if restores else []
    return Options.parse([*options_of(COMPOSE_FILE), *offered])


@pytest.fixture
def proxy(world: World, tmp_path: Path) -> Iterator[ApiProxy]:
    """One before the test's engine, with the very patterns of the compose file. Where volferry runs on the host, as here, its own
    directory is what the helper shares with it.
    """
    # pytest's own directories have longer paths than a socket may have
    with TemporaryDirectory(prefix="volferry-proxy-") as place:
        options = replace(
            allowed(restores=True),
            listen=Path(place) / "docker.sock",
            engine=Path(world.engine.docker_host.removeprefix("unix://")),
            directories=(str(tmp_path),),
        )
        with api_proxy(options) as running:
            world.cli = replace(world.cli, docker_host=f"unix://{options.listen}")
            yield running


def templates(calls: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Names and ids do not matter."""
    return {(method, _NAME.sub(r"\1/ID", path)) for method, path in calls}


@pytest.mark.timeout(600)  # it builds the image
def test_what_volferry_does_is_let_through_and_it_needs_all_of_that(
    world: World, proxy: ApiProxy, image: str
) -> None:
    # As in the compose file: the proxy refuses --volumes-from.
    cli = world.cli = world.cli.having(VOLFERRY_HELPER__IMAGE=image, VOLFERRY_HELPER__VOLUMES_FROM="false")
    volume = world.volume(labels={"volferry.schedule": "@yearly"})
    writing(world, volume, labels={"volferry.hook.pre": "true", "volferry.dump": "echo all of it"})
    cli("doctor").exits(0)
    cli("volumes", "--all").exits(0)
    daemon = cli.start("daemon")
    assert daemon.until(lambda: world.objects("manifests"))
    daemon.send(signal.SIGTERM)
    daemon.outcome().exits(0)
    cli("backup", volume, "--quiesce", "stop", "--warm").exits(0, 3)
    cli("backup", volume, "--quiesce", "pause").exits(0, 3)
    cli.having(VOLFERRY_HELPER__CHANNEL="stream")("backup", volume, "--full").exits(0, 3)
    cli("verify", volume, "--read").exits(0)
    assert cli("export", volume, "--dump", "dump", "-o", "-").exits(0).stdout == "all of it\n"
    copy = world.name()
    cli("restore", volume, "--into", copy).exits(0)
    cli("restore", volume, "--into", copy, "--replace").exits(0)
    broken = cli.start("restore", volume, "--into", world.name())
    assert broken.until(lambda: ("POST", "/volumes/create") in proxy.calls[-5:])
    broken.send(signal.SIGTERM)
    broken.outcome().exits(130)
    assert proxy.refused == []
    needed = templates(proxy.calls)
    assert needed | ELSEWHERE == everything_allowed()


def everything_allowed() -> set[tuple[str, str]]:
    """What the patterns let through, spelled out."""
    found: set[tuple[str, str]] = set()
    patterns = [(method, each) for method, found in allowed(restores=True).paths.items() for each in found]
    for method, pattern in patterns:
        text = pattern.pattern.removeprefix("(/v[0-9.]+)?")
        found |= {(method, path) for path in spelled_out(re.sub(r"\[[^\]]+\]\+", "ID", text))}
    return found


def spelled_out(pattern: str) -> set[str]:
    """All strings that a pattern of nothing but groups with alternatives fits."""
    inner = re.search(r"\(([^()]*)\)", pattern)
    if inner is None:
        return {pattern}
    return {
        each
        for choice in inner[1].split("|")
        for each in spelled_out(pattern[: inner.start()] + choice + pattern[inner.end() :])
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("secrets", "configs", "plugins", "networks", "nodes", "swarm")),
        *(
            ("GET", f"containers/a/{what}")
            for what in ("logs", "export", "archive", "top", "stats", "attach/ws")
        ),
        *(("GET", path) for path in ("images/a/get", "images/get", "images/search", "distribution/a/json")),
        *(("POST", path) for path in ("build", "commit", "images/create", "images/load", "auth", "session")),
        *(("POST", path) for path in ("secrets/create", "swarm/init", "plugins/pull", "networks/create")),
        *(("POST", f"containers/a/{what}") for what in ("update", "rename", "kill", "restart", "resize")),
        *(("POST", f"{what}/prune") for what in ("containers", "volumes", "images", "build", "networks")),
        ("POST", "services/create"),
        ("PUT", "containers/a/archive"),
        ("POST", "volumes/create"),
        ("DELETE", "volumes/a"),
        ("DELETE", "images/a"),
        ("DELETE", "services/a"),
        ("DELETE", "networks/a"),
        ("HEAD", "containers/a/archive"),
        ("GET", "../secrets"),
        ("POST", "containers/create/../../build"),
        ("POST", "containers/create%2f..%2f..%2fbuild"),
    ],
)
def test_all_else_is_refused(method: str, path: str) -> None:
    options = allowed()
    assert options.refusal(method, f"/{path}", b"") in {403, 405}
    assert options.refusal(method, f"/v1.41/{path}?all=1", b"") in {403, 405}


def test_no_directory_of_the_machine_is_mounted() -> None:
    options = allowed()
    for settings in (
        '"Binds": ["/:/host"]',
        '"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]',
    ):
        body = f'{{"HostConfig": {{{settings}}}}}'.encode()
        assert options.refusal("POST", "/v1.41/containers/create", body) == 403


def test_nor_as_a_volume() -> None:
    """Not even where restores make volumes. Disks are another matter, of which the file says that nothing keeps them out."""
    driver = {"o": "bind", "type": "none", "device": "/"}
    options = allowed(restores=True)
    assert options.refusal("POST", "/volumes/create", b'{"Name": "copy"}') is None
    assert options.refusal("POST", "/volumes/create", json.dumps({"DriverOpts": driver}).encode()) == 403
    mount = {"Type": "volume", "Target": "/host", "VolumeOptions": {"DriverConfig": {"Options": driver}}}
    body = json.dumps({"HostConfig": {"Mounts": [mount]}}).encode()
    assert options.refusal("POST", "/containers/create", body) == 403
    body = json.dumps({"HostConfig": {"VolumesFrom": ["any"]}}).encode()
    assert options.refusal("POST", "/containers/create", body) == 403


def test_what_is_refused_is_said(world: World, proxy: ApiProxy) -> None:
    """In a container the helper's image is volferry's own; here, one would be made."""
    for image in world.client.images.list("volferry-helper"):
        world.client.images.remove(str(image.id), force=True)
    world.cli("backup", world.filled()).fails_with("making the helper image", "Forbidden")
    assert proxy.refused == [("POST", "/images/create")]
