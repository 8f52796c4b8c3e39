"""`volferry recover`: brings back what interrupted runs have left down, without the daemon and without a backup."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from volferry.cli.options import ConfigOption, EngineOption, JsonOption
from volferry.cli.output import print_json, say
from volferry.cli.session import Session
from volferry.errors import UsageError

_PATIENCE_SECONDS = 60.0


def recover(
    *,
    forget: Annotated[
        str | None,
        typer.Option(
            "--forget",
            metavar="RUN",
            help="Leave as it is what that run has left down, which is gone for good.",
        ),
    ] = None,
    json: JsonOption = False,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Bring back services that an interrupted run has left stopped. At boot, and whenever `volferry status` names one."""
    session = Session.load(config=config, engine=engine)
    if forget is not None:
        if not forget.strip():
            raise UsageError("--forget is empty: it takes the id of a run, as `volferry status` names it")
        return _forget(session, forget, json=json)
    found = session.recovery(say, patience_seconds=_PATIENCE_SECONDS, of_others=True)
    for each in found.left:
        say(f"volferry: {each.text}")
    if json:
        print_json({"brought_back": found.brought_back, "left": [asdict(each) for each in found.left]})
    elif found.brought_back:
        print(f"up again: {', '.join(found.brought_back)}")
    elif not found.left:
        print("nothing is down")
    return 1 if found.left else 0


def _forget(session: Session, run: str, *, json: bool) -> int:
    from volferry.journal import forget  # noqa: PLC0415

    names = forget(session.config.state_dir, run)
    if json:
        print_json({"forgotten": names})
    else:
        what = ", ".join(dict.fromkeys(names)) or "nothing that can be named"
        print(f"forgotten, and left as it is: {what}, of run {run}")
    return 0
