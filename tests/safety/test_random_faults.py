"""Random trees, errors of `tar` and `find`, and deletions while a backup reads: whatever happens, a backup that is listed can be restored, and names what it lacks."""

from __future__ import annotations

import errno
import os
import random
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.faults import environment, fault
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.restoring import restored_whole
from tests.safety.test_early_ends import Warm
from tests.safety.test_read_faults import present
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.model import BackupStats
    from volferry.repository import Repository

pytestmark = pytest.mark.usefixtures("trusting")

CASES = 24
NIGHTS = 3
CALLS = ("open", "read", "stat", "lstat", "readdir", "llistxattr")
NUMBERS = (errno.EIO, errno.ENOENT, errno.EACCES, errno.ESTALE, errno.EBUSY)


@dataclass
class Tree:
    root: Path
    rng: random.Random
    directories: list[str] = field(default_factory=lambda: [""])
    files: list[str] = field(default_factory=list)

    def grow(self) -> None:
        for _ in range(self.rng.randrange(3, 14)):
            above = self.rng.choice(self.directories)
            path = f"{above}/" * bool(above) + self.rng.choice("abcdez") + str(self.rng.randrange(6))
            if not os.path.lexists(self.root / path):
                self._make(path)

    def _make(self, path: str) -> None:
        place = self.root / path
        match self.rng.choice(("directory", "file", "holes", "holes", "name", "symlink", "many")):
            case "directory":
                place.mkdir()
                self.directories.append(path)
                return
            case "many":
                place.mkdir()
                self.directories.append(path)
                for number in range(self.rng.choice((3, 60))):
                    (place / f"n{number}").write_text(str(number))
                    self.files.append(f"{path}/n{number}")
                return
            case "file":
                place.write_bytes(self.rng.randbytes(self.rng.choice((0, 5, 3000, 300_000))))
            case "holes":
                with place.open("wb") as file:
                    file.truncate(5 << 20)
                    file.seek(self.rng.randrange(4 << 20))
                    file.write(b"content")
            case "name" if self.files:
                place.hardlink_to(self.root / self.rng.choice(self.files))
            case _:
                place.symlink_to("nowhere")
                return
        self.files.append(path)

    def change(self) -> None:
        self.directories = [path for path in self.directories if (self.root / path).exists()]
        self.files = [path for path in self.files if (self.root / path).exists()]
        for path in self.rng.sample(self.files, min(3, len(self.files))):
            with (self.root / path).open("r+b") as file:
                file.write(self.rng.randbytes(10))

    def explains(self, finding: str, path: str) -> bool:
        """A finding is of what is below it, too, and of other names of its file."""
        one, other = self.root / finding, self.root / path
        return (
            path == finding
            or not finding
            or path.startswith(f"{finding}/")
            or (one.exists() and other.exists() and one.samefile(other))
        )


@pytest.mark.parametrize("seed", range(CASES))
def test_a_backup_can_be_restored_and_names_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, library: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    tree = Tree(tmp_path / "data", rng)
    tree.root.mkdir()
    tree.grow()
    volume = LocalVolume(tree.root, tmp_path / "state", settings={"suspicious": False})
    for night in range(NIGHTS):
        errors: dict[str, list[str]] = {"tar": [], "find": []}
        for _ in range(rng.randrange(3)):
            path = rng.choice(rng.choice((tree.directories, tree.files or tree.directories)))
            call = rng.choice(("open", "readdir") if path in tree.directories else CALLS)
            line = fault(call, rng.choice(NUMBERS), f"/{path}" if path else "/data", rng.choice((0, 3)))
            for each in rng.choice((["tar"], ["find"], ["tar", "find"])):
                errors[each].append(line)
        doomed = rng.choice([path for path in tree.directories if path] or [""]) if rng.random() < 0.4 else ""
        warm = rng.random() < 0.3
        there = present(tree.root)
        with monkeypatch.context() as patched:
            if warm:
                patched.setattr("tests.parts.local_helper.MOVING", Warm(lambda: None))
            failing(patched, library, errors, tree.root / doomed if doomed else None)
            stats = backed_up(volume, repository)
        if isinstance(stats, CommandFailed):
            assert any(errors.values()), stats
            assert "order" not in str(stats)
        else:
            kept = present(restored_whole(repository, stats.ref, tmp_path / f"restored{night}"))
            assert kept.keys() <= there.keys()
            findings = [finding.path.decode() for finding in stats.findings]
            # What is gone before the second pass was never listed in it.
            findings += [doomed] if warm and doomed else []
            for path in (path for path in there if kept.get(path) != there[path]):
                assert any(tree.explains(finding, path) for finding in findings), path
        tree.change()


def failing(
    monkeypatch: pytest.MonkeyPatch, library: Path, errors: dict[str, list[str]], doomed: Path | None
) -> None:
    """`errors` happen to the listing and to `tar`, and `doomed` is deleted between the two."""
    real = LocalHelper.start

    def start(helper: LocalHelper, command: list[str], **more: Any) -> Any:
        which = "tar" if "--create" in command else "find" if "///status" in "".join(command) else ""
        helper._environment = environment(library, *errors.get(which, ()))
        if which == "tar" and doomed is not None:
            shutil.rmtree(doomed, ignore_errors=True)
        return real(helper, command, **more)

    monkeypatch.setattr(LocalHelper, "start", start)


def backed_up(volume: LocalVolume, repository: Repository) -> BackupStats | CommandFailed:
    try:
        return volume.back_up(repository)
    except CommandFailed as error:
        return error
