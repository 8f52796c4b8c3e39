"""How a command of the daemon's ended, by the document that it has printed."""

from __future__ import annotations

import signal
from datetime import datetime
from typing import TYPE_CHECKING, Any

from volferry.errors import Interrupted
from volferry.scheduler.loop import Down, Ending
from volferry.scheduler.recovering import RecoveryEnding
from volferry.scheduler.verifying import ShareEnding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.cli.daemon_process import Done


def afterwards(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events for the log about a copy or a prune that did anything."""
    for copied in document.get("copied", ()):
        if copied["copied"] or copied["mended"]:
            yield (
                "backups were copied",
                {
                    "store": copied["store"],
                    "backups": len(copied["copied"]),
                    "mended": copied["mended"],
                    "sent_bytes": copied["sent_bytes"],
                },
            )
    for pruned in document.get("volumes", ()):
        if pruned["forgotten"] or pruned["packs"]:
            yield (
                "backups were pruned",
                {
                    "forgotten": len(pruned["forgotten"]),
                    "packs": len(pruned["packs"]),
                    "freed_bytes": pruned["freed_bytes"],
                },
            )


def held_text(volume: str, held: dict[str, str]) -> str:
    until = datetime.fromisoformat(held["until"]).astimezone()
    return (
        f"{held['id']} is held until {until:%Y-%m-%d %H:%M}; look at it (`volferry show {volume}`), "
        f"then restore, or say `volferry accept {volume}`"
    )


def ending_of(done: Done, volume: str, *, stopped: bool) -> Ending:
    """Of one volume of the run."""
    failures = [each for each in done.document.get("failed", ()) if each["volume"] == volume]
    failed = [each["error"] for each in failures]
    for backup in done.document.get("backups", ()):
        if backup["volume"] != volume:
            continue
        return Ending(
            good=True,
            error="; ".join(failed),
            backup=backup["id"],
            seconds=backup["seconds"],
            downtime_seconds=backup["downtime_seconds"],
            stored_bytes=backup["stored_bytes"],
            down=_down(done.document),
            findings=backup["findings_total"],
            suspicious=next(
                (
                    f"{each['kind']}: {each['detail']}"
                    for each in backup["findings"]
                    if each["kind"] in {"shrunk", "rewritten"}
                ),
                "",
            ),
        )
    refused = any(each["busy"] for each in failures)
    return Ending(
        good=False,
        interrupted=_is_interrupted(done, stopped=stopped),
        refused=refused,
        error=done.last_line if done.stalled else "; ".join(failed) or done.last_line,
        stopped=any(each.get("stopped", False) for each in failures),
        down=_down(done.document),
    )


def _down(document: dict[str, Any], key: str = "down") -> tuple[Down, ...]:
    return tuple(Down(each["name"], each["error"], each.get("run", "")) for each in document.get(key, ()))


def recovery_ending_of(done: Done, *, stopped: bool) -> RecoveryEnding:
    document = done.document
    if "left" not in document:
        return RecoveryEnding(interrupted=_is_interrupted(done, stopped=stopped), error=done.last_line)
    return RecoveryEnding(_down(document, "left"), tuple(document.get("brought_back", ())))


def share_ending_of(done: Done, *, stopped: bool) -> ShareEnding:
    document = done.document
    if not document.get("share"):
        return ShareEnding(
            done=False, interrupted=_is_interrupted(done, stopped=stopped), error=done.last_line
        )
    news: dict[str, str] = {}
    for each in document["hurt"]:
        if each["new"]:
            line = f"{each['volume']}@{each['id']}: {each['error']}"
            news[each["volume"]] = f"{news[each['volume']]}; {line}" if each["volume"] in news else line
    return ShareEnding(
        done=True,
        news=news,
        hurt=len(document["hurt"]),
        objects=document["objects"],
        read_bytes=document["read_bytes"],
    )


def _is_interrupted(done: Done, *, stopped: bool) -> bool:
    """By the daemon's own end."""
    return stopped and done.code in {Interrupted.exit_code, -signal.SIGTERM, 0}
