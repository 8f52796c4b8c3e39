"""volferry in a container, with its state in a volume: a process that races in a tenant's volume gets at neither that state, nor at another's data, nor
at the machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.attack.conftest import SECRET, Decoys, Outside
from tests.attack.conftest import outside as outside  # noqa: PLC0414 -- fixtures
from tests.attack.conftest import racing as racing  # noqa: PLC0414
from tests.parts.commands import executed, tried

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.parts.world import World

SOCKET = "/var/run/docker.sock"
STATE = "/var/lib/volferry"
PLACES = 4
PAIRS = 20


@pytest.mark.parametrize("channel", ["fifo", "stream"])
def test_a_tenant_gets_at_nothing_of_a_volferry_that_has_its_state_in_a_volume(
    world: World, image: str, outside: Outside, racing: Callable[..., Any], tmp_path: Path, channel: str
) -> None:
    victim, tenant, state = world.volume(), world.volume(), world.volume()
    data = world.data(tenant)
    theirs = Outside(world.data(victim) / "theirs")
    # What is in the state directory beside what volferry writes there.
    ours = Outside(world.data(state) / "canary")
    to = tmp_path / "to"  # where paths are restored to, and in which the tenant writes, too
    to.mkdir()
    volferry = world.container(
        state,
        image=image,
        entrypoint=["sleep", "infinity"],
        command=[],
        user="0:0",
        init=True,
        volumes=[
            f"{state}:{STATE}",
            f"{world.engine.docker_host.removeprefix('unix://')}:{SOCKET}",
            f"{outside.directory}:/machine",
            f"{to}:/to",
        ],
        environment={"VOLFERRY_STORE": f"{STATE}/store", "VOLFERRY_HELPER__CHANNEL": channel},
    )

    def run(*arguments: str) -> tuple[int, str]:
        code, said = tried(world.engine, volferry, "volferry", *arguments)
        assert code in {0, 1, 3}, said
        assert "Traceback" not in said
        assert "internal error" not in said
        assert "could not be kept inside" not in said
        return code, said

    # As the helper, as volferry and as the machine would see them.
    places = (Path("/volumes", victim, "theirs"), Path("/spool"), Path(STATE, "canary"), outside.directory)
    assert len(places) == PLACES
    for root in (data, to):
        for at, place in enumerate(places):
            (root / f"t{at}").mkdir()
            Decoys.make(root / f"t{at}", place, count=PAIRS, file="secret")
            for directory in (root / f"t{at}").glob("a*"):
                (directory / "1.in").write_bytes(b"planted")
                (directory / "empty").mkdir()
                (directory / "empty").chmod(0o777)
    code, said = run("backup", tenant)
    assert code == 0, said
    (backup,) = (
        executed(world.engine, volferry, "volferry", "list", tenant, "--json").decode().split('"id": "')[1:]
    )
    first = f"{tenant}@{backup.partition(chr(34))[0]}"
    pairs = tuple((f"t{at}/a{each:03}", f"t{at}/z{each:03}") for at in range(PLACES) for each in range(PAIRS))
    names = [world.name() for _ in range(2)]
    with racing(data, Decoys(pairs)), racing(to, Decoys(pairs)):
        run("backup", tenant, victim)
        run("restore", first, "--replace")
        run("restore", first, "t0", "t2", "--replace")
        run("restore", first, "--to", "/to", "--replace")
        run("restore", first, "t2", "t3", "--to", "/to", "--replace")
        run("import", tenant, "--into", names[0])
        run("import", "--container", f"{volferry.name}:/to/t2", "--into", names[1])
    for each in (theirs, ours):
        each.check()
    for name in (tenant, *filter(world.exists, names)):
        assert SECRET not in contents(world.data(name))
    assert SECRET not in contents(to)
    executed(world.engine, volferry, "volferry", "restore", tenant, "--into", (last := world.name()))
    assert SECRET not in contents(world.data(last))
    assert world.own_containers() == []


def contents(root: Path) -> bytes:
    files = (each for each in root.rglob("*") if not each.is_symlink() and each.is_file())
    return b"".join(each.read_bytes() for each in files)
