"""Containers move along with their volumes: as they are, and running."""

from __future__ import annotations

import secrets
import signal
import socket
from typing import TYPE_CHECKING, Any

import docker
import pytest
from docker.types import Healthcheck, Mount

from tests.engine.test_quiesce import await_true, large, state_of
from tests.parts.s3_servers import free_ports
from tests.parts.world import IDLE, IMAGE, World, shell_image, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker.models.containers import Container

    from tests.parts.engine import PrivateEngine


@pytest.fixture
def there(other_engine: PrivateEngine, tmp_path: Path) -> Iterator[World]:
    """The other machine; it has nothing but what a move makes there."""
    client = docker.DockerClient(base_url=other_engine.docker_host, timeout=120)
    directory = tmp_path / "there"
    directory.mkdir()
    networks = {network.id for network in client.networks.list()}
    for image in client.images.list(
        IMAGE
    ):  # another test has made one of that name there, with an id of its own
        client.images.remove(str(image.id), force=True)
    images = {image.id for image in client.images.list()}
    with world_of(other_engine, client, directory) as world:
        yield world
        for container in client.containers.list(all=True):
            container.remove(force=True)
        for network in client.networks.list():
            if network.id not in networks:
                network.remove()
        for image in client.images.list():
            if image.id not in images and not any("volferry-helper" in tag for tag in image.tags):
                client.images.remove(str(image.id), force=True)
    client.close()


@pytest.fixture
def network(world: World) -> Iterator[str]:
    """Of the source, with a subnet of its own."""
    pool = docker.types.IPAMPool(subnet="10.213.7.0/24")
    made = world.client.networks.create(
        f"net-{secrets.token_hex(3)}",
        labels={"kept": "yes"},
        ipam=docker.types.IPAMConfig(pool_configs=[pool]),
    )
    yield str(made.name)
    made.reload()
    for container in made.containers:
        made.disconnect(container, force=True)
    made.remove()


def container_there(there: World, container: Container) -> Any:
    return there.client.containers.get(str(container.name)).attrs


def migrate(world: World, there: World, *arguments: str) -> dict[str, Any]:
    to = there.engine.docker_host
    found: dict[str, Any] = (
        world.cli("migrate", *arguments, "--to", to, "--with-containers", "--json").exits(0).json
    )
    return found


def test_the_plan_names_whoever_is_stopped(world: World, there: World) -> None:
    read, written = world.filled(), world.filled()
    reader = world.container(read, volumes=[f"{read}:/data:ro", f"{written}:/more"])
    idle = world.container(read, "stopped", volumes=[f"{read}:/data:ro"])
    to = there.engine.docker_host
    command = ("migrate", read, written, "--to", to, "--with-containers")
    plan = world.cli(*command, "--dry-run", "--json").exits(0).json
    assert [each["stopped"] for each in plan["volumes"]] == [[reader.name], [reader.name]]
    table = world.cli(*command, "--dry-run").exits(0).stdout
    assert all(line.endswith(str(reader.name)) for line in table.splitlines()[2:4])
    report = world.cli(*command, "--json").exits(0).json
    assert report["stopped"] == [reader.name]
    assert idle.name not in report["stopped"]


def test_a_container_is_what_it_was(world: World, there: World) -> None:
    volume, other, anonymous = world.filled(), world.filled(), world.anonymous_volume()
    (world.data(anonymous) / "precious").write_text("p")
    (port,) = free_ports(1)
    container = world.client.containers.create(
        world.image,
        ["sh", "-c", 'echo "$GREETING" >>/data/said; while read -r _; do :; done'],
        name=f"user-{secrets.token_hex(4)}",
        stdin_open=True,
        environment={"GREETING": "hello world"},
        labels={"some": "label", "com.docker.compose.project": "shop"},
        mounts=[Mount("/data", volume, type="volume"), Mount("/more", other, type="volume", read_only=True)],
        volumes=[f"{anonymous}:/anonymous"],
        ports={"80/tcp": ("127.0.0.1", port)},
        healthcheck=Healthcheck(test=["CMD", "cat", "/data/said"], interval=10**9, retries=3),
        restart_policy={"Name": "unless-stopped", "MaximumRetryCount": 0},  # type: ignore[arg-type]
        mem_limit="64m",
        user="0:0",
        working_dir="/data",
        hostname="a-name",
        stop_signal="SIGKILL",
        extra_hosts={"db": "10.0.0.7"},
        cap_drop=["NET_RAW"],
        sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
        tmpfs={"/scratch": "size=1m"},
    )
    world._containers.append(container)
    container.start()
    await_true((world.data(volume) / "said").exists)
    report = migrate(world, there, volume)
    assert {each["name"] for each in report["volumes"]} == {volume, other, anonymous}
    assert report["made"] == report["started"] == [container.name]
    assert report["took_over"] is True
    assert state_of(container)["Status"] == "exited"
    container.reload()
    before, after = container.attrs, container_there(there, container)
    assert after["State"]["Status"] == "running"
    assert (there.data(volume) / "said").read_text() == "hello world\nhello world\n"
    assert (there.data(anonymous) / "precious").read_text() == "p"
    for key in (
        "Env",
        "Cmd",
        "Labels",
        "User",
        "WorkingDir",
        "Hostname",
        "Healthcheck",
        "StopSignal",
        "OpenStdin",
        "Image",
    ):
        assert after["Config"].get(key) == before["Config"].get(key), key
    same = (
        "RestartPolicy", "Memory", "PortBindings", "ExtraHosts", "CapDrop", "Sysctls", "Tmpfs", "ReadonlyRootfs", "LogConfig",
    )  # fmt: skip
    for key in same:
        assert after["HostConfig"].get(key) == before["HostConfig"].get(key), key
    assert {(m["Destination"], m["Name"], m["RW"]) for m in after["Mounts"] if m["Type"] == "volume"} == {
        ("/data", volume, True),
        ("/more", other, False),
        ("/anonymous", anonymous, True),
    }
    assert there.own_containers() == world.own_containers() == []


def test_a_project_moves_with_its_networks_and_images(world: World, there: World, network: str) -> None:
    project = f"p{secrets.token_hex(3)}"
    labels = {"com.docker.compose.project": project}
    volume = world.volume(labels=labels)
    (world.data(volume) / "one").write_text("1")
    more: dict[str, Any] = {
        "labels": labels, "network_disabled": False, "network": network, "stop_signal": "SIGKILL",
    }  # fmt: skip
    database = world.container(
        volume, "created", **{**more, "labels": {**labels, "com.docker.compose.service": "db"}}
    )
    attached = world.client.networks.get(network)
    attached.disconnect(database)
    attached.connect(database, aliases=["db"], ipv4_address="10.213.7.50")
    database.start()
    # Without a volume, and one that does not run: of the project all the same.
    web = world.container(
        volume,
        volumes=[],
        **{
            **more,
            "labels": {**labels, "com.docker.compose.service": "web", "com.docker.compose.depends_on": "db"},
        },
    )
    job = world.container(volume, "stopped", **more)
    to = there.engine.docker_host
    plan = (
        world.cli("migrate", "--project", project, "--to", to, "--with-containers", "--dry-run")
        .exits(0)
        .stdout
    )
    for words in (
        f"container {database.name}",
        f"container {web.name}",
        f"network {network} is made",
        "image",
    ):
        assert words in plan
    report = migrate(world, there, "--project", project)
    assert set(report["made"]) == {database.name, web.name, job.name}
    assert report["started"] == [database.name, web.name]
    assert {each: state_of(each)["Status"] for each in (database, web)} == {database: "exited", web: "exited"}
    after = container_there(there, database)
    endpoint = after["NetworkSettings"]["Networks"][network]
    assert endpoint["IPAddress"] == "10.213.7.50"
    assert "db" in endpoint["Aliases"]
    assert container_there(there, job)["State"]["Status"] == "created"
    assert there.client.networks.get(network).attrs["Labels"] == {"kept": "yes"}
    assert after["Image"] == world.client.images.get(world.image).id


def test_a_bind_mount_becomes_a_volume_or_is_kept(world: World, there: World, tmp_path: Path) -> None:
    bound, settings = tmp_path / "bound", tmp_path / "app.conf"
    bound.mkdir()
    (bound / "one").write_text("1")
    settings.write_text("key")
    volume = world.filled()
    container = world.container(
        volume, volumes=[f"{volume}:/data", f"{bound}:/bound:ro", f"{settings}:/etc/app.conf"]
    )
    to = there.engine.docker_host
    arguments = ["migrate", volume, "--to", to, "--with-containers"]
    world.cli(*arguments).fails_with(str(bound), "--bind-to-volume", "--keep-bind")
    assert not there.exists(volume)
    assert state_of(container)["Status"] == "running"
    world.cli(*arguments, "--bind-to-volume", "/nowhere=new").fails_with("/nowhere", code=2)
    migrate(world, there, volume, "--bind-to-volume", f"{bound}=photos")
    assert (there.data("photos") / "one").read_text() == "1"
    mounts = {m["Destination"]: m for m in container_there(there, container)["Mounts"]}
    assert (mounts["/bound"]["Type"], mounts["/bound"]["Name"], mounts["/bound"]["RW"]) == (
        "volume",
        "photos",
        False,
    )
    assert (mounts["/etc/app.conf"]["Type"], mounts["/etc/app.conf"]["Source"]) == ("bind", str(settings))
    assert (bound / "one").exists()


@pytest.mark.parametrize("what", ["name", "port", "device"])
def test_what_is_in_the_way_is_said_before_anything_happens(
    world: World, there: World, network: str, what: str
) -> None:
    volume = world.filled()
    (port,) = free_ports(1)
    name = f"user-{secrets.token_hex(4)}"
    more: dict[str, Any] = {"name": name}
    if what == "name":
        there.container(there.volume(), "created", name=name)
        words = "has a container of that name"
    elif what == "port":
        published: dict[str, Any] = {"network_disabled": False, "network": network}
        more |= {"ports": {"80/tcp": port}, "state": "created", **published}
        published["network"] = str(there.client.networks.create("theirs").name)
        there.container(there.volume(), ports={"80/tcp": ("127.0.0.1", port)}, **published)
        words = f"publishes port {port}/tcp"
    else:
        more |= {"devices": ["/dev/null:/dev/thing"]}
        words = ""
    container = world.container(volume, **more)
    done = world.cli("migrate", volume, "--to", there.engine.docker_host, "--with-containers", "--dry-run")
    if words:
        done.fails_with(name, words)
    else:
        assert "device /dev/null" in done.exits(0).stderr
    assert not there.exists(volume)
    assert state_of(container)["Status"] == more.get("state", "running")


def test_a_container_that_cannot_be_started_there_leaves_all_as_it_was(
    world: World, there: World, network: str
) -> None:
    """A port that no container of the target has, but the machine."""
    volume = world.filled()
    (port,) = free_ports(1)
    published: dict[str, Any] = {
        "ports": {"80/tcp": ("127.0.0.1", port)}, "network_disabled": False, "network": network,
    }  # fmt: skip
    container = world.container(volume, stop_signal="SIGKILL", **published)
    other = world.container(volume, volumes=[f"{volume}:/data:ro"], stop_signal="SIGKILL")
    with socket.socket() as taken:
        # The source's own container holds the port until it is stopped; from then on this one does.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        cli = world.cli.having(VOLFERRY_BRING_BACK="1s")  # else it waits for the port
        running = cli.start("migrate", volume, "--to", there.engine.docker_host, "--with-containers")

        def takes() -> bool:
            try:
                taken.bind(("127.0.0.1", port))
                taken.listen()
            except OSError:
                return False
            return True

        assert running.until(takes)
        outcome = running.outcome()
    assert outcome.code == 1, outcome.story
    assert "runs on the source again" in outcome.stderr
    assert there.client.containers.list(all=True) == []
    await_true(lambda: state_of(other)["Status"] == "running")
    assert (there.data(volume) / "one").read_text() == "1"
    world.cli("volumes").exits(0)  # brings back what could not be while the port was taken
    world.cli("backup", world.filled()).exits(0)
    assert state_of(container)["Status"] == "running"


def test_the_image_of_another_name_stays_what_it_is(world: World, there: World) -> None:
    volume = world.filled()
    container = world.container(volume)
    there.client.api.import_image_from_data(
        b"", repository="volferry-test-user", tag="latest", changes=["LABEL other=1"]
    )
    other = there.client.images.get("volferry-test-user").id
    migrate(world, there, volume)
    after = container_there(there, container)
    assert after["Image"] == world.client.images.get(world.image).id
    assert there.client.images.get("volferry-test-user").id == other
    assert after["Config"]["Cmd"] == IDLE


def test_what_containers_share_with_each_other_and_with_the_machine(
    world: World, there: World, network: str
) -> None:
    volume = world.filled()
    quick: dict[str, Any] = {"network_disabled": False, "stop_signal": "SIGKILL"}
    name = f"user-{secrets.token_hex(4)}"
    # By their names alone, the second would be started first.
    tunnel = world.container(volume, name=f"z-{name}", network=network, **quick)
    app = world.container(volume, name=f"a-{name}", network_mode=f"container:{tunnel.id}", **quick)
    host = world.container(volume, name=f"h-{name}", network_mode="host", **quick)
    report = migrate(world, there, volume)
    assert report["started"] == [tunnel.name, app.name, host.name]
    mode = container_there(there, app)["HostConfig"]["NetworkMode"]
    assert mode in {f"container:{container_there(there, tunnel)['Id']}", f"container:{tunnel.name}"}
    assert container_there(there, host)["HostConfig"]["NetworkMode"] == "host"


def test_a_project_without_named_volumes_moves(world: World, there: World, tmp_path: Path) -> None:
    for binds in (True, False):
        project = f"p{secrets.token_hex(3)}"
        bound = tmp_path / project
        bound.mkdir()
        (bound / "one").write_text("1")
        container = world.container(
            world.volume(),
            volumes=[f"{bound}:/bound"] if binds else [],
            labels={"com.docker.compose.project": project},
            stop_signal="SIGKILL",
        )
        more = ["--bind-to-volume", f"{bound}={project}"] if binds else []
        report = migrate(world, there, "--project", project, *more)
        assert report["started"] == [container.name]
        assert container_there(there, container)["State"]["Status"] == "running"
        assert there.exists(project) is binds
        if binds:
            assert (there.data(project) / "one").read_text() == "1"


def test_who_writes_and_does_not_move_is_in_the_way(world: World, there: World) -> None:
    project = f"p{secrets.token_hex(3)}"
    volume = world.volume(labels={"com.docker.compose.project": project})
    world.container(volume, labels={"com.docker.compose.project": project})
    stranger = world.container(volume)
    to = there.engine.docker_host
    world.cli("migrate", "--project", project, "--to", to, "--with-containers").fails_with(
        volume, str(stranger.name), "not move along"
    )
    assert not there.exists(volume)


def test_no_entrypoint_stays_none(world: World, there: World) -> None:
    """Where the image has one."""
    with_entrypoint = f"with-entrypoint-{secrets.token_hex(3)}"
    world.client.api.import_image_from_data(
        shell_image(), repository=with_entrypoint, tag="latest", changes=['ENTRYPOINT ["/bin/false"]']
    )
    volume = world.filled()
    container = world.client.containers.create(
        with_entrypoint,
        IDLE,
        entrypoint="",
        stdin_open=True,
        network_disabled=True,
        volumes=[f"{volume}:/data"],
        stop_signal="SIGKILL",
    )
    world._containers.append(container)
    container.start()
    migrate(world, there, volume)
    after = container_there(there, container)
    assert after["State"]["Status"] == "running"
    assert (after["Config"]["Entrypoint"] or []) == []
    assert after["Config"]["Cmd"] == IDLE


def test_killed_when_the_containers_are_made_it_is_gone_on_with(world: World, there: World) -> None:
    volume = world.filled()
    container = world.container(volume, stop_signal="SIGKILL")
    arguments = ["migrate", volume, "--to", there.engine.docker_host, "--with-containers"]
    running = world.cli.start(*arguments)

    def is_made() -> bool:
        found = there.client.api.containers(all=True, filters={"name": container.name})
        return bool(found)

    assert running.until(is_made)
    running.send(signal.SIGKILL)
    running.outcome()
    world.cli("backup", world.filled()).exits(0)  # brings back what was stopped, and waits for that
    await_true(lambda: state_of(container)["Status"] == "running")
    assert container_there(there, container)["State"]["Status"] == "created"
    world.cli(*arguments).exits(0)
    assert container_there(there, container)["State"]["Status"] == "running"
    assert state_of(container)["Status"] == "exited"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_container_there(world: World, there: World, number: signal.Signals) -> None:
    volume = world.volume()
    large(world, volume, 60)
    container = world.container(volume, stop_signal="SIGKILL")
    running = world.cli.start("migrate", volume, "--to", there.engine.docker_host, "--with-containers")
    assert running.until(lambda: there.exists(volume) and any(there.data(volume).iterdir()))
    running.send(number)
    running.outcome().fails_with("interrupted", code=130)
    assert [each.name for each in there.client.containers.list(all=True)] == [f"volferry-incomplete-{volume}"]
    assert state_of(container)["Status"] == "running"
