"""The helper's image, with no registry: a configured one, the one that we run in, or the host's own programs."""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import docker.errors

from volferry.engine.client import Engine, translated
from volferry.engine.labels import IMAGE
from volferry.errors import HelperImageError, reason

REPOSITORY = "volferry-helper"
# With these it can also say where a large file has changed; without, that is read whole.
_PYTHON_HOME = "opt/volferry"  # as in our own image
_KEPT_IMAGES = 2  # besides the one in use
_VERSION = 5  # of how the image is made
PROGRAMS = ("sh", "tar", "find", "sort", "tr", "zstd", "sleep", "sync", "chmod", "mkdir")
_SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_MODULES = ("os.py", "struct.py", "types.py", "ctypes/__init__.py", "ctypes/_endian.py")
_COMPILED = ("_ctypes", "_struct")  # or part of the interpreter itself
_ENCODINGS = ("__init__", "aliases", "utf_8", "ascii", "latin_1")
# What we use of them and other implementations lack.
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "aarch64"}
_GNU = {"tar": "GNU tar", "find": "GNU findutils", "sort": "GNU coreutils"}


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
    programs = _host_programs()
    tag = f"{REPOSITORY}:{_fingerprint(programs | _python_files())}"
    with translated("making the helper image"):
        try:
            engine.api.inspect_image(tag)
        except docker.errors.ImageNotFound:
            name, _, version = tag.partition(":")
            engine.api.import_image_from_data(
                host_root_filesystem(), repository=name, tag=version, changes=[f"LABEL {IMAGE}=helper"]
            )
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


def _host_programs() -> dict[str, Path]:
    """The name of each program -> its file on this host."""
    programs = {}
    for name in PROGRAMS:
        found = shutil.which(name, path=_SEARCH_PATH)
        if found is None:
            raise HelperImageError(
                f"no helper image: this machine has no {name!r}; install it, or set helper.image to an image that has "
                f"{', '.join(PROGRAMS)}"
            )
        programs[name] = Path(found).resolve()
    return programs


def _with_libraries(programs: dict[str, Path]) -> dict[str, Path]:
    """Path in the image -> file on this host: the programs, and the libraries that `ldd` names."""
    files = {f"bin/{name}": path for name, path in programs.items()}
    for name, path in programs.items():
        if name in _GNU and "GNU" not in _output([str(path), "--version"]):
            raise HelperImageError(
                f"no helper image: {path} is not {_GNU[name]}; set helper.image to an image that has it"
            )
        files |= _libraries(path)
    return files


def _libraries(path: Path) -> dict[str, Path]:
    """Those that `ldd` names: lines such as `libacl.so.1 => /lib/x86_64-linux-gnu/libacl.so.1 (0x…)` and `/lib64/ld-….so.2 (0x…)`."""
    found = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", _output(["ldd", str(path)]), re.MULTILINE)
    return {library.lstrip("/"): Path(library).resolve() for library in found}


def _python_files() -> dict[str, Path]:
    """The interpreter that runs us, as little of its library as it starts with, ctypes and xxhash."""
    program = Path(sys.executable).resolve()
    own = f"{_PYTHON_HOME}/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(os.__file__).parent
    modules = [library / name for name in _MODULES]
    modules += [library / "encodings" / f"{name}.py" for name in _ENCODINGS]
    files = {f"{_PYTHON_HOME}/bin/python3": program}
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


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PATH": os.defpath, "LC_ALL": "C"}
        )
    except OSError as error:
        raise HelperImageError(f"no helper image: {command[0]} cannot be run: {reason(error)}") from error
    return done.stdout


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
    files = _with_libraries(_host_programs()) | python
    for file in python.values():
        if file.suffix != ".py":
            files |= _libraries(file)
    own = f"{_PYTHON_HOME}/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for directory in ("volumes", "spool", f"{own}/lib-dynload"):
            info = tarfile.TarInfo(directory)
            info.type = tarfile.DIRTYPE
            info.mode = 0o755
            tar.addfile(info)
        for name, path in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            data = path.read_bytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
