"""What a container is made with, in the words of the target's engine: products and versions differ in what they take, and in what they say of themselves."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from volferry.engine.client import version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.engine.client import Engine

Document = dict[str, Any]

# Podman's words for what Docker does by itself, and says nothing of.
_PODMANS_DEFAULTS = {"PidMode": "private", "UTSMode": "private", "UsernsMode": "private", "Runtime": "oci"}
_PODMANS_ENVIRONMENT = {"container=podman", "container=oci"}
_PODMANS_ANNOTATIONS = (
    "io.podman.",
    "io.container.",
    "io.kubernetes.cri-o.",
    "org.opencontainers.image.",
    "org.systemd.",
)
_PODMANS_TMPFS = {"tmpcopyup", "notmpcopyup", "private", "rprivate", "shared", "rshared", "slave", "rslave"}
_PODMANS_SECURITY = ("mask=", "unmask=", "proc-opts=")
_TMPFS_OF_PODMAN = {
    "rw", "ro", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "noswap", "size", "mode",
}  # fmt: skip
_TMPFS_OPTIONS_API = (1, 46)
_LOG_OF_PODMAN = {"max-size", "path", "tag"}
# To these, Podman's conmon writes, which ends at once if it is given a tag.
_LOG_FILES_OF_PODMAN = {"json-file", "k8s-file"}
# What runs containers where nobody has chosen something else.
_USUAL_RUNTIMES = {"", "runc", "crun", "oci", "io.containerd.runc.v2"}
_DOCKERS_SECURITY = ("seccomp=builtin", "seccomp={", "writable-cgroups")
_DOCKERS_USER_NAMESPACES = {"", "host"}
_START_INTERVAL_API = (1, 44)
_ANNOTATIONS_API = (1, 43)


def adapted(
    config: Document, host: Document, source: Engine, target: Engine, lost: Callable[[str], None]
) -> None:
    """Changes both. `lost` is told what the target's engine cannot do."""
    if target.is_podman:
        _for_podman(config, host, lost)
    else:
        _for_docker(config, host, target, lost)
    if target.is_podman or version_of(target) < _TMPFS_OPTIONS_API:
        _without_options_of_tmpfs(host, lost)
    _logging(host, target, lost)
    if source.is_podman != target.is_podman and host.get("StorageOpt"):
        lost(f"the storage options {_text(host.pop('StorageOpt'))}")


def without_podmans_own(config: Document, host: Document) -> None:
    """Without what Podman adds when it makes a container, and the target would take for somebody's wish. `config` still has its host name."""
    made_up = _PODMANS_ENVIRONMENT | {f"HOSTNAME={config.get('Hostname')}"}
    config["Env"] = [each for each in config.get("Env") or [] if each not in made_up]
    number = str(config.get("StopSignal") or "")
    if number.isdigit() and int(number) in set(signal.Signals):
        config["StopSignal"] = signal.Signals(int(number)).name
    for key, value in _PODMANS_DEFAULTS.items():
        if host.get(key) == value:
            del host[key]
    if host.get("MemorySwappiness") in {0, -1}:  # it says so where nothing was chosen
        host["MemorySwappiness"] = None
    if host.get("NanoCpus"):  # the same, said twice
        host["CpuPeriod"] = host["CpuQuota"] = 0
    if not host.get("Memory"):
        host["MemorySwap"] = 0
    host["Ulimits"] = [
        {**each, "Name": str(each.get("Name") or "").removeprefix("RLIMIT_").lower()}
        for each in host.get("Ulimits") or []
    ]
    for each in host.get("Devices") or []:  # it says nothing of what it allows unless somebody chose that
        each["CgroupPermissions"] = each.get("CgroupPermissions") or "rwm"
    host["Annotations"] = {
        key: value
        for key, value in (host.get("Annotations") or {}).items()
        if not key.startswith(_PODMANS_ANNOTATIONS)
    }
    host["Tmpfs"] = {
        place: ",".join(each for each in str(options).split(",") if each not in _PODMANS_TMPFS)
        for place, options in (host.get("Tmpfs") or {}).items()
    }


def _for_podman(config: Document, host: Document, lost: Callable[[str], None]) -> None:
    if config.get("NetworkDisabled"):  # which it does not look at
        host["NetworkMode"] = "none"
    if host.get("Links"):
        lost(f"the links {_text(host['Links'])}")
        host["Links"] = None
    if domain := config.pop("Domainname", None):  # it takes it, and does nothing with it
        lost(f"the domain name {domain}")
    if (runtime := str(host.get("Runtime") or "")) not in _USUAL_RUNTIMES:
        lost(f"the runtime {runtime}")
    host["Runtime"] = ""
    if host.get("IpcMode") == "host":  # Docker says a size all the same, which Podman refuses
        host["ShmSize"] = 0
    for place, options in (host.get("Tmpfs") or {}).items():
        given = [each for each in str(options).split(",") if each]
        known = [each for each in given if each.partition("=")[0] in _TMPFS_OF_PODMAN]
        host["Tmpfs"][place] = ",".join(known)
        if unknown := [each for each in given if each not in known]:
            lost(f"the options {', '.join(unknown)} of the tmpfs at {place}")
    host["Isolation"] = ""
    _security(host, _DOCKERS_SECURITY, lost)


def _for_docker(config: Document, host: Document, target: Engine, lost: Callable[[str], None]) -> None:
    _security(host, _PODMANS_SECURITY, lost)
    mode = str(host.get("UsernsMode") or "")
    if mode not in _DOCKERS_USER_NAMESPACES:
        lost(f"the user namespace {mode}")
        host["UsernsMode"] = ""
    network = str(host.get("NetworkMode") or "")
    if network.partition(":")[0] in {"pasta", "slirp4netns", "ns", "private"}:
        lost(f"the network mode {network}")
        host["NetworkMode"] = "default"
    runtimes = target.info.get("Runtimes")
    if host.get("Runtime") and runtimes and host["Runtime"] not in runtimes:
        lost(f"the runtime {host['Runtime']}")
        host["Runtime"] = ""
    if host.get("Annotations") and version_of(target) < _ANNOTATIONS_API:
        lost(f"the annotations {_text(host.pop('Annotations'))}")
    check = config.get("Healthcheck") or {}
    if check.get("StartInterval") and version_of(target) < _START_INTERVAL_API:
        lost("the start interval of its health check")
        config["Healthcheck"] = {key: value for key, value in check.items() if key != "StartInterval"}


def _security(host: Document, unknown: tuple[str, ...], lost: Callable[[str], None]) -> None:
    options = host.get("SecurityOpt") or []
    for each in options:
        if each.startswith(unknown):
            lost(f"the security option {each[:60]}")
    host["SecurityOpt"] = [each for each in options if not each.startswith(unknown)] or None


def _without_options_of_tmpfs(host: Document, lost: Callable[[str], None]) -> None:
    """Of `--mount type=tmpfs`, which engines that do not know them pass over."""
    for mount in host.get("Mounts") or []:
        if options := (mount.get("TmpfsOptions") or {}).pop("Options", None):
            said = ", ".join("=".join(each) for each in options)
            lost(f"the options {said} of the tmpfs at {mount.get('Target')}")


def _logging(host: Document, target: Engine, lost: Callable[[str], None]) -> None:
    driver = str((host.get("LogConfig") or {}).get("Type") or "")
    there = (target.info.get("Plugins") or {}).get("Log")
    # Podman takes Docker's default for its own; "none" is no plugin.
    if driver and there and driver not in {*there, "none", "json-file" if target.is_podman else "none"}:
        lost(f"the log driver {driver}")
        host["LogConfig"] = {}
    elif target.is_podman:
        known = _LOG_OF_PODMAN - ({"tag"} if driver in _LOG_FILES_OF_PODMAN else set())
        options = (host.get("LogConfig") or {}).get("Config") or {}
        if unknown := {key: value for key, value in options.items() if key not in known}:
            lost(f"the log options {_text(unknown)}")
            host["LogConfig"]["Config"] = {key: options[key] for key in options.keys() & known}


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in sorted(value.items()))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
