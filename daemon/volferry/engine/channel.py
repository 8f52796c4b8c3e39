"""How bytes get into and out of the helper: one interface, two ways (fifo.py, stream.py)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

READ_BYTES = 1 << 20
_LONGEST_LINE = 64 << 10


# Which of its streams is the data of a volume, or a listing of it.
Bulk = Literal["stdin", "stdout"]


class InputRefused(BrokenPipeError):
    """A command in the helper reads no longer: its exit status says why, or it ended with the helper."""

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "a command in the helper took nothing more")


class Process(Protocol):
    """One command in the helper. All of it raises HelperDied if the helper ends before the command does."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of its stdout, b"" at the end."""

    def read_into(self, buffer: memoryview) -> int:
        """As `read`, into `buffer`; returns how many bytes it put there."""

    def write(self, data: bytes | memoryview) -> None:
        """To its stdin. Raises InputRefused once it does not read any longer."""

    def close_stdin(self) -> None: ...

    def wait(self) -> int:
        """Its exit status, after all of its stderr was delivered. Its stdout must have been read to the end."""


class Channel(Protocol):
    """Starts commands in a helper that runs."""

    def start(
        self, command: Sequence[str], *, stdin: bool, on_stderr: Callable[[bytes], None], bulk: Bulk | None
    ) -> Process:
        """`on_stderr` gets each line, without its end, from another thread. What is `bulk` may be compressed on its way;
        it then comes in larger pieces, the last of which is there at its end.
        """

    def close(self) -> None:
        """Call once the helper was removed. Ends what is still open."""


class LineSplitter:
    """Hands on the lines of stderr; a line that never ends is cut, so that garbage takes no memory."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._on_line(line)
        if len(self._rest) > _LONGEST_LINE:
            self.finish()

    def finish(self) -> None:
        if self._rest:
            self._on_line(self._rest)
        self._rest = b""
