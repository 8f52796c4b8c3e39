"""Engines that people have, each from the Debian that has it: Docker and Podman, of several years and in several set-ups.

Their programs are in root file systems, made once by mmdebstrap (some 25 s and 600 MB each) and kept for later runs, also for those of other checkouts.
A later state of a Debian that moves on is had by removing its directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.parts.debian import debootstrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VARIABLE = "ENGINE_UNDER_TEST"
NEWEST = "docker"
MACHINE = "machine"  # the machine's own dockerd, whatever that is
_KEPT = Path("/var/tmp/volferry-engine-roots")
_NOT_NEEDED = ("doc", "man", "locale", "info", "bash-completion")
_PACKAGES = "docker.io,docker-compose,podman,crun,runc,iptables,iproute2,uidmap,slirp4netns,rootlesskit,fuse-overlayfs,ca-certificates,nftables,procps"
_MORE_PACKAGES = {
    "bookworm": "",
    "trixie": ",docker-cli,netavark,aardvark-dns,passt,catatonit",
    "sid": ",docker-cli,netavark,aardvark-dns,passt,catatonit,rust-coreutils",
}
# Several engines on one machine would share locks that are in memory.
_PODMAN_SETTINGS = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
tmp_dir = "{place}/run/libpod"
[network]
network_config_dir = "{place}/networks"
"""
# Of the user whose rootless engines are, and the ids of other users that are his.
USER, USER_NAME = 4242, "volferry-tests"
FIRST_SUBORDINATE, SUBORDINATES = 200_000, 65_536


@dataclass(frozen=True, slots=True)
class Edition:
    name: str
    suite: str | None  # of Debian; None for the machine's own programs
    program: Literal["dockerd", "podman"] = "dockerd"
    settings: Mapping[str, Any] = field(default_factory=dict)  # of daemon.json
    rootless: bool = False

    @property
    def remapped(self) -> bool:
        """Whether ids in containers are others outside of them."""
        return self.rootless or "userns-remap" in self.settings


EDITIONS = {
    edition.name: edition
    for edition in (
        Edition(NEWEST, "sid"),
        Edition("docker-26", "trixie"),
        Edition("docker-20.10", "bookworm"),
        Edition("docker-containerd", "sid", settings={"features": {"containerd-snapshotter": True}}),
        Edition("docker-userns", "sid", settings={"userns-remap": USER_NAME}),
        Edition("docker-rootless", "sid", rootless=True),
        Edition("podman", "sid", "podman"),
        Edition("podman-5.4", "trixie", "podman"),
        Edition("podman-rootless", "sid", "podman", rootless=True),
        Edition(MACHINE, None),
    )
}


def chosen_edition() -> Edition:
    """The one that the tests are run on."""
    return EDITIONS[os.environ.get(VARIABLE) or NEWEST]


def root_of(suite: str | None) -> Path:
    """Made if need be."""
    if suite is None:
        return Path("/")
    packages = _PACKAGES + _MORE_PACKAGES[suite]
    digest = hashlib.sha256(f"1 {suite} {packages}".encode()).hexdigest()[:12]
    root = _KEPT / f"{suite}-{digest}"
    if root.exists():
        return root
    _KEPT.mkdir(exist_ok=True)
    with _alone(_KEPT / f"{suite}.lock"):
        if not root.exists():
            new = root.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            unwanted = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _NOT_NEEDED]
            debootstrapped(suite, packages, str(_KEPT), new, unwanted)
            new.rename(root)
    return root


def make_settings(root: Path, edition: Edition, place: Path) -> None:
    """At `place`, before its first start: a copy of the root's `/etc`, with a user whose rootless engines are, and what else the engine needs."""
    shutil.copytree(root / "etc", place / "etc", symlinks=True)
    user = f"{USER_NAME}:x:{USER}:{USER}"
    for file, line in {
        "passwd": f"{user}::/:/bin/sh",
        "group": f"{USER_NAME}:x:{USER}:",
        "subuid": f"{USER_NAME}:{FIRST_SUBORDINATE}:{SUBORDINATES}",
        "subgid": f"{USER_NAME}:{FIRST_SUBORDINATE}:{SUBORDINATES}",
    }.items():
        path = place / "etc" / file
        before = path.read_text() if path.exists() else ""
        path.write_text(before + line + "\n")
    if edition.program == "podman":
        containers = place / "etc" / "containers"
        containers.mkdir(exist_ok=True)
        (containers / "containers.conf").write_text(_PODMAN_SETTINGS.format(place=place))
    # an explicit file: /etc/docker/daemon.json is the machine's own
    (place / "daemon.json").write_text(json.dumps(dict(edition.settings)))
    for directory in ("run", "data", "exec"):
        (place / directory).mkdir()
        if edition.rootless:
            os.chown(place / directory, USER, USER)
    if edition.rootless or edition.remapped:
        place.chmod(0o711)
    if edition.rootless:
        os.chown(place, USER, USER)


def command_of(edition: Edition, place: Path, options: Sequence[str]) -> list[str]:
    """That becomes the engine, in its root file system."""
    socket = f"unix://{place}/docker.sock"
    if edition.program == "podman":
        command = [
            "podman",
            f"--root={place}/data",
            f"--runroot={place}/exec",
            "--storage-driver=overlay",
            *options,
            *("system", "service", "--time=0", socket),
        ]
    else:
        command = [
            "dockerd",
            f"--config-file={place}/daemon.json",
            f"--data-root={place}/data",
            f"--exec-root={place}/exec",
            f"--pidfile={place}/docker.pid",
            f"--host={socket}",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            *options,
        ]
    if not edition.rootless:
        return command
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    if edition.program == "podman":
        return [*as_user, *command]
    # With the machine's own network, dockerd fails at each question about its version.
    rootless = [
        "rootlesskit",
        f"--state-dir={place}/run/rootlesskit",
        *("--net=slirp4netns", "--mtu=65520", "--disable-host-loopback"),
        *("--copy-up=/etc", "--copy-up=/run"),
    ]
    return [*as_user, *rootless, "--propagation=rslave", *command, "--rootless"]


def environment_of(edition: Edition, place: Path) -> dict[str, str]:
    """The engine's."""
    # The machine's own may be in directories that its root file system does not have.
    found = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
    if edition.program == "podman":
        found["TMPDIR"] = f"{place}/run"  # it leaves there what was imported
    if edition.rootless:
        found |= {"HOME": str(place), "XDG_RUNTIME_DIR": f"{place}/run"}
    return found


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
