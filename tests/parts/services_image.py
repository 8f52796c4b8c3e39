"""An image with PostgreSQL and Redis, made of the machine's own packages: no registry is needed, and nothing is installed twice."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from tests.parts.room import roomy_directory

if TYPE_CHECKING:
    from collections.abc import Iterable

    import docker

POSTGRES_USER = 70
_POSTGRES = ("postgres", "initdb", "psql", "pg_dump", "pg_restore", "pg_isready")
_OTHERS = ("sh", "sleep", "redis-server", "redis-cli")
_NOT_NEEDED = ("llvmjit", "bitcode", "/locale/", "/man/")
_ZONES = ("UTC", "GMT", "Etc")
_ACCOUNTS = {
    "etc/passwd": f"root:x:0:0::/:/bin/sh\npostgres:x:{POSTGRES_USER}:{POSTGRES_USER}::/:/bin/sh\n",
    "etc/group": f"root:x:0:\npostgres:x:{POSTGRES_USER}:\n",
}
# What is mounted there for the first time belongs to the user that it is for.
_DIRECTORIES = {"tmp": 0o1777, "run/postgresql": 0o755, "var/lib/postgresql/data": 0o700, "data": 0o755}


def import_services(client: docker.DockerClient, image: str) -> None:
    """Makes `image` on an engine."""
    programs = _programs()
    server = programs["postgres"].parent.parent  # /usr/lib/postgresql/15
    with NamedTemporaryFile(dir=roomy_directory()) as file:
        with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
            for directory, mode in _DIRECTORIES.items():
                info = tarfile.TarInfo(directory)
                info.type, info.mode = tarfile.DIRTYPE, mode
                info.uid = info.gid = POSTGRES_USER
                tar.addfile(info)
            for name, text in _ACCOUNTS.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
            for path in _with_libraries(programs.values()):
                tar.add(path, str(path).lstrip("/"))
            for program in ("sh", "sleep"):  # wherever the machine has them
                if programs[program] != Path("/bin") / program:
                    tar.add(programs[program], f"bin/{program}")
            zones = [Path("/usr/share/zoneinfo") / zone for zone in _ZONES]
            for tree in (server / "lib", Path("/usr/share/postgresql") / server.name, *zones):
                tar.add(tree, str(tree).lstrip("/"), filter=_wanted)
        file.flush()
        client.api.import_image_from_file(
            file.name,
            repository=image,
            tag="latest",
            changes=[f"ENV PATH={server}/bin:/usr/bin:/bin", "ENV PGDATA=/var/lib/postgresql/data"],
        )


def _programs() -> dict[str, Path]:
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    assert servers, "PostgreSQL is missing; get it with: apt-get install postgresql"
    found = {name: servers[-1] / name for name in _POSTGRES}
    for name in _OTHERS:
        program = shutil.which(name)
        assert program, f"{name} is missing; get it with: apt-get install redis-server"
        found[name] = Path(program)
    return found


def _with_libraries(programs: Iterable[Path]) -> list[Path]:
    paths = [str(path) for path in programs]
    said = subprocess.run(["ldd", *paths], check=True, capture_output=True, text=True).stdout
    libraries = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", said, re.MULTILINE)
    return [Path(path) for path in dict.fromkeys([*paths, *libraries])]


def _wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if any(part in f"/{info.name}/" for part in _NOT_NEEDED) else info
