"""Which networks move along, and the endpoints that containers have in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from volferry.engine.carry import network_of

if TYPE_CHECKING:
    from volferry.engine.client import Engine
    from volferry.operations.carried import Carried

Document = dict[str, Any]

BUILT_IN = {"default", "bridge", "host", "none", "nat"}
_SHORT_ID = 12


@dataclass(slots=True)
class Networks:
    source: Engine
    target: Engine
    plan: Carried
    _fixed: set[str] = field(default_factory=set)  # in which a container has an address of its own

    def endpoints(self, name: str, details: Document) -> dict[str, Document]:
        """Endpoints by network, without what the source's engine has chosen."""
        endpoints: dict[str, Document] = {}
        for network, found in ((details.get("NetworkSettings") or {}).get("Networks") or {}).items():
            if network in BUILT_IN:
                continue
            own = found.get("IPAMConfig") or None
            if own:
                self._fixed.add(network)
            endpoints[network] = {
                "IPAMConfig": own,
                "Aliases": [a for a in found.get("Aliases") or [] if a != str(details["Id"])[:_SHORT_ID]]
                or None,
                "Links": found.get("Links"),
                "DriverOpts": found.get("DriverOpts"),
            }
            self._network(name, network)
        return endpoints

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
            if found.get("Scope") == "swarm" or found.get("Driver") not in _drivers(self.target):
                self.plan.in_the_way(
                    name,
                    f"its network {network} has the driver {found.get('Driver')}: make that network on the target",
                )
                return
            known = {
                key: found.get(key)
                for key in ("Name", "Driver", "Internal", "Attachable", "EnableIPv6", "Options", "Labels")
            }
            known["CheckDuplicate"] = True
            known["_ipam"] = found.get("IPAM")
            self.plan.networks.append(known)
            if found.get("Driver") in {"macvlan", "ipvlan"} or found.get("EnableIPv6"):
                self._fixed.add(network)
        if network in self._fixed:  # its subnet matters; else it is the engine's choice
            known["IPAM"] = known["_ipam"]


def _subnets(network: Document) -> set[str]:
    return {str(each.get("Subnet")) for each in (network.get("IPAM") or {}).get("Config") or []}


def _drivers(engine: Engine) -> list[str]:
    return list((engine.info.get("Plugins") or {}).get("Network") or ["bridge"])
