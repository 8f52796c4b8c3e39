"""Shows an operation on the terminal: a bar where there is one, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from volferry.cli.output import plain
from volferry.cli.text import count_text, size_text
from volferry.model import printable

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from volferry.model import Finding

_MOST_FINDINGS = 20
_PLAIN_SECONDS = 10.0
_REFRESH_SECONDS = 0.1


class TerminalObserver:
    """Implements `Observer` for the work on one volume; everything goes to stderr."""

    def __init__(self, subject: str, bar: Progress | None = None) -> None:
        self._subject = plain(subject)
        self._bar = bar
        self._has_bar = bar is None  # and no one else's
        self._parts: list[TerminalObserver] = []
        self._task: TaskID | None = None
        self._phase = ""
        self._totals: tuple[int | None, int | None] = (None, None)
        self._began = self._shown = time.monotonic()
        self._findings = self.unsaid = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _new_bar()
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None and self._has_bar:
            self._bar.stop()
        for unsaid in (self.unsaid, *(part.unsaid for part in self._parts)):
            if unsaid:
                print(f"  … and {unsaid} more (see `volferry show`)", file=sys.stderr)

    def of(self, subject: str) -> TerminalObserver:
        """For a part of the work, on the same terminal; not to be entered."""
        if subject == self._subject:
            return self
        part = TerminalObserver(subject, self._bar)
        self._parts.append(part)
        return part

    def phase(self, name: str, *, total_bytes: int | None = None, total_entries: int | None = None) -> None:
        self._phase = name
        self._totals = (total_bytes, total_entries)
        self._began = self._shown = time.monotonic()
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(
                f"{self._subject}: {name}", total=total_bytes or total_entries, detail=self._detail(0, 0)
            )

    def advance(self, *, done_bytes: int, done_entries: int) -> None:
        now = time.monotonic()
        if now - self._shown < (_PLAIN_SECONDS if self._bar is None else _REFRESH_SECONDS):
            return
        self._shown = now
        detail = self._detail(done_bytes, done_entries)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done_bytes or done_entries, detail=detail)
        elif self._bar is None:
            print(f"{self._subject}: {self._phase}: {detail}", file=sys.stderr, flush=True)

    def finding(self, finding: Finding) -> None:
        self._findings += 1
        # One of the volume as a whole is worth more than the rest, and may come last.
        if self._findings > _MOST_FINDINGS and finding.path:
            self.unsaid += 1
            return
        self._say(f"  {finding.kind}: {printable(finding.path) or '(root)'}: {finding.detail}")

    def note(self, message: str) -> None:
        self._say(f"{self._subject}: {message}")

    def _say(self, line: str) -> None:
        line = plain(line)
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _detail(self, done_bytes: int, done_entries: int) -> str:
        total_bytes, total_entries = self._totals
        parts = []
        if total_bytes is not None or done_bytes:
            parts.append(
                f"{size_text(done_bytes)}" + (f" of {size_text(total_bytes)}" if total_bytes else "")
            )
        if total_entries is not None or done_entries:
            parts.append(
                count_text(done_entries, "entry", "entries")
                if total_entries is None
                else f"{done_entries:,} of {count_text(total_entries, 'entry', 'entries')}"
            )
        elapsed = time.monotonic() - self._began
        if done_bytes and elapsed > 1:
            parts.append(f"{size_text(done_bytes / elapsed)}/s")
        return ", ".join(parts)


def _new_bar() -> Progress:
    from rich.console import Console  # noqa: PLC0415 -- only a terminal needs it, and it takes its time to import
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
    )
