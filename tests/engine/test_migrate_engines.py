"""Containers move from each engine that people have to each other: as they were, and running."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import docker
import pytest
from docker.types import Healthcheck, Ulimit

from tests.parts.editions import EDITIONS
from tests.parts.engine import private_engine
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)


@contextmanager
def world_on(edition: str, directory: Path) -> Iterator[World]:
    directory.mkdir()
    with private_engine(edition=EDITIONS[edition]) as engine:
        client = docker.DockerClient(base_url=engine.docker_host, timeout=60)
        try:
            with world_of(engine, client, directory) as world:
                yield world
                for container in client.containers.list(all=True):  # a move has made some, too
                    container.remove(force=True)
        finally:
            client.close()


DIRECTIONS = [
    ("docker", "docker-20.10"),
    ("docker-20.10", "docker"),
    ("docker", "docker-containerd"),
    ("docker-containerd", "docker"),
    ("docker", "podman"),
    ("podman", "docker"),
    ("podman", "podman-5.4"),
]


def names_of_limits(host: dict[str, Any]) -> set[tuple[str, int, int]]:
    limits = {
        (each["Name"].removeprefix("RLIMIT_").lower(), each["Soft"], each["Hard"]) for each in host["Ulimits"]
    }
    return {each for each in limits if each[0] == "nofile"}


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_a_container_is_what_it_was_on_another_engine(source: str, target: str, tmp_path: Path) -> None:
    with world_on(source, tmp_path / "here") as here, world_on(target, tmp_path / "there") as there:
        volume = here.volume(labels={"kept": "yes"})
        more: dict[str, Any] = {"restart_policy": {"Name": "unless-stopped", "MaximumRetryCount": 0}}
        # Podman checks health by timers of systemd, which its engine here does not have: a minute's wait for each.
        checked = "podman" not in {source, target.partition("-")[0]}
        if checked:
            more["healthcheck"] = Healthcheck(test=["CMD", "cat", "/data/said"], interval=10**9, retries=3)
        log = {"max-size": "5m"}
        if (
            "podman" not in source
        ):  # which cannot be asked for these, and refuses them, or does not start with them
            log["tag"] = "{{.Name}}"
            more |= {"ipc_mode": "host", "domainname": "some.domain"}
        container = here.container(
            volume,
            environment={"GREETING": "hello world"},
            labels={"some": "label"},
            entrypoint=["sh", "-c"],
            command=['echo "$GREETING" >>/data/said; while read -r _; do :; done'],
            user="0:0",
            working_dir="/data",
            hostname="a-name",
            stop_signal="SIGKILL",
            cap_add=["NET_ADMIN"],
            ulimits=[Ulimit(name="nofile", soft=1000, hard=2000)],
            mem_limit="64m",
            tmpfs={"/scratch": "size=1m" if "podman" in source else "size=1m,nr_inodes=99"},
            # Podman names a device by any node below /dev with its numbers: tests make others of /dev/null.
            devices=["/dev/full:/dev/nothing:rwm"],
            read_only=True,
            network_disabled=False,
            network_mode="none",
            log_config=docker.types.LogConfig(type="json-file", config=log),
            **more,
        )
        (here.data(volume) / "one").write_text("1")
        move = ["migrate", volume, "--to", there.engine.docker_host, "--with-containers"]
        here.cli(*move).exits(0)
        before, after = container.attrs, there.client.containers.get(str(container.name)).attrs
        assert after["State"]["Status"] == "running"
        container.reload()
        assert container.status == "exited"
        assert (there.data(volume) / "one").read_text() == "1"
        assert (there.data(volume) / "said").read_text() == "hello world\nhello world\n"
        for key in ("Labels", "Cmd", "Entrypoint", "User", "WorkingDir", "Hostname", "OpenStdin"):
            assert after["Config"].get(key) == before["Config"].get(key), key
        assert "GREETING=hello world" in after["Config"]["Env"]
        assert after["Config"]["StopSignal"] in {"SIGKILL", "9"}
        for key in ("Test", "Interval", "Retries") if checked else ():
            assert after["Config"]["Healthcheck"][key] == before["Config"]["Healthcheck"][key]
        then, now = before["HostConfig"], after["HostConfig"]
        for key in ("RestartPolicy", "Memory", "ReadonlyRootfs", "NetworkMode", "Privileged"):
            assert now[key] == then[key], key
        assert [each.removeprefix("CAP_") for each in now["CapAdd"]] == ["NET_ADMIN"]
        assert names_of_limits(now) == names_of_limits(then) == {("nofile", 1000, 2000)}
        assert now["LogConfig"]["Type"] == "json-file"
        assert now["Tmpfs"]["/scratch"].startswith("size=1m")
        (device,) = now["Devices"]
        assert (device["PathOnHost"], device["PathInContainer"]) == ("/dev/full", "/dev/nothing")
        assert device["CgroupPermissions"] == (
            "" if "podman" in target else "rwm"
        )  # all of it, in Podman's words
        assert {
            (each["Destination"], each["Name"], each["RW"])
            for each in after["Mounts"]
            if each["Type"] == "volume"
        } == {("/data", volume, True)}
        # By its name, which compose looks for.
        there.client.images.get(here.image)


@pytest.mark.parametrize(
    ("source", "target"), [("docker", "docker-containerd"), ("docker-containerd", "docker")]
)
def test_an_image_that_is_there_under_another_id_is_not_sent_again(
    source: str, target: str, tmp_path: Path
) -> None:
    with world_on(source, tmp_path / "here") as here, world_on(target, tmp_path / "there") as there:
        volume = here.filled()
        image = here.client.images.get(here.image)
        container = here.container(volume, image=str(image.id))
        to = there.engine.docker_host
        plan = ["migrate", volume, "--to", to, "--with-containers", "--dry-run", "--json"]
        assert [each["name"] for each in here.cli(*plan).exits(0).json["images"]] == [image.id]
        there.client.images.load(b"".join(image.save()))
        (known,) = [
            each
            for each in there.client.images.list(all=True)
            if not any("helper" in tag for tag in each.tags)
        ]
        assert known.id != image.id
        assert here.cli(*plan).exits(0).json["images"] == []
        here.cli("migrate", volume, "--to", to, "--with-containers").exits(0)
        after = there.client.containers.get(str(container.name)).attrs
        assert (after["State"]["Status"], after["Image"]) == ("running", known.id)


def test_what_only_podman_knows_of_a_container_is_said_before_anything_is_stopped(tmp_path: Path) -> None:
    """As containers are made by Podman's own commands, and with no word of that in its answers to Docker's clients."""
    with world_on("podman", tmp_path / "here") as here:
        volume = here.filled()
        api: Any = here.client.api  # docker-py does not know Podman's own API
        base = f"{api.base_url}/v5.0.0/libpod"
        api._raise_for_status(api._post(f"{base}/secrets/create", params={"name": "pw"}, data=b"s3cret"))
        mount = {"Name": volume, "Dest": "/data"}
        made: dict[str, dict[str, Any]] = {
            "with-secret": {"secret_env": {"PASS": "pw"}},
            "with-secret-file": {"secrets": [{"Source": "pw"}]},
            "with-part": {
                "volumes": [{**mount, "Dest": "/part", "SubPath": "/"}, {**mount, "SubPath": "/d"}]
            },
            "with-overlay": {"volumes": [{**mount, "Options": ["O"]}]},
            "without-exec": {"volumes": [{**mount, "Options": ["noexec"]}]},
        }
        (here.data(volume) / "d").mkdir(exist_ok=True)
        for name, more in made.items():
            body = {"image": here.image, "name": name, "stdin": True, "netns": {"nsmode": "none"}}
            body["command"] = ["sh", "-c", "while read -r _; do :; done"]
            response = api._post_json(f"{base}/containers/create", data={**body, "volumes": [mount], **more})
            api._raise_for_status(response)
        here.client.containers.get("with-secret").start()
        to = here.engine.docker_host
        plan = [
            "migrate",
            volume,
            "--to",
            to,
            "--rename",
            f"{volume}=other",
            "--with-containers",
            "--dry-run",
        ]
        found = here.cli(*plan).exits(1)
        said = found.stdout + found.stderr
        for name, words in {
            "with-secret": "it has secrets, which no engine gives away (pw)",
            "with-secret-file": "it has secrets, which no engine gives away (pw)",
            "with-part": f"it mounts only /d of volume {volume}",
            "with-overlay": "what it writes to /data is thrown away",
        }.items():
            assert f"container {name}: {words}" in said
        assert "container without-exec is made without the options noexec of its mount at /data" in said
