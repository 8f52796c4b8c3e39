"""What a container becomes on another engine, by inspections that were recorded from Docker 20.10 and 28.5, and Podman 5.8."""

from __future__ import annotations

import copy

import pytest

from tests.parts.recorded_engines import EVERY_KIND, Recorded
from volferry.operations.carried_images import known_image, same_image

MAC = "02:42:ac:11:00:99"


@pytest.fixture(params=EVERY_KIND)
def target(request: pytest.FixtureRequest) -> Recorded:
    found = Recorded(request.param)
    found.api.known_networks = {}
    return found


@pytest.mark.parametrize("source", EVERY_KIND)
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


def test_what_podman_would_refuse_or_pass_over_is_left_out_and_said(target: Recorded) -> None:
    source = Recorded("docker-28.5")
    details = source.containers["rich"]
    details["Config"]["Domainname"] = "some.domain"
    log = {"max-size": "5m", "tag": "app", "labels": "x"}
    details["HostConfig"] |= {
        "IpcMode": "host",
        "ShmSize": 64 << 20,
        "Runtime": "io.containerd.kata.v2",
        "LogConfig": {"Type": "json-file", "Config": log},
        "Tmpfs": {"/scratch2": "size=1m,uid=5,noexec,nr_inodes=9"},
        "DeviceRequests": [
            {"Driver": "", "Count": -1, "Capabilities": [["gpu"]]},
            {"Driver": "cdi", "DeviceIDs": ["vendor.com/net=1"]},
        ],
    }
    plan = source.moved("rich", target)
    (container,) = plan.containers
    host, said = container.body["HostConfig"], " ".join(plan.notes)
    assert plan.obstacles == []
    assert "the runtime io.containerd.kata.v2" in said
    if not target.is_podman:
        assert container.body["Domainname"] == "some.domain"
        assert (host["ShmSize"], host["LogConfig"]["Config"]) == (64 << 20, log)
        assert host["Tmpfs"] == {"/scratch2": "size=1m,uid=5,noexec,nr_inodes=9"}
        assert len(host["DeviceRequests"]) == 2
        assert "without the devices" not in said
        return
    assert "Domainname" not in container.body
    assert (host["ShmSize"], host["LogConfig"]["Config"]) == (0, {"max-size": "5m"})
    assert host["Tmpfs"] == {"/scratch2": "size=1m,noexec"}
    assert [each["Driver"] for each in host["DeviceRequests"]] == ["cdi"]
    for words in (
        "the domain name some.domain", "the log options labels=x, tag=app", "the devices it asks for (gpu)",
        "the options uid=5, nr_inodes=9 of the tmpfs at /scratch2", "catatonit",
    ):  # fmt: skip
        assert words in said


def test_a_tag_of_the_journal_is_kept_on_podman() -> None:
    source = Recorded("docker-28.5")
    journal = {"Type": "journald", "Config": {"tag": "app"}}
    source.containers["rich"]["HostConfig"]["LogConfig"] = journal
    target = Recorded("podman-5.8")
    target.api.known_networks = {}
    (container,) = source.moved("rich", target).containers
    assert container.body["HostConfig"]["LogConfig"] == journal


def test_options_of_tmpfs_that_an_engine_passes_over_are_said(target: Recorded) -> None:
    source = Recorded("docker-28.5")
    for mount in source.containers["rich"]["HostConfig"]["Mounts"]:
        if mount["Type"] == "tmpfs":
            mount["TmpfsOptions"]["Options"] = [["uid", "5"], ["noexec"]]
    plan = source.moved("rich", target)
    (options,) = [
        each["TmpfsOptions"]
        for each in plan.containers[0].body["HostConfig"]["Mounts"]
        if each["Type"] == "tmpfs"
    ]
    knows = target.api.api_version == "1.51"
    assert ("Options" in options) is knows
    assert ("the options uid=5, noexec of the tmpfs at /scratch" in " ".join(plan.notes)) is not knows


@pytest.mark.parametrize("by_id_first", [True, False])
def test_an_image_that_is_used_by_name_and_by_id_is_sent_once(by_id_first: bool, target: Recorded) -> None:
    source = Recorded("docker-28.5")
    other = copy.deepcopy(source.containers["rich"])
    named = other["Config"]["Image"]
    changed = source.containers["rich"] if by_id_first else other
    changed["Config"]["Image"] = changed["Image"]
    other |= {"Id": "b" * 64, "Name": "/second"}
    source.api.inspect_image = lambda _: {**source.image, "Id": other["Image"]}  # type: ignore[assignment,method-assign]
    plan = source.moved("rich", target, other)
    assert [each.reference for each in plan.images] == [named]
    assert [each.body["Image"] for each in plan.containers] == [named, named]
