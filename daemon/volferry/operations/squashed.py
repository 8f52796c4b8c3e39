"""How a restore writes a volume whose file system treats root as any other user: directories get their own modes last."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from volferry.archive.commands import modes_command, sync_command
from volferry.archive.extractlog import ExtractLog
from volferry.archive.listing import split_records
from volferry.archive.scripts import SCRIPT_COMMAND, modes_script, open_script
from volferry.archive.squash_scripts import look_command, set_mode_command
from volferry.archive.widened import is_narrow, widened, widened_headers
from volferry.errors import CommandFailed, VolferryError
from volferry.operations.directory_modes import modes_stream
from volferry.operations.streams import give, run, run_script, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from volferry.archive.listing import Entry
    from volferry.engine.helper import Helper

_READ_BYTES = 1 << 16
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Ground:
    """What a restore finds before it writes."""

    squashed: bool = False  # whether root is as any other user there
    root_mode: str = ""  # that the root directory had, in octal digits, if it was set to another one

    def expected(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """As they are until `set_modes`."""
        return widened(entries) if self.squashed else entries

    def root(self, header: bytes) -> bytes:
        """The root's member, for as long as there is more to do."""
        return widened_headers(header) if self.squashed else header

    def set_modes(self, helper: Helper, directory: str, entries: Iterable[Entry], log: ExtractLog) -> None:
        """Gives directories the modes of `entries`, after which nothing may be left to do but in the root. Whichever is above another comes
        before it: its own mode is set later. They are on the disk then. What cannot be set is counted in `log`. Raises CommandFailed.
        """
        if not self.squashed:
            return
        said = ExtractLog()
        process = helper.start(modes_command(directory), stdin=True, on_stderr=said.line)
        give(process, modes_stream(entry for entry in entries if entry.path and is_narrow(entry)))
        check_modes(said, process.wait(), log)
        run(helper, sync_command(directory), "writing the volume to the disk")

    def give_back(self, helper: Helper, directory: str) -> None:
        """The mode that the root directory had."""
        if self.root_mode:
            run(helper, set_mode_command(directory, self.root_mode), "writing the volume")

    @contextmanager
    def given_back(self, helper: Helper, directory: str) -> Iterator[None]:
        """Where what is done on it fails."""
        try:
            yield
        except BaseException:
            with suppress(VolferryError):  # the first error says more
                self.give_back(helper, directory)
            raise


USUAL_GROUND = Ground()


class KeptModes:
    """Of directories that were there before, and stay: something is to be written below them."""

    def __init__(self, helper: Helper, directory: str) -> None:
        self._helper = helper
        self._directory = directory
        self._ground = Ground()
        self._modes: list[tuple[bytes, bytes]] = []  # mode and path

    def reached(self, work: Callable[[], _Found], above: Sequence[bytes]) -> _Found:
        """What `work` finds below the directories `above`. Raises CommandFailed."""
        try:
            return work()
        except CommandFailed:
            ground = look(self._helper, self._directory)
            if not ground.squashed:
                raise
            self.open(ground, above)
            return work()

    def open(self, ground: Ground, paths: Sequence[bytes]) -> None:
        """In the order of a tree walk: the owner of those that are directories may do anything in them then, on a ground that is squashed."""
        if not ground.squashed:
            return
        if ground.root_mode:
            self._ground = ground
        process = self._helper.start(SCRIPT_COMMAND, stdin=True, on_stderr=lambda _: None)
        with writing(process, open_script(self._directory, paths)):
            for record in split_records(iter(lambda: process.read(_READ_BYTES), b"")):
                mode, _, path = record.partition(b" ")
                self._modes.append((mode, path))
        process.wait()  # what cannot be opened fails where something is written into it

    def give_back(self) -> None:
        """To each the mode that it had. Raises CommandFailed."""
        modes, self._modes = self._modes, []
        if modes:
            run_script(self._helper, modes_script(self._directory, modes[::-1]))
        self._ground.give_back(self._helper, self._directory)


@contextmanager
def keeping_modes(helper: Helper, directory: str) -> Iterator[KeptModes]:
    kept = KeptModes(helper, directory)
    try:
        yield kept
    except BaseException:
        with suppress(VolferryError):  # the first error says more
            kept.give_back()
        raise
    kept.give_back()


def check_modes(said: ExtractLog, status: int, log: ExtractLog) -> None:
    """After a `tar` that has set modes. Raises CommandFailed."""
    if not said.succeeded(status):
        raise CommandFailed(said.failure("the volume", status))
    if (refused := said.refused.get("mode")) is not None:
        count, first = log.refused.get("mode", (0, refused[1]))
        log.refused["mode"] = count + refused[0], first


def made_ground(words: Sequence[bytes]) -> Ground:
    """By what `make_new_tree_command` has written after the time."""
    return Ground(words[0] == b"squashed", words[1].decode() if len(words) > 1 else "")


def look(helper: Helper, directory: str) -> Ground:
    """Where root is as any other user, the owner of `directory` may do anything in it then."""
    try:
        mode = run(helper, look_command(directory), "looking into the volume").decode().strip()
    except CommandFailed:
        return Ground()  # whatever it is, it shows where more is written
    if not mode:
        return Ground()
    return Ground(squashed=True, root_mode="" if int(mode, 8) & 0o700 == 0o700 else mode)
