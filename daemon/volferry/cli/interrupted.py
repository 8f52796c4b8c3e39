"""What `volferry status` says of restores that have begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.commands import NEW_TREE
from volferry.cli.text import local_time_text

if TYPE_CHECKING:
    from volferry.restore_record import BegunRestore


def restore_document(restore: BegunRestore) -> dict[str, object]:
    return {
        "backup": restore.backup,
        "began": restore.began.isoformat(),
        "running": restore.running,
        "in_part": restore.in_part,
        "spared": restore.spared,
    }


def restore_line(name: str, restore: BegunRestore) -> str:
    began = local_time_text(restore.began)
    if restore.running:
        return f"{name}: {restore.backup} is being restored into it, since {began}"
    into = "" if restore.volume == name else f" --into {name}"
    command = f"`volferry restore {restore.backup}{into} --replace`"
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
