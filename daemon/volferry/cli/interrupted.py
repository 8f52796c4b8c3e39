"""Lines of `volferry status` about interrupted work: services that are still down, restores and imports that broke off, and runs that were refused because of them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from volferry.archive.commands import NEW_TREE
from volferry.cli.text import local_time_text
from volferry.history import UNFINISHED

if TYPE_CHECKING:
    from datetime import datetime

    from volferry.history import History, PastRun
    from volferry.operations.still_down import Down
    from volferry.restore_record import BegunRestore

# Each command that does so before its own work.
_BRINGS_BACK = "`volferry recover`, or the next `volferry backup`, `restore`, `import` or `migrate`, of whatever volume, or `volferry daemon`"


def restore_document(restore: BegunRestore) -> dict[str, object]:
    return {
        "backup": restore.backup or None,
        "command": restore.command or None,
        "began": restore.began.isoformat(),
        "running": restore.running,
        "in_part": restore.in_part,
        "spared": restore.spared,
    }


def restore_state(restore: BegunRestore) -> str:
    """In two words; empty where the volume holds what it held."""
    if restore.running:
        return "being imported" if restore.command else "being restored"
    if restore.spared:
        return ""
    return "half imported" if restore.command else "half restored"


def restore_line(name: str, restore: BegunRestore) -> str:
    began = local_time_text(restore.began)
    if restore.command:
        if restore.running:
            return f"{name}: `{restore.command}` has been at work since {began}"
        return (
            f"volferry: {name}: it holds the rest of an import, which began at {began} and was interrupted: `{restore.command}` deletes that and "
            "begins anew"
        )
    if restore.running:
        return f"{name}: {restore.backup} is being restored into it, since {began}"
    into = "" if restore.volume == name else f" --into {name}"
    store = f" --store {shlex.quote(restore.store)}" if restore.store else ""
    command = f"`volferry restore {restore.backup}{into} --replace{store}`"
    if restore.in_part:
        return (
            f"volferry: {name}: it holds the rest of a restore of paths of {restore.backup}, which began at {began} and was interrupted: "
            "the same `volferry restore`, with these paths and --replace, completes it"
        )
    if restore.spared:
        return (
            f"volferry: {name}: it holds what it held: a restore of {restore.backup}, which began at {began}, was interrupted before it "
            f"changed that. What it had restored is in {NEW_TREE} in the volume's root, and takes room: {command} deletes that and restores the "
            "backup; without it, delete that directory and back the volume up"
        )
    return (
        f"volferry: {name}: it holds the rest of a restore of {restore.backup}, which began at {began} and was interrupted: "
        f"{command} completes it"
    )


def past_error(run: PastRun, completed: datetime | None, *, gone: bool) -> str:
    """The error of a volume's last run, whose cause is over: the volume is `gone`, or what it held the rest of was `completed` since. Empty if
    nobody knows that it is.
    """
    if run.cause == UNFINISHED:
        refused = "it was not backed up because it held the rest of something that was interrupted"
        if gone:
            return f"{refused}; the volume is gone since"
        if completed is not None and completed > run.began:
            return f"{refused}, which was completed at {local_time_text(completed)}: the next backup takes it"
    return f"{run.error}; the volume is gone since" if gone and run.error and not run.good else ""


def down_document(down: Down) -> dict[str, object]:
    return {
        "action": down.action,
        "name": down.name,
        "run": down.run,
        "since": down.since.isoformat(),
        "engine": down.elsewhere or None,
        "error": down.error or None,
    }


def down_line(down: Down, history: History) -> str:
    """`history` knows what the run was for."""
    volumes = history.volumes_of(down.run)
    run = f"the backup of {', '.join(volumes)} (run {down.run})" if volumes else f"run {down.run}"
    where = f" on {down.elsewhere}" if down.elsewhere else ""
    since = local_time_text(down.since)
    if down.action == "journal":
        return f"volferry: journal {down.name}: nothing of it is brought back: {down.error}; look at what it names, then `volferry recover --forget {down.run}`"
    if down.action == "hook":
        return f"volferry: hook post of {down.name}{where} is still to be run: {run}, which began it at {since}, was killed: {_BRINGS_BACK} runs it"
    subject = f"{'Swarm service' if down.action == 'scale' else 'container'} {down.name}{where}"
    state = {"pause": "paused", "stop": "stopped", "scale": "scaled to 0"}[down.action]
    if down.error:
        again = "" if down.by_hand else ": `volferry recover` tries again"
        return f"volferry: {subject} is not up again since {since}: {down.error}; {run} had stopped it{again}"
    return f"volferry: {subject} is still {state}, since {since}: {run}, which did that, was killed: {_BRINGS_BACK} brings it back"
