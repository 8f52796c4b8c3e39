"""The helper's image, with no registry: a configured one, the one that we run in, or the host's own programs."""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import secrets
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import docker.errors
from docker.types import LogConfig

from volferry.engine.client import Engine, explanation, translated
from volferry.engine.host_programs import (
    OTHER_WAY,
    called_file,
    candidates,
    host_programs,
    libraries,
    loader_of,
)
from volferry.engine.labels import IMAGE, NOBODY, OWNER, ROLE, RUN
from volferry.engine.program_probes import PROGRAMS
from volferry.errors import HelperImageError

REPOSITORY = "volferry-helper"
# With these it can also say where a large file has changed; without, that is read whole.
_PYTHON_HOME = "opt/volferry"  # as in our own image
_PYTHON = f"{_PYTHON_HOME}/bin/python3"
_KEPT_IMAGES = 2  # besides the one in use
_VERSION = 6  # of how the image is made
# With each, that it starts and does something; the first status says which one does not.
_FIRST_STATUS = 10
_TRIES = {
    "sh": "sh -c :",
    "tar": "tar -c -f - -T /dev/null",
    "find": "find / -maxdepth 0",
    "sort": "sort",
    "tr": "tr a b",
    "zstd": "zstd -q -c",
    "sleep": "sleep 0",
    "sync": "sync -f /",
    "chmod": "chmod 755 /spool",
    "mkdir": "mkdir /spool/tried",
}
_MODULES = ("os.py", "struct.py", "types.py", "ctypes/__init__.py", "ctypes/_endian.py")
_COMPILED = ("_ctypes", "_struct")  # or part of the interpreter itself
_ENCODINGS = ("__init__", "aliases", "utf_8", "ascii", "latin_1")
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "aarch64"}


def helper_image(engine: Engine, *, configured: str | None, own_container_image: str | None) -> str:
    """Name or id of an image that holds the programs. Raises HelperImageError with what to do."""
    for image in (configured, own_container_image):
        if image:
            with translated(f"helper image {image}"):
                try:
                    engine.api.inspect_image(image)
                except docker.errors.NotFound as error:
                    raise HelperImageError(
                        f"the helper image {image!r} is not on {engine.url}: pull or load it, or unset helper.image"
                    ) from error
            return image
    _check_architecture(engine)
    tag = f"{REPOSITORY}:{_fingerprint(_possible_programs() | _python_files())}"
    with translated("making the helper image"):
        try:
            engine.api.inspect_image(tag)
        except docker.errors.ImageNotFound:
            name, _, version = tag.partition(":")
            engine.api.import_image_from_data(
                host_root_filesystem(), repository=name, tag=version, changes=[f"LABEL {IMAGE}=helper"]
            )
            _check_runs(engine, tag)
            _remove_older(engine, tag)
    return tag


def _check_architecture(engine: Engine) -> None:
    """This machine's programs must run on that of the engine."""
    here, there = platform.machine(), str(engine.info.get("Architecture") or "")
    if (
        not engine.shares_our_kernel
        and there
        and _ARCHITECTURES.get(here, here) != _ARCHITECTURES.get(there, there)
    ):
        raise HelperImageError(
            f"no helper image: {engine.url} is {there} and this machine is {here}; set helper.image to an image that is "
            f"there and has {', '.join(PROGRAMS)}"
        )


def _possible_programs() -> dict[str, Path]:
    """Those among which `host_programs` chooses, which takes it a tenth of a second."""
    return {f"{name} {path}": path.resolve() for name, paths in candidates().items() for path in paths}


def _check_runs(engine: Engine, tag: str) -> None:
    """Starts each of its programs once: one may need more of this machine than its libraries. Raises HelperImageError, and then the image is gone."""
    tries = " ".join(
        f"{_TRIES[name]} || exit {number};" for number, name in enumerate(PROGRAMS, _FIRST_STATUS)
    )
    found = engine.api.create_container(
        tag,
        command=["sh", "-c", f"exec </dev/null >/dev/null 2>&1; {tries}"],
        labels={ROLE: "carrier", RUN: secrets.token_hex(6), OWNER: NOBODY},
        environment={"LC_ALL": "C", "PATH": "/bin"},
        network_disabled=True,
        host_config=engine.api.create_host_config(network_mode="none", log_config=LogConfig(type="none")),
    )
    status, said = 0, ""
    try:
        engine.api.start(found["Id"])
        status = int(engine.api.wait(found["Id"])["StatusCode"])
    except docker.errors.APIError as error:
        status, said = 1, f" ({explanation(error)})"
    finally:
        engine.api.remove_container(found["Id"], force=True, v=True)
    if status:
        engine.api.remove_image(tag, force=True)
        number = status - _FIRST_STATUS
        name = PROGRAMS[number] if 0 <= number < len(PROGRAMS) else "sh"
        raise HelperImageError(
            f"no helper image of this machine's programs: its {name} does not run in a container, for it needs more than its libraries{said}: {OTHER_WAY}"
        )


def _remove_older(engine: Engine, tag: str) -> None:
    """Images made from programs that the host has since replaced; those still in use stay. So do the newest of the others: they may be those of
    another volferry on this engine, with another Python, which would make its own again at each of its runs, and remove ours.
    """
    others = [
        (image.get("Created", 0), other)
        for image in engine.api.images(name=REPOSITORY)
        for other in image.get("RepoTags") or []
        # Podman writes the registry of a short name before it: `docker.io/library/` or `localhost/`.
        if other != tag and not other.endswith(f"/{tag}")
    ]
    for _, other in sorted(others, reverse=True)[_KEPT_IMAGES:]:
        try:
            engine.api.remove_image(other)
        except docker.errors.APIError:
            continue


def _python_files() -> dict[str, Path]:
    """The interpreter that runs us, as little of its library as it starts with, ctypes and xxhash."""
    program = called_file(Path(sys.executable))
    if program is None:  # whatever starts it is of this machine
        return {}
    own = _python_library()
    library = Path(os.__file__).parent
    modules = [library / name for name in _MODULES]
    modules += [library / "encodings" / f"{name}.py" for name in _ENCODINGS]
    files = {_PYTHON: program}
    files |= {f"{own}/{module.relative_to(library)}": module for module in modules}
    for compiled in map(importlib.util.find_spec, _COMPILED):
        if compiled is not None and compiled.has_location and compiled.origin:
            files[f"{own}/lib-dynload/{Path(compiled.origin).name}"] = Path(compiled.origin)
    package = importlib.util.find_spec("xxhash")
    for place in (package.submodule_search_locations or []) if package is not None else []:
        for file in Path(place).iterdir():
            if file.suffix in {".py", ".so"}:
                files[f"{own}/site-packages/xxhash/{file.name}"] = file
    return files


def _python_library() -> str:
    return f"{_PYTHON_HOME}/lib/python{sys.version_info.major}.{sys.version_info.minor}"


def _fingerprint(files: dict[str, Path]) -> str:
    digest = sha256(b"%d\n" % _VERSION)
    for name, path in sorted(files.items()):
        stat = path.stat()
        digest.update(f"{name} {path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def host_root_filesystem() -> bytes:
    """A root filesystem, as a tar: this host's own programs, their libraries, and the directories that things are
    mounted on. Raises HelperImageError.
    """
    python = _python_files()
    programs = host_programs()
    files = {f"bin/{name}": path for name, path in programs.items()} | python
    for path in set(programs.values()):
        files |= libraries(path)
    loader = loader_of(python[_PYTHON]) if python else ""
    for file in python.values() if loader else ():
        if file.suffix != ".py":
            files |= libraries(file, loader)
    out = io.BytesIO()
    there: dict[Path, str] = {}
    with tarfile.open(fileobj=out, mode="w") as tar:
        for directory in ("volumes", "spool", f"{_python_library()}/lib-dynload"):
            info = tarfile.TarInfo(directory)
            info.type = tarfile.DIRTYPE
            info.mode = 0o755
            tar.addfile(info)
        for name, path in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if path in there:  # one program that is many, or a library by its other path
                info.type, info.linkname = tarfile.LNKTYPE, there[path]
                tar.addfile(info)
                continue
            there[path] = name
            data = path.read_bytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
