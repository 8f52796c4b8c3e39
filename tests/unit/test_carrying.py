"""What a container becomes on another engine, by inspections that were recorded from Docker 20.10 and 28.5, and Podman 5.8."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import docker.errors
import pytest

from volferry.operations.carried_images import known_image, same_image
from volferry.operations.carrying import Places, carried

if TYPE_CHECKING:
    from volferry.engine.client import Engine
    from volferry.operations.carried import Carried

RECORDED = Path(__file__).with_name("inspections")
MAC = "02:42:ac:11:00:99"


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
        found = json.loads((RECORDED / f"{name}.json").read_text())
        self.containers: dict[str, dict[str, Any]] = found["containers"]
        self.image: dict[str, Any] = found["image"]
        self.api = Api(api or found["api"])
        self.api.known_networks = found["networks"]
        self.info: dict[str, Any] = found["info"]
        self.is_podman = "BuildahVersion" in self.info

    def moved(self, container: str, target: Recorded, **places: Any) -> Carried:
        details = copy.deepcopy(self.containers[container])
        image = {**self.image, "Id": details["Image"]}
        self.api.known_images = {details["Config"]["Image"]: image}
        return carried(
            [details],
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


@pytest.fixture(params=["docker-20.10", "docker-28.5", "podman-5.8"])
def target(request: pytest.FixtureRequest) -> Recorded:
    found = Recorded(request.param)
    found.api.known_networks = {}
    return found


@pytest.mark.parametrize("source", ["docker-20.10", "docker-28.5", "podman-5.8"])
def test_what_matters_is_the_same_everywhere(source: str, target: Recorded) -> None:
    plan = Recorded(source).moved("rich", target)
    assert plan.obstacles == []
    (container,) = plan.containers
    body, host = container.body, container.body["HostConfig"]
    assert container.ran
    assert "G=hello world" in body["Env"]
    assert not any(each.startswith(("container=", "HOSTNAME=")) for each in body["Env"])
    assert body["Labels"] == {"x": "y"}
    assert (body["User"], body["WorkingDir"], body["Entrypoint"]) == ("0:0", "/data", ["sh", "-c"])
    assert (body["StopSignal"], body["StopTimeout"], body["Hostname"]) == ("SIGINT", 7, "a-name")
    assert body["Healthcheck"]["Test"] == ["CMD", "cat", "/bin/sh"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Memory"] == 64 << 20
    assert (host["NanoCpus"], host.get("CpuQuota")) == (500_000_000, 0)
    assert host["CapAdd"] == ["NET_ADMIN"] or host["CapAdd"] == ["CAP_NET_ADMIN"]
    assert {"Name": "nofile", "Soft": 1024, "Hard": 2048} in host["Ulimits"]
    assert host["Tmpfs"]["/scratch2"].startswith("size=1m")
    assert host["LogConfig"]["Type"] == "json-file"
    assert host["ReadonlyRootfs"] is True


def test_no_word_of_podman_reaches_docker() -> None:
    (container,) = Recorded("podman-5.8").moved("rich", Recorded("docker-28.5")).containers
    host = container.body["HostConfig"]
    for key, word in {"PidMode": "private", "UTSMode": "private", "Runtime": "oci"}.items():
        assert host.get(key) != word
    assert host["Annotations"] == {}
    assert "tmpcopyup" not in host["Tmpfs"]["/scratch2"]
    assert host["MemorySwappiness"] is None


@pytest.mark.parametrize("source", ["docker-20.10", "docker-28.5"])
def test_a_mac_address_that_was_chosen_is_where_the_target_looks_for_it(
    source: str, target: Recorded
) -> None:
    (container,) = Recorded(source).moved("rich", target).containers
    (endpoint,) = container.networks.values()
    assert endpoint["IPAMConfig"] == {"IPv4Address": "10.213.9.50"}
    assert "db" in endpoint["Aliases"]
    if target.api.api_version == "1.41":
        assert (container.body["MacAddress"], endpoint.get("MacAddress")) == (MAC, None)
    else:
        assert (container.body.get("MacAddress"), endpoint["MacAddress"]) == (None, MAC)
    given = container.body["NetworkingConfig"]["EndpointsConfig"]
    assert given == {"net": endpoint}


def test_a_mac_address_that_an_engine_has_made_up_is_not_carried(target: Recorded) -> None:
    source = Recorded("docker-28.5")
    del source.containers["rich"]["Config"]["MacAddress"]
    (container,) = source.moved("rich", target).containers
    assert "MacAddress" not in container.body
    assert "MacAddress" not in container.networks["net"]


def test_gateways_and_kernel_parameters_are_carried_or_said(target: Recorded) -> None:
    source = Recorded("docker-28.5")
    endpoint = source.containers["rich"]["NetworkSettings"]["Networks"]["net"]
    sysctls = {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}
    endpoint |= {"GwPriority": 7, "DriverOpts": sysctls}
    plan = source.moved("rich", target)
    made = plan.containers[0].networks["net"]
    if target.api.api_version == "1.51":
        assert (made["GwPriority"], made["DriverOpts"]) == (7, sysctls)
        assert plan.notes == []
    else:
        assert "GwPriority" not in made
        assert not made["DriverOpts"]
        said = " ".join(plan.notes)
        assert "gateway priority 7" in said
        assert "sysctls" in said or "log_martians" in said


def test_networks_are_the_same_or_it_is_said(target: Recorded) -> None:
    source = Recorded("docker-28.5")
    net = source.api.known_networks["net"]
    net |= {"EnableIPv4": False, "EnableIPv6": True}
    plan = source.moved("rich", target)
    if target.api.api_version == "1.51":
        assert plan.networks[0]["EnableIPv4"] is False
    else:
        assert "no IPv4" in plan.obstacles[0]
    net |= {
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "theirs", "Options": {"pool": "a"}, "Config": None},
    }
    plan = source.moved("rich", target)
    if target.is_podman:
        assert "the driver theirs" in plan.obstacles[0]
    else:
        assert (plan.networks[0]["IPAM"]["Driver"], plan.networks[0]["IPAM"]["Options"]) == (
            "theirs",
            {"pool": "a"},
        )


def test_a_network_brings_the_one_whose_configuration_it_has(target: Recorded) -> None:
    source = Recorded("docker-28.5")
    net = source.api.known_networks["net"]
    source.api.known_networks["model"] = {**net, "Name": "model", "ConfigOnly": True, "Driver": "null"}
    net["ConfigFrom"] = {"Network": "model"}
    plan = source.moved("rich", target)
    if target.is_podman:
        assert "configuration of network model" in plan.obstacles[0]
        return
    model, made = plan.networks
    assert (model["Name"], model["ConfigOnly"], model["IPAM"]) == ("model", True, net["IPAM"])
    assert (made["Name"], made["ConfigFrom"]) == ("net", {"Network": "model"})
    assert not made.get("IPAM")


def test_podmans_own_network_is_the_targets_own(target: Recorded) -> None:
    (container,) = Recorded("podman-5.8").moved("plain", target).containers
    assert container.networks == {}
    assert container.body["HostConfig"]["NetworkMode"] == "bridge"
    assert "NetworkingConfig" not in container.body


def test_a_network_of_podman_is_the_containers_on_docker() -> None:
    source, there = Recorded("podman-5.8"), Recorded("docker-28.5")
    bridge = source.api.known_networks["bridge"]
    source.api.known_networks["net"] = {
        **bridge,
        "Name": "net",
        "Options": {"mtu": "1400", "isolate": "true"},
    }
    there.api.known_networks = {}
    plan = source.moved("netted", there)
    (container,) = plan.containers
    assert container.body["HostConfig"]["NetworkMode"] == "net"
    assert container.networks["net"]["Aliases"] == ["db"]
    assert plan.networks[0]["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert "isolate" in plan.notes[0]
    assert plan.obstacles == []


def test_what_the_targets_engine_lacks_is_left_out_and_said(target: Recorded) -> None:
    source = Recorded("docker-28.5")
    host = source.containers["rich"]["HostConfig"]
    host["LogConfig"] = {"Type": "loki", "Config": {"url": "x"}}
    host["Runtime"] = "nvidia"
    plan = source.moved("rich", target)
    made = plan.containers[0].body["HostConfig"]
    assert made["LogConfig"] == {}
    assert made["Runtime"] == ""
    assert "log driver loki" in " ".join(plan.notes)


def test_an_image_of_another_id_is_the_same_image() -> None:
    """Docker's own image store and containerd's."""
    source, target = Recorded("docker-28.5"), Recorded("docker-20.10")
    target.api.known_networks = {}
    there = {**source.image, "Id": "sha256:of-the-manifest"}
    target.api.known_images = {"shop/app:1": there}
    plan = source.moved("rich", target)
    assert (plan.images, plan.containers[0].body["Image"]) == ([], "shop/app:1")
    # By digest, and sent by a run that was killed: known by another id alone.
    source.containers["rich"]["Config"]["Image"] = f"shop/app@sha256:{'0' * 64}"
    target.api.known_images = {"": there}
    plan = source.moved("rich", target)
    assert (plan.images, plan.containers[0].body["Image"]) == ([], there["Id"])
    target.api.known_images = {}
    plan = source.moved("rich", target)
    assert [each.reference for each in plan.images] == [source.containers["rich"]["Image"]]
    target.api.known_images = {"": there}
    assert known_image(target.engine, plan.images[0].details) == there["Id"]


def test_another_image_of_that_name_is_another_image() -> None:
    source, target = Recorded("docker-28.5"), Recorded("docker-20.10")
    layers = {"Type": "layers", "Layers": ["sha256:other"]}
    target.api.known_images = {"shop/app:1": {**source.image, "Id": "sha256:other", "RootFS": layers}}
    plan = source.moved("rich", target)
    assert [each.reference for each in plan.images] == [source.containers["rich"]["Image"]]


def test_engines_describe_one_image_differently_and_it_is_the_same() -> None:
    images = [Recorded(name).image for name in ("docker-20.10", "docker-28.5", "podman-5.8")]
    assert len({image["Id"] for image in images}) == len(images)
    assert all(same_image(one, other) for one in images for other in images)
    changed = copy.deepcopy(images[0])
    changed |= {"Id": "sha256:other", "Config": {**changed["Config"], "Env": ["A=2"]}}
    assert not same_image(changed, images[1])


def with_mount(options: str, **more: Any) -> Recorded:
    source = Recorded("podman-5.8")
    volume = {"Type": "volume", "Name": "vol", "Source": "/data/vol", "Destination": "/data", "RW": True}
    source.containers["plain"]["Mounts"] = [{**volume, **more}]
    source.containers["plain"]["HostConfig"]["Binds"] = [f"{more.get('Source', 'vol')}:/data:{options}"]
    return source


USUAL = "rprivate,nosuid,nodev,rbind"


@pytest.mark.parametrize(
    ("options", "obstacle"),
    [(f"O,{USUAL}", "thrown away"), (f"idmap=uids=0-100-10;gids=0-100-10,{USUAL}", "idmap")],
)
def test_a_mount_of_podman_that_would_mean_something_else_is_in_the_way(
    options: str, obstacle: str, target: Recorded
) -> None:
    plan = with_mount(options).moved("plain", target)
    assert [obstacle in each for each in plan.obstacles] == [True]


def test_what_a_container_throws_away_of_a_directory_is_not_written_into_it(target: Recorded) -> None:
    merged = "/storage/overlay/1/merge"
    source = with_mount(
        "lowerdir=/srv,upperdir=/storage/overlay/1/upper,private", Type="bind", Name="", Source=merged
    )
    plan = source.moved("plain", target)
    assert ["thrown away" in each for each in plan.obstacles] == [True]
    assert plan.containers[0].body["HostConfig"]["Mounts"] == []


def test_a_part_of_a_volume_of_podman_is_in_the_way(target: Recorded) -> None:
    source = with_mount(USUAL)
    source.api.podmans_words = {"Mounts": [{"Destination": "/data", "SubPath": "/part"}]}
    (obstacle,) = source.moved("plain", target).obstacles
    assert "/part of volume vol" in obstacle
    assert source.api.asked == [
        f"http+docker://localhost/v5.0.0/libpod/containers/{source.containers['plain']['Id']}/json"
    ]


def test_options_of_mounts_of_podman_are_said_to_be_lost(target: Recorded) -> None:
    plan = with_mount(f"noexec,U,z,{USUAL}").moved("plain", target)
    assert plan.obstacles == []
    assert ["the options noexec, U of its mount at /data" in each for each in plan.notes] == [True]
    assert with_mount(f"ro,nocopy,exec,{USUAL}").moved("plain", target).notes == []
    said = with_mount("dev,suid,rprivate,rbind").moved("plain", target).notes
    assert len(said) == target.is_podman  # volumes of Docker have both


def test_secrets_of_podman_are_in_the_way_and_named(target: Recorded) -> None:
    source = Recorded("podman-5.8")
    config = source.containers["plain"]["Config"]
    config["Env"].append("inside=*******")
    command = ["podman", "create", "--secret", "never_ran,type=env,target=PASS", "--secret=other", "app"]
    source.api.podmans_words = {"Config": {"Secrets": [{"Name": "mounted"}], "CreateCommand": command}}
    (obstacle,) = source.moved("plain", target).obstacles
    assert "(inside, mounted, never_ran, other)" in obstacle


def test_where_podmans_own_api_does_not_answer_it_is_said_and_what_docker_is_told_counts(
    target: Recorded,
) -> None:
    source = Recorded("podman-5.8")
    source.api.podmans_words = None
    plan = source.moved("plain", target)
    assert plan.obstacles == []
    assert ["libpod" in each for each in plan.notes] == [True]
    source.containers["plain"]["Config"]["Env"].append("pw=*******")
    assert ["secrets" in each for each in source.moved("plain", target).obstacles] == [True]


@pytest.mark.parametrize(
    "words", [{"Pod": "1234567890abcdef", "IsInfra": False}, {"Pod": "1", "IsInfra": True}]
)
def test_a_pod_is_in_the_way_and_nothing_of_it_is_moved(words: dict[str, Any], target: Recorded) -> None:
    source = Recorded("podman-5.8")
    source.api.podmans_words = words
    plan = source.moved("plain", target)
    assert plan.containers == []
    assert ["pod" in each for each in plan.obstacles] == [True]


def test_a_user_namespace_of_podman_is_in_the_way(target: Recorded) -> None:
    source = Recorded("podman-5.8")
    source.api.podmans_words = {"HostConfig": {"IDMappings": {"UidMap": ["0:1000:1000"], "GidMap": []}}}
    assert ["0:1000:1000" in each for each in source.moved("plain", target).obstacles] == [True]


def test_habits_that_only_podman_knows_are_said_to_be_lost(target: Recorded) -> None:
    source = Recorded("podman-5.8")
    source.api.podmans_words = {
        "Dependencies": ["some-id"],
        "Config": {"SystemdMode": True, "Umask": "0077", "Timeout": 9, "HealthcheckOnFailureAction": "kill"},
        "HostConfig": {"LogConfig": {"Tag": "a", "Size": "3MB"}, "NetworkMode": "none"},
    }
    plan = source.moved("plain", target)
    said = " ".join(plan.notes)
    for words in ("requires", "umask 0077", "timeout of 9 s", "(kill)", "tag=a", "max-size=3MB"):
        assert words in said
    assert ("systemd" in said) is not target.is_podman
    assert plan.obstacles == []


def test_what_podman_mounts_from_elsewhere_is_said(target: Recorded) -> None:
    plan = with_mount("", Type="bind", Name="", Source="ramfs").moved("plain", target)
    assert ["its ramfs at /data" in each for each in plan.notes] == [True]
    plan = with_mount("", Type="image", Name="", Source="app:1").moved("plain", target)
    assert ["the image app:1 at /data" in each for each in plan.obstacles] == [True]


def test_a_host_name_that_podman_has_made_up_is_nowhere_on_the_target(target: Recorded) -> None:
    source = Recorded("podman-5.8")
    details = source.containers["plain"]
    details["Config"]["Env"].append(f"HOSTNAME={details['Config']['Hostname']}")
    (container,) = source.moved("plain", target).containers
    assert "Hostname" not in container.body
    assert not [each for each in container.body["Env"] if each.startswith("HOSTNAME=")]


def test_a_device_of_podman_may_be_used_as_there(target: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volferry.operations.carrying.kind_of_path", lambda *_: "other")
    source = Recorded("podman-5.8")
    device = {"PathOnHost": "/dev/null", "PathInContainer": "/dev/nn", "CgroupPermissions": ""}
    source.containers["plain"]["HostConfig"]["Devices"] = [device, {**device, "CgroupPermissions": "r"}]
    host = source.moved("plain", target).containers[0].body["HostConfig"]
    assert [each["CgroupPermissions"] for each in host["Devices"]] == ["rwm", "r"]
