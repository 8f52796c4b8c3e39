"""`volferry verify --share`: a day's part of what there is to be read, by hand, from cron, or by the daemon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from volferry.cli.output import print_json, say
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session
from volferry.cli.surroundings import zone_of
from volferry.cli.text import count_text, size_text
from volferry.errors import NoSuchStore, VolferryError
from volferry.operations.verify_share import Share, verify_share
from volferry.verification_log import VerificationLog, VerifyRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.model import BackupRef


def read_share(session: Session, *, json: bool) -> int:
    """Raises VolferryError where the store cannot be read; that is in the log, too."""
    log = VerificationLog(session.config.state_dir, session.config.store_config.place)
    began = datetime.now(UTC)
    # What was read of a replica is remembered, and says nothing of the store that backups are made in.
    main = session.config.store_config.replica_of is None
    try:
        repository, host = session.repository, session.host
        with TerminalObserver("verify") as observer:
            share = verify_share(
                repository,
                host,
                log=log,
                cache=session.manifest_cache(repository),
                every=timedelta(days=session.config.verify.days),
                next_run=_after(session, began, timedelta(days=1)),
                # A timer without a schedule here may be some hours early, or late the day before.
                done_until=lambda last: _after(session, last, timedelta(hours=12)),
                clock=lambda: datetime.now(UTC),
                observer=observer,
                unfinished=partial(session.is_unfinished, repository),
            )
    except VolferryError as error:
        if isinstance(error, NoSuchStore) and session.known_stores.empty:  # nothing was ever backed up
            return _report(session, log, began, Share(), json=json, main=main)
        if main:
            log.keep_run(VerifyRun(began, datetime.now(UTC), "failed", 0, 0, 0, str(error)))
        raise
    return _report(session, log, began, share, json=json, main=main)


def _report(
    session: Session, log: VerificationLog, began: datetime, share: Share, *, json: bool, main: bool
) -> int:
    wrong = share.wrong
    news = log.news(session.store.url, {f"{ref}: {why}" for ref, why in wrong.items()})
    if main:
        first = next((f"{ref}: {why}" for ref, why in wrong.items()), "")
        outcome = VerifyRun(
            began, datetime.now(UTC), "hurt" if wrong else "good", share.read, share.read_bytes, share.total_bytes, first,
            listed=share.listed,
        )  # fmt: skip
        log.keep_run(outcome)
        log.keep_volumes(session.host, share.volumes)
    for ref, why in wrong.items():
        step = f"; {session.typed(share.troubles[ref].next_step)}" if ref in share.troubles else ""
        say(f"volferry: {ref}: {why}{step}")
    if share.problem:
        say(share.problem)
    if json:
        print_json(_document(share, wrong, news))
    else:
        _print(share, wrong)
    return 1 if wrong else 0


def _after(session: Session, time: datetime, unscheduled: timedelta) -> datetime:
    """When the next share is due by the schedule; without one, so much later."""
    schedule = session.config.verify.schedule
    found = schedule.after(time, zone_of(session.config)) if schedule is not None else None
    return found or time + unscheduled


def _print(share: Share, wrong: Mapping[BackupRef, str]) -> None:
    for ref in wrong:
        print(f"HURT  {ref}")
    print(
        f"{count_text(share.read, 'object')} read, {size_text(share.read_bytes)} of {size_text(share.total_bytes)}; "
        f"{count_text(len(wrong), 'backup')} hurt"
    )


def _document(share: Share, wrong: Mapping[BackupRef, str], news: set[str]) -> dict[str, Any]:
    return {
        "share": True,
        "objects": share.read,
        "read_bytes": share.read_bytes,
        "total_bytes": share.total_bytes,
        "hurt": [
            {
                "id": ref.id,
                "host": ref.host,
                "volume": ref.volume,
                "error": why,
                "missing": list(share.troubles[ref].missing) if ref in share.troubles else [],
                "damaged": list(share.troubles[ref].damaged) if ref in share.troubles else [],
                "new": f"{ref}: {why}" in news,
            }
            for ref, why in wrong.items()
        ],
    }
