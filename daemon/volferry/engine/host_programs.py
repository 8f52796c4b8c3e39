"""The machine's own programs, for the helper's image: which of those that it has do the work, and the libraries that they need.

What has a program's name may be another kind of it (uutils, busybox), a script that starts the program from a place that no image
has, or one program that acts by the name it is called by. The real one is often there under another name.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.engine.program_probes import PROGRAMS, Ran, fault_of, faults_of_their_own
from volferry.errors import HelperImageError, reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SEARCH_PATH = (
    "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/run/current-system/sw/bin:/run/current-system/profile/bin"
)
# GNU's, where another kind has the plain name.
_PREFIXES = ("", "gnu", "g")
_SHELLS = ("sh", "dash", "bash")
# How one that is all of coreutils is called where there are no links to it.
_CALLS_COREUTILS = re.compile(rb"#! ?(/\S+) --coreutils-prog-shebang=\S+\s")
_PROBE_SECONDS = 30
_ELF = b"\x7fELF"
_INTERPRETER_HEADER = 3  # PT_INTERP

_PACKAGES = {"tar": "tar", "find": "findutils", "zstd": "zstd", "sh": "dash"}  # others are of coreutils
_GNU_AGAIN = "coreutils-from-gnu"  # on systems of apt that come with uutils
_OTHERS = ("GNU", "BusyBox", "toybox")  # name themselves; not each uutils does
# By ID and ID_LIKE of os-release(5).
_INSTALL = {
    "debian": "apt-get install",
    "ubuntu": "apt-get install",
    "alpine": "apk add",
    "fedora": "dnf install",
    "rhel": "dnf install",
    "arch": "pacman -S",
    "suse": "zypper install",
    "opensuse": "zypper install",
}
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
OTHER_WAY = f"set helper.image to an image that has {', '.join(PROGRAMS)}"


def candidates() -> dict[str, list[Path]]:
    """For each of PROGRAMS, the files that have its name, or GNU's other ones, in the order in which they are tried."""
    found: dict[str, list[Path]] = {}
    for name in PROGRAMS:
        found[name] = _named(name, _SEARCH_PATH) or _named(name, os.environ.get("PATH", os.defpath))
    return found


def _named(name: str, path: str) -> list[Path]:
    names = _SHELLS if name == "sh" else [f"{prefix}{name}" for prefix in _PREFIXES]
    found: dict[Path, Path] = {}  # one place may be a link to another (usrmerge)
    for each in names:
        for place in filter(None, path.split(":")):
            if (file := shutil.which(each, path=place)) is not None:
                found.setdefault(Path(file).resolve(), Path(file))
    return list(found.values())


def host_programs() -> dict[str, Path]:
    """The name of each program -> the file on this machine that does the work when it is called by that name. Raises HelperImageError, which
    names all that is lacking, and the packages.
    """
    found = candidates()
    faults: dict[str, str] = {}
    # They try each other: a shell calls `find`, which sees what `mkdir` has made.
    chosen = {name: program for name in PROGRAMS for program in map(called_file, found[name][:1]) if program}
    try:
        with tempfile.TemporaryDirectory(prefix="volferry-") as directory:
            for name in PROGRAMS:
                program, fault = _choice(name, found[name], Path(directory, name), chosen)
                if program is not None:
                    chosen[name] = program
                else:
                    faults[name] = fault
    except OSError as error:
        raise HelperImageError(f"no helper image: its programs cannot be tried: {reason(error)}") from error
    if faults:
        faults = faults_of_their_own(faults, [name for name in PROGRAMS if not found[name]])
        raise HelperImageError(
            f"no helper image of this machine's programs: {'; '.join(faults.values())}: {_advice(faults, found)}"
        )
    return chosen


def _choice(
    name: str, paths: Sequence[Path], directory: Path, others: Mapping[str, Path]
) -> tuple[Path | None, str]:
    """The first that does the work, GNU's before any other; or what is wrong with the one that has the plain name."""
    fault = f"there is no {name}"
    ordered = paths
    if len(paths) > 1 and name != "sh":
        ordered = sorted(paths, key=lambda path: "GNU" not in _version(path))
    faults = {}
    for number, path in enumerate(ordered):
        program = called_file(path)
        if program is None:
            faults[path] = f"{path} is a script"
            continue
        names, work = directory / f"names-{number}", directory / f"work-{number}"
        names.mkdir(parents=True)
        work.mkdir()
        for other, there in {**others, name: program}.items():
            (names / other).symlink_to(there)
        fault = fault_of(name, _Runner(names), str(work), os.geteuid())
        if not fault:
            return program, ""
        faults[path] = f"{path}: {fault}"
    return None, faults[paths[0]] if paths else fault


class _Runner:
    """Runs programs of the machine by the names that they get in the image."""

    def __init__(self, names: Path) -> None:
        self._environment = {"PATH": str(names), "LC_ALL": "C"}

    def __call__(self, command: Sequence[str], stdin: bytes, /) -> Ran:
        program = shutil.which(command[0], path=self._environment["PATH"])
        if program is None:
            return Ran(127, b"", f"there is no {command[0]}".encode())
        try:
            done = subprocess.run(
                command,
                executable=program,
                input=stdin,
                capture_output=True,
                check=False,
                env=self._environment,
                timeout=_PROBE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Ran(1, b"", b"it does not end")
        except OSError as error:
            return Ran(126, b"", reason(error).encode())
        return Ran(done.returncode, done.stdout, done.stderr)


def called_file(path: Path) -> Path | None:
    """The program that runs when `path` does; None for a script, whose program is somewhere else."""
    file = path.resolve()
    with file.open("rb") as opened:
        begin = opened.read(256)
    if begin.startswith(_ELF):
        return file
    if (all_of_them := _CALLS_COREUTILS.match(begin)) is not None:
        return Path(os.fsdecode(all_of_them[1])).resolve()
    return None


def libraries(program: Path, loader: str = "") -> dict[str, Path]:
    """Path in the image -> file on this machine: what the program's own loader says that it loads, and the loader. None for one that is statically
    linked. What a program loads by itself has no loader of its own.
    """
    loader = loader or loader_of(program)
    if not loader:
        return {}
    try:
        done = subprocess.run(
            [loader, "--list", str(program)],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            timeout=_PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HelperImageError(f"no helper image: {loader} cannot be run: {error}") from error
    found = {loader: Path(loader)}
    # `libacl.so.1 => /lib/x86_64-linux-gnu/libacl.so.1 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`; both sides can be paths.
    for name, path in re.findall(r"^\s*(\S+)(?: => (/\S+))? \(0x", done.stdout, re.MULTILINE):
        if path:
            # The image has no cache of the loader's, which may have led to it.
            found.setdefault(name if name.startswith("/") else f"/lib/{name}", Path(path))
            found[path] = Path(path)
        elif name.startswith("/"):
            found[name] = Path(name)
    if done.returncode or "not found" in done.stdout:
        lacking = " ".join(re.findall(r"(\S+) => not found", done.stdout)) or done.stderr.strip()
        raise HelperImageError(f"no helper image: {program} lacks a library: {lacking}")
    return {name.lstrip("/"): path.resolve() for name, path in found.items()}


def loader_of(program: Path) -> str:
    """The loader that an ELF file names (elf(5)); empty for one that has none."""
    with program.open("rb") as file:
        head = file.read(64)
        if not head.startswith(_ELF):
            return ""
        wide, order = head[4] == 2, "<" if head[5] == 1 else ">"  # ELFCLASS64, ELFDATA2LSB
        offset = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
        size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
        for number in range(count):
            file.seek(offset + number * size)
            header = file.read(size)
            if struct.unpack_from(order + "I", header)[0] == _INTERPRETER_HEADER:
                layout = order + ("Q" if wide else "I")
                at = struct.unpack_from(layout, header, 8 if wide else 4)[0]
                length = struct.unpack_from(layout, header, 32 if wide else 16)[0]
                file.seek(at)
                return os.fsdecode(file.read(length).rstrip(b"\0"))
    return ""


def _advice(faults: Mapping[str, str], found: Mapping[str, Sequence[Path]]) -> str:
    system = _os_release()
    kinds = [system.get("ID", ""), *system.get("ID_LIKE", "").split()]
    install = next((_INSTALL[kind] for kind in kinds if kind in _INSTALL), "")
    packages = dict.fromkeys(_package(name, found, install, kinds) for name in faults)
    wanted = f"{install} {' '.join(packages)}" if install else f"install GNU's {', '.join(packages)}"
    return f"{wanted}, or {OTHER_WAY}"


def _package(name: str, found: Mapping[str, Sequence[Path]], install: str, kinds: Sequence[str]) -> str:
    package = _PACKAGES.get(name, "coreutils")
    if package == "coreutils" and install.startswith("apt") and kinds[0] != "debian":
        said = [_version(path) for path in found[name]]
        if said and not any(sign in each for each in said for sign in _OTHERS):
            return _GNU_AGAIN
    return package


def _version(path: Path) -> str:
    try:
        done = subprocess.run(
            [str(path), "--version"], capture_output=True, check=False, env={}, timeout=_PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).decode(errors="replace")


def _os_release() -> dict[str, str]:
    for path in _OS_RELEASE:
        try:
            lines = Path(path).read_text(errors="replace").splitlines()
        except OSError:
            continue
        pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
        return {name.strip(): " ".join(shlex.split(value, comments=False)) for name, _, value in pairs}
    return {}
