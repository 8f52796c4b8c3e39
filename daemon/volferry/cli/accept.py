"""`volferry accept`: a person has looked at a backup that is suspicious, or could not read all, and it is as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from volferry.cli.options import (
    BackupArgument,
    ConfigOption,
    EngineOption,
    HostOption,
    JsonOption,
    StoreOption,
)
from volferry.cli.output import print_json
from volferry.cli.session import Session
from volferry.errors import UsageError

if TYPE_CHECKING:
    from volferry.model import BackupRef
    from volferry.repository import Repository


def accept(
    name: BackupArgument,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Take that back.")] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Accept a suspicious or incomplete backup. Later backups are compared with it, and prune may forget older ones."""
    from volferry.operations import acceptance  # noqa: PLC0415
    from volferry.volume_lock import volume_lock  # noqa: PLC0415

    session = Session.load(config=config, store=store, engine=engine, host=host)
    ref = session.backup_ref(name)
    repository = session.repository
    _check(repository, ref, undo=undo)
    with volume_lock(session.state_of_volume(repository, ref.host, ref.volume), ref.volume):
        if undo:
            acceptance.withdraw(repository, ref)
            changed = True
        else:
            changed = acceptance.accept(repository, ref, by=session.config.host or ref.host)
    if json:
        print_json({"backup": str(ref), "accepted": not undo, "changed": changed})
    elif undo:
        print(f"{ref} is accepted no longer")
    else:
        print(f"accepted {ref}" if changed else f"{ref} was accepted before")
    return 0


def _check(repository: Repository, ref: BackupRef, *, undo: bool) -> None:
    """Raises UsageError where there is nothing to accept, or to take back."""
    from volferry.operations.acceptance import accepted_ids, may_be_accepted  # noqa: PLC0415

    if undo and ref.id not in accepted_ids(repository, ref.host, ref.volume):
        raise UsageError(f"{ref} was not accepted: there is nothing to undo")
    if not undo and not may_be_accepted(repository.manifest(ref)):
        raise UsageError(f"{ref} is not suspicious: there is nothing to accept")
