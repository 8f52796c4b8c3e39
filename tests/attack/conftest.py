"""A place outside of every target, and processes that race from inside of a volume."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.local_helper import LocalHelper
from tests.parts.read_only_mounts import confined_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.parts.local_helper import LocalProcess

SECRET = b"access_key = 'of the machine, and of nobody in a container'"
_LONG_AGO = 1_600_000_000

# Exchanges each of its pairs, again and again.
_RACER = r"""
import ctypes, os, sys
exchange = ctypes.CDLL(None).renameat2
os.chdir(sys.argv[1])
names = list(map(os.fsencode, sys.argv[2:]))
pairs = list(zip(names[::2], names[1::2]))
print(flush=True)
while True:
    for one, other in pairs:
        exchange(-100, one, -100, other, 2)
"""


class Outside:
    """A directory with a secret in a file and an empty directory, neither of which ever changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.secret = directory / "secret"
        self.empty = directory / "empty"
        self.empty.mkdir(parents=True)
        self.secret.write_bytes(SECRET)
        self.secret.chmod(0o600)
        for each in (self.secret, self.empty, directory):
            os.utime(each, (_LONG_AGO, _LONG_AGO))
        self._before = self._look()

    def _look(self) -> dict[str, tuple[object, ...]]:
        found = {}
        for each in (self.directory, *sorted(self.directory.rglob("*"))):
            now = each.lstat()
            content = each.read_bytes() if each.is_file() else b""
            found[each.name] = (
                now.st_mode, now.st_uid, now.st_gid, now.st_nlink, now.st_mtime_ns, content, *os.listxattr(each),
            )  # fmt: skip
        return found

    def check(self) -> None:
        assert self._look() == self._before


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    found = Outside(tmp_path / "machine")
    yield found
    found.check()


class ConfinedHelper(LocalHelper):
    """Its processes can change the volume alone, as those in a helper's container can."""

    def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
        program = "/bin/sh"
        return super().start(
            confined_command(str(self._directory), program, ["sh", "-c", 'exec "$@"', "sh", *command]), **more
        )


@dataclass(frozen=True, slots=True)
class Decoys:
    """Directories with a file each, and as many symlinks: a race has as many chances to be won."""

    pairs: tuple[tuple[str, str], ...]

    @staticmethod
    def make(
        volume: Path, to: Path, *, count: int = 200, file: str = "x", content: bytes = b"planted"
    ) -> Decoys:
        pairs = tuple((f"a{number:03}", f"z{number:03}") for number in range(count))
        for directory, link in pairs:
            (volume / directory).mkdir()
            (volume / directory / file).write_bytes(content)
            (volume / link).symlink_to(to)
        return Decoys(pairs)


@pytest.fixture
def racing() -> Callable[..., Any]:
    @contextmanager
    def race(volume: Path, decoys: Decoys) -> Iterator[None]:
        names = [name for pair in decoys.pairs for name in pair]
        with subprocess.Popen(
            [sys.executable, "-c", _RACER, str(volume), *names], stdout=subprocess.PIPE
        ) as racer:
            assert racer.stdout is not None
            racer.stdout.readline()
            try:
                yield
            finally:
                racer.kill()

    return race
