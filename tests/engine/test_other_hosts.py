"""Machines whose programs are not GNU's, as their users meet them: in a mount namespace of this one, with the real programs of others."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_host_programs import SYSTEMS, part
from volferry.engine import host_programs, image
from volferry.engine.client import connect
from volferry.engine.program_probes import PROGRAMS
from volferry.errors import HelperImageError

if TYPE_CHECKING:
    from tests.parts.engine import PrivateEngine
    from tests.parts.world import World

pytestmark = pytest.mark.timeout(120)

_BINDS = """
while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 99; shift 2; done
shift
exec "$@"
"""


class Host:
    """This one, with files of others in places of its own."""

    def __init__(self, engine: PrivateEngine, directory: Path) -> None:
        self._engine = engine
        self.state = directory / "state"
        self._store = directory / "store"
        self.own = directory / "usr-local-bin"  # as /usr/local/bin, and first of all
        self.own.mkdir()
        release = directory / "os-release"
        release.write_text(SYSTEMS["ubuntu"])
        self.instead: dict[Path, Path] = {
            Path("/usr/local/bin"): self.own,
            Path("/etc/os-release").resolve(): release,
        }

    def volferry(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        binds = [str(path) for there, here in self.instead.items() for path in (here, there)]
        command = [sys.executable, "-m", "volferry", *arguments]
        environment = {
            "PATH": "/usr/bin:/bin",
            "DOCKER_HOST": self._engine.docker_host,
            "VOLFERRY_STATE_DIR": str(self.state),
            "VOLFERRY_STORE": str(self._store),
        }
        return subprocess.run(
            ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", _BINDS, "sh", *binds, "--", *command],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )


@pytest.fixture
def host(engine: PrivateEngine, tmp_path: Path) -> Host:
    return Host(engine, tmp_path)


def test_where_sort_is_not_gnu_s_the_package_is_named(host: Host, world: World) -> None:
    volume = world.filled()
    for name in ("sort", "tr"):
        host.instead[Path("/usr/bin", name).resolve()] = part("coreutils")
    for command in (["doctor"], ["backup", volume]):
        found = host.volferry(*command)
        assert found.returncode == 1
        (line,) = [each for each in (found.stdout + found.stderr).splitlines() if "no helper image" in each]
        assert "/sort: it does not sort by bytes" in line
        assert "/tr: it changes other bytes than it should" in line
        assert (
            ": apt-get install coreutils-from-gnu, or set helper.image to an image that has sh, tar" in line
        )
    assert world.own_containers() == []


def test_gnu_s_beside_it_is_taken(host: Host, world: World) -> None:
    volume = world.filled(one="1", two="2")
    odd = os.fsdecode(b"\xff\x01\n")
    (world.data(volume) / odd).write_text("3")
    for name in ("sort", "tr", "sleep", "sync", "chmod", "mkdir"):
        shutil.copy(Path("/usr/bin", name), host.own / f"gnu{name}")
        host.instead[Path("/usr/bin", name).resolve()] = part("coreutils")
    for command in (["doctor"], ["backup", volume], ["restore", volume, "--into", f"{volume}-again"]):
        found = host.volferry(*command)
        assert found.returncode == 0, found.stdout + found.stderr
    again = world.data(f"{volume}-again")
    assert {each.name: each.read_text() for each in again.iterdir()} == {"one": "1", "two": "2", odd: "3"}


def test_a_program_that_starts_another_one_is_refused(
    engine: PrivateEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Nix wraps them: where it is, it does all that is asked, and in an image it finds nothing."""
    (tmp_path / "wrapper.c").write_text(
        '#include <unistd.h>\nint main(int n, char **a) { return execv("/usr/bin/tar", a); }\n'
    )
    (tmp_path / "bin").mkdir()
    command = [str(part("gcc")), "-o", str(tmp_path / "bin/tar"), str(tmp_path / "wrapper.c")]
    subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin"})
    monkeypatch.setattr(host_programs, "_SEARCH_PATH", str(tmp_path / "bin"))
    for name in PROGRAMS:
        if name != "tar":
            (tmp_path / "bin" / name).symlink_to(Path("/usr/bin", name))
    connected = connect(engine.docker_host)
    try:
        before = connected.api.images(all=True)
        with pytest.raises(HelperImageError, match="its tar does not run in a container") as caught:
            image.helper_image(connected, configured=None, own_container_image=None)
        assert "\n" not in str(caught.value)
        assert connected.api.images(all=True) == before
    finally:
        connected.close()


def test_doctor_tries_the_programs_of_a_configured_image(world: World) -> None:
    """One that has all of the names."""
    busybox = part("busybox").read_bytes()
    root = world.directory / "root.tar"
    with tarfile.open(root, "w") as tar:
        for name in ("sh", *(each for each in PROGRAMS if each != "sh")):
            info = tarfile.TarInfo(f"bin/{name}")
            info.size, info.mode = len(busybox), 0o755
            tar.addfile(info, io.BytesIO(busybox))
    world.client.api.import_image(str(root), repository="busybox-only", tag="1")
    try:
        found = world.cli.having(VOLFERRY_HELPER__IMAGE="busybox-only:1")("doctor").exits(1)
    finally:
        world.client.api.remove_image("busybox-only:1")
    (line,) = [each for each in found.stdout.splitlines() if each.startswith("FAIL")]
    assert line.startswith("FAIL  helper: image busybox-only:1: ")
    for fault in (
        "sh: it runs programs of its own",
        "tar: it does not unpack with attributes",
        "find: it does not describe files",
        "sort: it sorts in memory alone",
    ):
        assert fault in line
