"""When the newest backup of each volume was made, also where a clock was wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.errors import StoreError
from volferry.layout import manifests_prefix, ref_of_manifest
from volferry.schedule import is_believed

if TYPE_CHECKING:
    from datetime import datetime

    from volferry.repository import Repository


def newest_times(repository: Repository, host: str, now: datetime) -> dict[str, datetime]:
    """By volume. An id from the future says nothing: its clock was wrong, and the ids of all later backups follow it. There the time counts
    at which the store got the manifest, by the store's own clock. Where that lies in the future, too, the backup has no time.

    Raises StoreError.
    """
    newest: dict[str, datetime] = {}
    from_the_future: list[tuple[str, datetime]] = []
    for info in repository.store.list(manifests_prefix(host, None)):
        ref = ref_of_manifest(info.key)
        if ref is None:
            continue
        if is_believed(ref.time, now):
            newest[ref.volume] = max(newest.get(ref.volume, ref.time), ref.time)
        else:
            from_the_future.append((ref.volume, info.modified))
    if from_the_future:
        # The machine's clock and the store's may differ by any span.
        ahead = _now_of_store(repository, now) - now
        for volume, modified in from_the_future:
            made = modified - ahead
            if is_believed(made, now):
                newest[volume] = max(newest.get(volume, made), made)
    return newest


def _now_of_store(repository: Repository, now: datetime) -> datetime:
    try:
        return repository.store.now()
    except StoreError:  # it can be read only
        return now
