"""How the daemon's log looks: a line for each event, for people or as JSON, without what drives a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import structlog

from volferry.cli.output import plain

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from volferry.config import Config


def _without_control_characters(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {key: plain(value) if isinstance(value, str) else value for key, value in event.items()}


def configure_log(config: Config) -> None:
    """Loggers that there are follow."""
    renderer: Callable[..., Any] = (
        structlog.processors.JSONRenderer()
        if config.daemon.log == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _without_control_characters,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
