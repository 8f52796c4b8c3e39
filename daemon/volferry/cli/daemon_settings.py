"""The daemon's configuration in force: the last one that could be read, and the commands' way to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from volferry.config import Config, accepted_path, keep_accepted, load_config
from volferry.telling.notifier import check_urls

_SETTLED = timedelta(seconds=2)


@dataclass(slots=True)
class DaemonSettings:
    """Of one file, and of options of the command line."""

    path: Path | None
    options: dict[str, str | None]
    config: Config = field(init=False)
    _stamp: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        self._stamp = self._stamp_now()
        self.config = self._loaded()

    @property
    def is_to_be_read(self) -> bool:
        """Whether the file is another one now than the one that was read last, and likely to be whole: it was not written a
        moment ago.
        """
        stamp = self._stamp_now()
        return stamp != self._stamp and (
            stamp is None or time.time_ns() - stamp[0] > _SETTLED.total_seconds() * 1e9
        )

    def reload(self) -> None:
        """Raises ConfigError; then the one before stays in force, and is not tried again before the next change."""
        self._stamp = self._stamp_now()
        self.config = self._loaded()

    def arguments(self, command: str) -> list[str]:
        """By which a command has the configuration in force."""
        options = {"engine": self.options["engine"]} if command == "recover" else self.options
        given = [part for name, value in options.items() if value for part in (f"--{name}", value)]
        return [*given, "--config", str(accepted_path(self.config.state_dir))]

    def _loaded(self) -> Config:
        check_urls(load_config(self.path, self.options).notify)
        return keep_accepted(self.path, self.options)

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat() if self.path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size) if found else None
