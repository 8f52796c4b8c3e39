"""What becomes of containers of Podman: its own words arrive, are in the way, or are said to be lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parts.recorded_engines import EVERY_KIND, Recorded
from volferry.engine.helper_containers import check_unchanged
from volferry.engine.volumes import list_volumes


@pytest.fixture(params=EVERY_KIND)
def target(request: pytest.FixtureRequest) -> Recorded:
    found = Recorded(request.param)
    found.api.known_networks = {}
    return found


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
        "HostConfig": {"LogConfig": {"Type": "k8s-file", "Tag": "a", "Size": "-1B"}, "NetworkMode": "none"},
    }
    plan = source.moved("plain", target)
    said = " ".join(plan.notes)
    for words in ("requires", "umask 0077", "timeout of 9 s", "(kill)", "tag=a"):
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


@pytest.mark.parametrize("address", ["", "10.9.9.7"])
def test_an_address_of_podman_may_be_lost_also_where_nothing_runs(address: str, target: Recorded) -> None:
    source = Recorded("podman-5.8")
    source.api.known_networks["net"] = {**source.api.known_networks["bridge"], "Name": "net"}
    source.containers["netted"]["NetworkSettings"]["Networks"]["net"]["IPAddress"] = address
    plan = source.moved("netted", target)
    assert ["an address of its own in network net, or a MAC address" in each for each in plan.notes] == [True]


def test_a_name_of_one_letter_is_in_the_way_on_docker(target: Recorded) -> None:
    source = Recorded("podman-5.8")
    source.containers["plain"]["Name"] = "/p"
    assert len(source.moved("plain", target).obstacles) == (not target.is_podman)


def test_options_that_podman_derives_from_others_are_none_of_the_volume() -> None:
    options = {"UID": "7", "GID": "8", "SIZE": "9", "o": "uid=7,gid=8", "type": "tmpfs", "device": "tmpfs"}
    engine = Recorded("podman-5.8").engine
    described = {"Name": "vol", "Driver": "local", "Options": options}
    engine.api.volumes = lambda: {"Volumes": [described]}
    engine.api.inspect_volume = lambda _: described
    engine.api.containers = lambda **_: []
    (volume,) = list_volumes(engine)
    assert volume.options == {"SIZE": "9", "o": "uid=7,gid=8", "type": "tmpfs", "device": "tmpfs"}
    check_unchanged(engine, [volume])  # raises if it looks like another one


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ({"Type": "k8s-file", "Tag": "", "Size": "10MB"}, {"max-size": "10m"}),
        ({"Type": "k8s-file", "Size": "2.5kB"}, {"max-size": "2.5k"}),
        ({"Type": "journald", "Tag": "app", "Size": "-1B"}, {"tag": "app"}),
        ({"Type": "k8s-file", "Tag": "", "Size": "-1B"}, None),
    ],
)
def test_log_options_that_podman_says_to_its_own_clients_are_carried(
    words: dict[str, Any], options: dict[str, str] | None
) -> None:
    source = Recorded("podman-5.8")
    driver = "journald" if words["Type"] == "journald" else "json-file"
    source.containers["plain"]["HostConfig"]["LogConfig"] = {"Type": driver, "Config": None}
    source.api.podmans_words = {"HostConfig": {"LogConfig": words}}
    plan = source.moved("plain", Recorded("docker-28.5"))
    assert plan.containers[0].body["HostConfig"]["LogConfig"] == {"Type": driver, "Config": options}
    assert plan.notes == []


def test_only_a_umask_that_somebody_has_chosen_is_lost() -> None:
    source = Recorded("podman-5.8")
    for words, said in (
        ({"Umask": "0022", "CreateCommand": ["podman"]}, 0),
        ({"Umask": "0000"}, 0),
        ({"Umask": "0000", "CreateCommand": ["podman", "run", "--umask=0"]}, 1),
    ):
        source.api.podmans_words = {"Config": words}
        assert len(source.moved("plain", Recorded("docker-28.5")).notes) == said
