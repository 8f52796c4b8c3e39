"""Which networks move along, and the endpoints that containers have in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from volferry.engine.carry import network_of
from volferry.engine.client import version_of

if TYPE_CHECKING:
    from volferry.engine.client import Engine
    from volferry.operations.carried import Carried

Document = dict[str, Any]

BUILT_IN = {"default", "bridge", "host", "none", "nat"}
_PODMANS_BRIDGE = "podman"  # so it is called in a container's inspection, and "bridge" elsewhere
_SHORT_ID = 12
_MAC_ADDRESS_API = (1, 44)  # since then an endpoint's, and not the container's
_SYSCTLS_API = (1, 46)
_PRIORITY_API = (1, 48)
_IPV4_API = (1, 48)
_SYSCTLS = "com.docker.network.endpoint.sysctls"
# Of bridges, macvlan and ipvlan: Docker's words, by Podman's.
_OPTIONS = {"mtu": "com.docker.network.driver.mtu", "mode": "macvlan_mode", "parent": "parent"}
_PODMANS_OPTIONS = {"mtu", "mode", "parent", "isolate", "metric", "no_default_route", "vlan"}
_TAKEN_BY_PODMAN = {*_PODMANS_OPTIONS, "com.docker.network.driver.mtu", "com.docker.network.bridge.name"}


@dataclass(slots=True)
class Networks:
    source: Engine
    target: Engine
    plan: Carried
    _fixed: set[str] = field(default_factory=set)  # in which a container has an address of its own

    def endpoints(self, name: str, details: Document) -> dict[str, Document]:
        """By network, without what the source's engine has chosen."""
        found = (details.get("NetworkSettings") or {}).get("Networks") or {}
        own = {
            network: each
            for network, each in found.items()
            if network not in BUILT_IN and not (self.source.is_podman and network == _PODMANS_BRIDGE)
        }
        chosen = self._mac_addresses(details, own)
        endpoints = {}
        for network, each in own.items():
            address = each.get("IPAMConfig") or None
            if address:
                self._fixed.add(network)
            endpoints[network] = {
                "IPAMConfig": address,
                "Aliases": self._aliases(details, each),
                "Links": None if self.target.is_podman else each.get("Links"),
                "DriverOpts": self._driver_options(name, network, each),
                **self._priority(name, network, each),
                **({"MacAddress": chosen[network]} if self._per_endpoint and network in chosen else {}),
            }
            self._network(name, network)
            if self.source.is_podman and not address:
                self.plan.notes.append(
                    f"container {name} may have an address of its own in network {network}, or a MAC address, which Podman does not tell apart from "
                    "others: the target's engine gives it some"
                )
        return endpoints

    @property
    def _per_endpoint(self) -> bool:
        return self.target.is_podman or version_of(self.target) >= _MAC_ADDRESS_API

    def of_the_bridge(self, config: Document, mode: str) -> dict[str, Document]:
        """What is to be said of the endpoint of a container that is in the engine's own network alone. A MAC address stays in the configuration
        where the target's engine looks for it there, and is taken out of it elsewhere.
        """
        if not self._per_endpoint:
            return {}
        address = config.pop("MacAddress", None)
        return {"bridge": {"MacAddress": address}} if address and mode in {"bridge", "default", ""} else {}

    def _mac_addresses(self, details: Document, own: Document) -> dict[str, str]:
        """Those that somebody has chosen, by network. What an engine shows of a running container's may be made up by it."""
        found: dict[str, str] = {}
        if (details.get("State") or {}).get("Status") == "created" and not self.source.is_podman:
            found = {network: each["MacAddress"] for network, each in own.items() if each.get("MacAddress")}
        if address := (details.get("Config") or {}).get("MacAddress"):
            mode = str((details.get("HostConfig") or {}).get("NetworkMode") or "")
            by_id = {str(each.get("NetworkID")): network for network, each in own.items()}
            main = mode if mode in own else by_id.get(mode) or next(iter(own), "")
            if main:
                found[main] = str(address)
        return found

    def _aliases(self, details: Document, endpoint: Document) -> list[str] | None:
        made_up = {str(details["Id"])[:_SHORT_ID]}
        if self.source.is_podman:
            made_up.add(str((details.get("Config") or {}).get("Hostname")))
        return [each for each in endpoint.get("Aliases") or [] if each not in made_up] or None

    def _driver_options(self, name: str, network: str, endpoint: Document) -> Document | None:
        options = dict(endpoint.get("DriverOpts") or {})
        if self.target.is_podman and options:
            self._lost(
                name, f"the options of its endpoint in network {network}, {', '.join(sorted(options))}"
            )
            return None
        if _SYSCTLS in options and version_of(self.target) < _SYSCTLS_API:
            self._lost(
                name, f"the kernel parameters of its endpoint in network {network}, {options.pop(_SYSCTLS)}"
            )
        return options or None

    def _priority(self, name: str, network: str, endpoint: Document) -> Document:
        priority = endpoint.get("GwPriority")
        if not priority:
            return {}
        if self.target.is_podman or version_of(self.target) < _PRIORITY_API:
            self._lost(
                name,
                f"the gateway priority {priority} of network {network}: its default route may be another one",
            )
            return {}
        return {"GwPriority": priority}

    def _lost(self, name: str, what: str) -> None:
        self.plan.lost(name, what)

    def _network(self, name: str, network: str) -> None:
        known = next((each for each in self.plan.networks if each["Name"] == network), None)
        if known is None:
            found = network_of(self.source, network)
            if (there := network_of(self.target, network)) is not None:
                if network in self._fixed and found is not None and _subnets(there) != _subnets(found):
                    self.plan.in_the_way(
                        name,
                        f"it has an address of its own in network {network}, which has other subnets on the target",
                    )
                return
            if found is None:
                self.plan.in_the_way(name, f"its network {network} is not on the source any longer")
                return
            if obstacle := self._obstacle(found):
                self.plan.in_the_way(
                    name, f"its network {network} {obstacle}: make that network on the target"
                )
                return
            known = self._planned(name, found)
            if found.get("Driver") in {"macvlan", "ipvlan"} or found.get("EnableIPv6"):
                self._fixed.add(network)
        if network in self._fixed and known["_ipam"]:  # its subnet matters; else it is the engine's choice
            known["IPAM"] = known["_ipam"]

    def _obstacle(self, found: Document) -> str | None:
        if found.get("Scope") == "swarm" or found.get("Driver") not in _drivers(self.target):
            return f"has the driver {found.get('Driver')}"
        ipam = str((found.get("IPAM") or {}).get("Driver") or "default")
        if not self.target.is_podman:
            # Podman says that no network has IPv4.
            without = found.get("EnableIPv4") is False and not self.source.is_podman
            if without and version_of(self.target) < _IPV4_API:
                return "has no IPv4, which the target's engine is too old for"
            return None
        if found.get("EnableIPv4") is False and not self.source.is_podman:
            return "has no IPv4, which Podman's API for Docker's clients cannot ask for"
        if (found.get("ConfigFrom") or {}).get("Network"):
            return f"is made from the configuration of network {found['ConfigFrom']['Network']}, which Podman does not have"
        if not self.source.is_podman and ipam != "default":
            return f"has its addresses from the driver {ipam}, which Podman does not have"
        return None

    def _planned(self, name: str, found: Document) -> Document:
        """Put into the plan, behind the network whose configuration it has, if any."""
        network = str(found["Name"])
        model = str((found.get("ConfigFrom") or {}).get("Network") or "")
        keys = ["Name", "Driver", "Internal", "Attachable", "EnableIPv6", "Labels"]
        planned = {key: found.get(key) for key in keys}
        planned |= {"CheckDuplicate": True, "_ipam": self._ipam(found)}
        if found.get("ConfigOnly"):
            planned |= {"ConfigOnly": True, "Options": found.get("Options"), "IPAM": found.get("IPAM")}
        elif model:  # it may say nothing of its own, then
            planned |= {"EnableIPv6": False, "ConfigFrom": {"Network": model}, "_ipam": None}
            self._model(name, model)
        else:
            planned["Options"] = self._options(network, found)
            if found.get("EnableIPv4") is False and not self.source.is_podman:
                planned["EnableIPv4"] = False
                planned["IPAM"] = planned["_ipam"]
            ipam = self._ipam(found)
            if ipam["Driver"] != "default" or ipam["Options"]:
                planned["IPAM"] = {**ipam, "Config": None}
        self.plan.networks.append(planned)
        return planned

    def _model(self, name: str, network: str) -> None:
        if network_of(self.target, network) is not None:
            return
        if any(each["Name"] == network for each in self.plan.networks):
            return
        if (found := network_of(self.source, network)) is None:
            self.plan.in_the_way(
                name,
                f"the network {network}, whose configuration its own has, is not on the source any longer",
            )
        else:
            self._planned(name, found)

    def _ipam(self, found: Document) -> Document:
        ipam = found.get("IPAM") or {}
        if self.source.is_podman:
            config = [
                {key: each[key] for key in ("Subnet", "Gateway", "IPRange") if each.get(key)}
                for each in ipam.get("Config") or []
            ]
            return {"Driver": "default", "Config": config, "Options": None}
        return {
            "Driver": ipam.get("Driver") or "default",
            "Config": ipam.get("Config"),
            "Options": ipam.get("Options"),
        }

    def _options(self, network: str, found: Document) -> Document:
        options = dict(found.get("Options") or {})
        if self.source.is_podman == self.target.is_podman:
            return options
        if self.target.is_podman:
            kept = {key: value for key, value in options.items() if key in _TAKEN_BY_PODMAN}
        else:
            kept = {
                _OPTIONS.get(key, key): value
                for key, value in options.items()
                if key not in _PODMANS_OPTIONS or key in _OPTIONS
            }
        missing = sorted(
            options.keys() - kept.keys() - {key for key, word in _OPTIONS.items() if word in kept}
        )
        # What every bridge of Docker's is, unless somebody says otherwise.
        missing = [
            key
            for key in missing
            if key not in {"com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"}
        ]
        if missing:
            self.plan.notes.append(
                f"network {network} is made without its options {', '.join(missing)}, which the target's engine does not have"
            )
        return kept


def _subnets(network: Document) -> set[str]:
    return {str(each.get("Subnet")) for each in (network.get("IPAM") or {}).get("Config") or []}


def _drivers(engine: Engine) -> list[str]:
    return list((engine.info.get("Plugins") or {}).get("Network") or ["bridge"])
