"""Settings of Podman's containers that Docker's API cannot express: the plan names them, since nothing else would show that they are missing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from volferry.engine.carry import podmans_words

if TYPE_CHECKING:
    from volferry.engine.client import Engine
    from volferry.operations.carried import Carried

Document = dict[str, Any]

_HIDDEN = "=*******"  # in the environment, with a secret's name
_ANOTHER_WAY = "leave out --with-containers, and make the container there yourself"
# What Podman says of each mount, and what becomes of it anyway: whether it is read-only, and propagation of binds.
_USUAL = {
    "rbind", "bind", "rprivate", "private", "rshared", "shared", "rslave", "slave", "runbindable", "unbindable",
    "ro", "rw", "nosuid", "nodev", "exec", "copy", "nocopy",
}  # fmt: skip
_DOCKERS_OWN = {"suid", "dev"}  # which Podman takes away from volumes, and Docker does not
_SHARED_LABEL = "z"  # as every volume has
_SIZE = re.compile(
    r"([0-9.]+)([kMGT]?)B"
)  # as "10MB", of a million bytes each, as in Docker's "10m"; "-1B" for none
_PLAIN_UMASK = {"", "0022", "022", "22"}


@dataclass(slots=True)
class FromPodman:
    source: Engine
    target: Engine
    plan: Carried
    _unheard: bool = False

    def looked_at(self, name: str, details: Document) -> Document | None:
        """What of the container's description can be made on the target; None if nothing. Says what is missing, or in the way."""
        said = podmans_words(self.source, str(details["Id"]))
        if said is None:
            if not self._unheard:
                self._unheard = True
                self.plan.notes.append(
                    "Podman's own API cannot be asked: a proxy before it has to allow GET /v…/libpod/containers/…/json. What only that tells of containers, "
                    "such as secrets, pods, parts of volumes and user namespaces, may be missing on the target"
                )
            said = {}
        if said.get("IsInfra"):
            self.plan.in_the_way(name, f"it holds a pod together, which does not move along: {_ANOTHER_WAY}")
            return None
        if pod := str(said.get("Pod") or ""):
            self.plan.in_the_way(
                name,
                f"it is in pod {pod[:12]}, which does not move along: `podman kube generate` describes the pod, and `podman kube play` makes it elsewhere",
            )
            return None
        config, host = said.get("Config") or {}, said.get("HostConfig") or {}
        self._secrets(name, details, config)
        mounts = self._mounts(name, details, said)
        maps = host.get("IDMappings") or {}
        if ids := maps.get("UidMap") or maps.get("GidMap"):
            self.plan.in_the_way(
                name,
                f"it has a user namespace with ids of its own ({', '.join(map(str, ids))[:60]}), so that its files would be somebody else's: {_ANOTHER_WAY}",
            )
        self._habits(name, said, config, host)
        shown = details.get("HostConfig") or {}
        log = {
            **(shown.get("LogConfig") or {}),
            "Config": self._log_options(name, host.get("LogConfig") or {}),
        }
        return {**details, "Mounts": mounts, "HostConfig": {**shown, "LogConfig": log}}

    def _secrets(self, name: str, details: Document, config: Document) -> None:
        environment = (details.get("Config") or {}).get("Env") or []
        names = {each.removesuffix(_HIDDEN) for each in environment if each.endswith(_HIDDEN)}
        names |= {str(each.get("Name")) for each in config.get("Secrets") or []}
        # Of one that has never run, an environment's secrets are nowhere else.
        command = [str(each) for each in config.get("CreateCommand") or []]
        given = [
            after if each == "--secret" else each.removeprefix("--secret=")
            for each, after in pairwise([*command, ""])
            if each == "--secret" or each.startswith("--secret=")
        ]
        names |= {each.partition(",")[0] for each in given}
        if names:
            self.plan.in_the_way(
                name,
                f"it has secrets, which no engine gives away ({', '.join(sorted(names))}): {_ANOTHER_WAY}",
            )

    def _mounts(self, name: str, details: Document, said: Document) -> list[Document]:
        """Those that can be made on the target."""
        kept = []
        binds = (details.get("HostConfig") or {}).get("Binds") or []
        parts = {str(each.get("Destination")): each.get("SubPath") for each in said.get("Mounts") or []}
        for mount in details.get("Mounts") or []:
            place = str(mount.get("Destination"))
            what = str(mount.get("Name") or mount.get("Source") or "")
            if mount.get("Type") not in {"volume", "bind", "tmpfs"}:
                self.plan.in_the_way(
                    name, f"it mounts the {mount.get('Type')} {what} at {place}: {_ANOTHER_WAY}"
                )
                continue
            options = _options_of(binds, what, place)
            if "O" in options or any(each.startswith("upperdir=") for each in options):
                self.plan.in_the_way(
                    name,
                    f"what it writes to {place} is thrown away (the mount option O), and would be written into the data on the target: {_ANOTHER_WAY}",
                )
                continue
            if mount.get("Type") == "bind" and not what.startswith("/"):
                self._without(name, f"its {what} at {place}")
                continue
            kept.append(mount)
            if any(each.partition("=")[0] == "idmap" for each in options):
                self.plan.in_the_way(
                    name, f"its mount at {place} has other owners than the data (idmap): {_ANOTHER_WAY}"
                )
            if str(parts.get(place) or "").strip("/."):
                self.plan.in_the_way(
                    name,
                    f"it mounts only {parts[place]} of volume {what}, and would get all of it: {_ANOTHER_WAY}",
                )
            usual = _USUAL | (set() if self.target.is_podman else _DOCKERS_OWN)
            usual |= {_SHARED_LABEL} if mount.get("Type") == "volume" else set()
            left = [each for each in options if each not in usual and not each.startswith("idmap")]
            if left:
                self._without(name, f"the options {', '.join(left)} of its mount at {place}")
        return kept

    def _habits(self, name: str, said: Document, config: Document, host: Document) -> None:
        if said.get("Dependencies") and not _shares(host):
            self._without(name, "the containers that it requires to run")
        if config.get("SystemdMode") and not self.target.is_podman:
            self._without(name, "what Podman sets up for systemd in it")
        # It says 0000 of what was made by Docker's API, which has none of its own.
        plain = _PLAIN_UMASK if config.get("CreateCommand") else {*_PLAIN_UMASK, "0000"}
        if (umask := str(config.get("Umask") or "")) not in plain:
            self._without(name, f"the umask {umask}")
        if config.get("Timeout"):
            self._without(name, f"the timeout of {config['Timeout']} s")
        if (action := str(config.get("HealthcheckOnFailureAction") or "none")) != "none":
            self._without(name, f"the action when it is not healthy ({action})")
        if config.get("StartupHealthCheck"):
            self._without(name, "the health check of its start")

    def _log_options(self, name: str, log: Document) -> Document | None:
        """In Docker's words, which Podman does not say to Docker's clients."""
        options = {}
        size = _SIZE.fullmatch(str(log.get("Size") or ""))
        if size and float(size[1]) > 0:  # 5.4 says 0B where there is none
            options["max-size"] = "".join(size.groups()).lower()
        if tag := log.get("Tag"):
            if log.get("Type") == "journald":
                options["tag"] = tag
            else:  # one that it never started with
                self._without(name, f"the log option tag={tag}")
        return options or None

    def _without(self, name: str, what: str) -> None:
        self.plan.notes.append(
            f"container {name} is made without {what}: Docker's API, by which it is made, cannot ask for that"
        )


def _options_of(binds: list[str], what: str, place: str) -> list[str]:
    """Of `what:place:options`."""
    start = f"{what}:{place}:"
    found = next((each for each in binds if each.startswith(start)), "")
    return [each for each in found.removeprefix(start).split(",") if each]


def _shares(host: Document) -> bool:
    """A container depends on those whose network and the like it has, which is carried."""
    modes = (str(host.get(key) or "") for key in ("NetworkMode", "PidMode", "IpcMode", "UTSMode"))
    return any(mode.startswith("container:") for mode in modes)
