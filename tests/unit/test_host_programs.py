"""Which of a machine's programs go into the helper's image: real ones of other kinds than GNU's, under any name."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from volferry.archive import commands
from volferry.engine import host_programs, image, program_probes
from volferry.engine.program_probes import PROGRAMS
from volferry.errors import HelperImageError

# command -> package
PARTS = {
    "busybox": "busybox-static",
    "toybox": "toybox",
    "bsdtar": "libarchive-tools",
    "coreutils": "rust-coreutils",
    "musl-gcc": "musl-tools",
    "gcc": "gcc",
}
SYSTEMS = {
    "debian": 'ID=debian\nVERSION_ID="12"\n',
    "mint": "# Mint\nID=linuxmint\nID_LIKE=ubuntu\n",
    "ubuntu": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="26.04"\n',
    "alpine": "ID=alpine\n",
    "rocky": 'ID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "arch": "ID=arch\n",
    "other": "ID=other\n",
}


def part(command: str) -> Path:
    """Where Debian's package has it, whatever comes first on PATH."""
    found = shutil.which(command, path="/usr/bin:/bin")
    assert found is not None, f"{command} is missing; get it with: apt-get install {PARTS[command]}"
    return Path(found)


class Machine:
    """One that has the programs of this one, but for some."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.programs = directory / "bin"
        self.programs.mkdir()
        self._release = directory / "os-release"
        self.system("debian")
        patch.setattr(host_programs, "_SEARCH_PATH", str(self.programs))
        patch.setattr(host_programs, "_OS_RELEASE", (str(self._release),))
        patch.setenv("PATH", str(self.programs))
        for name in PROGRAMS:
            self.has(name, Path("/usr/bin", name))

    def system(self, name: str) -> None:
        self._release.write_text(SYSTEMS[name])

    def has(self, name: str, program: Path) -> None:
        self.lacks(name)
        (self.programs / name).symlink_to(program)

    def lacks(self, name: str) -> None:
        (self.programs / name).unlink(missing_ok=True)

    def refusal(self) -> str:
        with pytest.raises(HelperImageError) as caught:
            image.host_root_filesystem()
        text = str(caught.value)
        assert "\n" not in text
        assert text.endswith(f"or {host_programs.OTHER_WAY}")
        return text


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("name", "program", "fault"),
    [
        ("sort", "coreutils", "it does not sort by bytes"),
        ("tr", "coreutils", "it changes other bytes than it should"),
        ("tar", "bsdtar", "it does not unpack with attributes"),
        ("tar", "busybox", "it does not unpack with attributes"),
        ("tar", "toybox", "it does not unpack with attributes"),
        ("find", "busybox", "it does not describe files"),
        ("find", "toybox", "it does not describe files"),
        ("sort", "busybox", "it sorts in memory alone"),
        ("sync", "toybox", "it does not say what it failed at"),
    ],
)
def test_a_program_that_does_something_else_is_refused(
    machine: Machine, name: str, program: str, fault: str
) -> None:
    machine.has(name, part(program))
    text = machine.refusal()
    assert f"{machine.programs / name}: {fault}" in text
    package = {"sh": "dash", "tar": "tar", "find": "findutils"}.get(name, "coreutils")
    assert f": apt-get install {package}, or set helper.image" in text


def test_a_shell_that_is_all_programs_at_once_is_refused(machine: Machine) -> None:
    """Debian's busybox runs its own `find`, whatever the image has."""
    machine.has("sh", part("busybox"))
    assert f"{machine.programs / 'sh'}: it runs programs of its own in place of others" in machine.refusal()
    machine.has("dash", Path("/usr/bin/dash"))
    assert host_programs.host_programs()["sh"] == Path("/usr/bin/dash").resolve()


@pytest.mark.parametrize("name", ["tr", "sleep", "sync", "chmod", "mkdir"])
def test_one_that_does_the_same_will_do(machine: Machine, name: str) -> None:
    machine.has(name, part("busybox"))
    assert host_programs.host_programs()[name] == part("busybox").resolve()


@pytest.mark.parametrize("prefix", ["gnu", "g"])
def test_gnu_s_are_found_under_their_other_names(machine: Machine, prefix: str) -> None:
    for name in ("sort", "tr", "sleep", "sync", "chmod", "mkdir"):
        machine.has(name, part("coreutils"))
        machine.has(f"{prefix}{name}", Path("/usr/bin", name))
    machine.has("tar", part("bsdtar"))
    machine.has("gtar", Path("/usr/bin/tar"))
    chosen = host_programs.host_programs()
    assert chosen == {name: Path("/usr/bin", name).resolve() for name in PROGRAMS}


def test_what_only_calls_a_program_that_is_missing_is_not_blamed(machine: Machine) -> None:
    (machine.programs / "find").unlink()
    text = machine.refusal()
    assert "there is no find: " in text
    assert "not found" not in text
    assert "chmod:" not in text


def test_all_that_is_lacking_is_said_at_once(machine: Machine) -> None:
    machine.system("alpine")
    for name in PROGRAMS:
        machine.has(name, part("busybox"))
    machine.lacks("zstd")
    text = machine.refusal()
    assert "there is no zstd" in text
    assert ": apk add dash tar findutils coreutils zstd, or set helper.image" in text


@pytest.mark.parametrize(
    ("system", "advice"),
    [
        ("debian", "apt-get install coreutils zstd"),
        ("ubuntu", "apt-get install coreutils-from-gnu zstd"),
        ("mint", "apt-get install coreutils-from-gnu zstd"),
        ("alpine", "apk add coreutils zstd"),
        ("rocky", "dnf install coreutils zstd"),
        ("arch", "pacman -S coreutils zstd"),
        ("other", "install GNU's coreutils, zstd"),
    ],
)
def test_the_packages_are_those_of_the_system(machine: Machine, system: str, advice: str) -> None:
    machine.system(system)
    machine.has("sort", part("coreutils"))
    machine.lacks("zstd")
    assert f": {advice}, or set helper.image" in machine.refusal()


def test_a_script_is_no_program(machine: Machine) -> None:
    wrapper = machine.programs / "tar"
    machine.lacks("tar")
    wrapper.write_text('#!/bin/sh\nexec /usr/bin/tar "$@"\n')
    wrapper.chmod(0o755)
    assert f"{wrapper} is a script" in machine.refusal()
    machine.has("gnutar", Path("/usr/bin/tar"))
    assert host_programs.host_programs()["tar"] == Path("/usr/bin/tar").resolve()


class Root:
    """What the image holds, as a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        with tarfile.open(fileobj=io.BytesIO(image.host_root_filesystem())) as tar:
            tar.extractall(directory, filter="fully_trusted")  # noqa: S202 -- of this machine's own files

    def runs(self, name: str, *arguments: str, given: bytes = b"") -> bytes:
        command = ["/usr/sbin/chroot", str(self._directory), f"/bin/{name}", *arguments]
        return subprocess.run(command, input=given, capture_output=True, check=True, env={}).stdout


def test_one_program_that_is_many_works_by_each_name(machine: Machine, tmp_path: Path) -> None:
    for name in ("sleep", "sync", "chmod", "mkdir"):
        machine.has(name, part("coreutils"))
    machine.has("tr", part("busybox"))
    root = Root(tmp_path / "root")
    assert (
        root.runs("sh", "-c", "/bin/mkdir /new && /bin/chmod 500 /new && /bin/sleep 0.01 && /bin/sync -f /")
        == b""
    )
    assert (tmp_path / "root/new").stat().st_mode & 0o777 == 0o500
    assert root.runs("tr", r"/\001", r"\001/", given=b"a/\1") == b"a\1/"
    names = [(tmp_path / "root/bin" / name).stat().st_ino for name in ("sleep", "sync", "chmod", "mkdir")]
    assert len(set(names)) == 1


def test_that_is_called_by_scripts_too(machine: Machine, tmp_path: Path) -> None:
    machine.lacks("sleep")
    script = machine.programs / "sleep"
    script.write_text(f"#!{part('coreutils')} --coreutils-prog-shebang=sleep\n")
    script.chmod(0o755)
    assert host_programs.host_programs()["sleep"] == part("coreutils").resolve()
    assert Root(tmp_path / "root").runs("sleep", "0.01") == b""


SLEEP = """
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **arguments) { return count == 2 ? usleep(atof(arguments[1]) * 1e6) : 1; }
"""


@pytest.mark.parametrize("options", [[], ["-static"]])
@pytest.mark.parametrize("compiler", ["musl-gcc", "gcc"])
def test_programs_bring_their_own_libc(
    machine: Machine, tmp_path: Path, compiler: str, options: list[str]
) -> None:
    path = part(compiler)
    (tmp_path / "sleep.c").write_text(SLEEP)
    program = tmp_path / "sleep"
    subprocess.run(
        [path, *options, "-o", program, tmp_path / "sleep.c"], check=True, env={"PATH": "/usr/bin:/bin"}
    )
    machine.has("sleep", program)
    needs = host_programs.libraries(program)
    loaders = [name for name in needs if "/ld-" in name]
    assert ["musl" in name for name in loaders] == ([] if options else [compiler == "musl-gcc"])
    assert Root(tmp_path / "root").runs("sleep", "0.01") == b""


def test_a_library_is_found_without_the_machine_s_cache(machine: Machine, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    compile_: list[str | Path] = [part("gcc"), "-o"]
    (tmp_path / "nap.c").write_text("#include <unistd.h>\nint nap(double s) { return usleep(s * 1e6); }\n")
    (tmp_path / "sleep.c").write_text(
        SLEEP.replace("usleep(atof(arguments[1]) * 1e6)", "nap(atof(arguments[1]))")
    )
    path = {"PATH": "/usr/bin:/bin"}
    command = [*compile_, own / "libnap.so", "-shared", "-fPIC", tmp_path / "nap.c"]
    subprocess.run(command, check=True, env=path)
    link: list[str | Path] = [
        "-include",
        tmp_path / "nap.h",
        tmp_path / "sleep.c",
        f"-L{own}",
        "-lnap",
        f"-Wl,-rpath,{own}",
    ]
    (tmp_path / "nap.h").write_text("int nap(double);\n")
    subprocess.run([*compile_, tmp_path / "sleep", *link], check=True, env=path)
    machine.has("sleep", tmp_path / "sleep")
    needs = host_programs.libraries(tmp_path / "sleep")
    assert needs["lib/libnap.so"] == needs[f"{own}/libnap.so".lstrip("/")] == own / "libnap.so"
    assert Root(tmp_path / "root").runs("sleep", "0.01") == b""


def test_a_library_that_is_not_there_is_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "empty.c").write_text("int nothing;\n")
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    library, program = tmp_path / "libgone.so", tmp_path / "sleep"
    path = {"PATH": "/usr/bin:/bin"}
    subprocess.run([part("gcc"), "-shared", "-o", library, tmp_path / "empty.c"], check=True, env=path)
    link = ["-Wl,--no-as-needed", f"-L{tmp_path}", "-lgone"]
    subprocess.run([part("gcc"), "-o", program, tmp_path / "main.c", *link], check=True, env=path)
    library.unlink()
    with pytest.raises(HelperImageError, match=r"libgone\.so"):
        host_programs.libraries(program)


def test_what_is_possible_is_what_the_image_is_named_for(machine: Machine) -> None:
    """So nothing need be tried where there is one."""
    first = image._possible_programs()
    machine.has("gnusort", Path("/usr/bin/sort"))
    assert image._possible_programs() == first, "the same program by another name"
    machine.has("gnusort", part("coreutils"))
    assert image._possible_programs() != first


def test_every_option_of_tar_is_tried() -> None:
    """The engine's layer knows no commands of the archive's."""
    asked = {
        option
        for command in (
            commands.create_command("x", holes=True, links=False),
            commands.extract_command("x", flushed=False),
            commands.foreign_extract_command("x", 1),
            commands.modes_command("x"),
        )
        for option in command[command.index("tar") + 1 :]
    }
    tried = {*program_probes.CREATE, *program_probes.EXTRACT, program_probes.HARD_DEREFERENCE}
    assert _general(asked) <= _general(tried)
    assert commands.LIST_FORMAT == program_probes._FIND_FORMAT


def _general(options: set[str]) -> set[str]:
    return {re.sub(r"^(--(?:directory|blocking-factor))=.*", r"\1", option) for option in options} - {
        "--directory"
    }


def test_what_cannot_be_tried_says_why(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"{machine.programs}/none")
    with pytest.raises(HelperImageError, match="cannot be tried"):
        host_programs.host_programs()
