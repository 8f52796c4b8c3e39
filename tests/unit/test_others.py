"""Other volferrys on an engine are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tests.unit.test_ours import LABELS, listed
from volferry.engine.labels import OWNER
from volferry.engine.others import others

if TYPE_CHECKING:
    from volferry.engine.client import Engine


class FakeEngine:
    def __init__(self, *containers: dict[str, Any]) -> None:
        self.api = self
        self._containers = [*containers]

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return self._containers

    def inspect_image(self, _: str) -> dict[str, Any]:
        return {"Config": {"Labels": {}}}


def named(*containers: dict[str, Any]) -> list[str]:
    return others(cast("Engine", FakeEngine(*containers)), LABELS[OWNER], ["ours"])


def daemon(ident: str, command: str, name: str = "theirs") -> dict[str, Any]:
    return {"Id": ident, "Names": [f"/{name}"], "Labels": {}, "Command": command, "State": "running"}


def test_ours_are_none_of_them() -> None:
    assert named(listed(), listed("carrier"), daemon("ours", "volferry daemon")) == []
    assert named(listed(Labels={**LABELS, OWNER: "0" * 16})) == []  # whoever died there


def test_a_run_of_another_state_directory() -> None:
    theirs = listed(Labels={**LABELS, OWNER: "f" * 16})
    carrier = listed("carrier", Labels={**LABELS, OWNER: "f" * 16, "volferry.role": "carrier"})
    assert named(listed(), theirs, carrier) == [
        "another volferry (state directory ffffffffffffffff, run 0123456789ab) is at work on this engine"
    ]
    assert named({**theirs, "Command": "postgres"}) == []  # it only says so


def test_a_daemon_in_a_container() -> None:
    for command in (
        "volferry daemon",
        "/opt/volferry/bin/volferry daemon",
        "/sbin/docker-init -- volferry daemon",
    ):
        assert named(daemon("other", command)) == [
            "container theirs is a daemon of volferry, and works with this engine, too"
        ]
    assert named(daemon("other", "volferry list"), daemon("third", "notvolferry daemon")) == []
