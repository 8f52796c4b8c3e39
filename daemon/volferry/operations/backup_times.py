"""When the newest backup of each volume was made, also where a clock was wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from volferry.errors import NoSuchStore, StoreError
from volferry.layout import manifests_prefix, ref_of_manifest
from volferry.schedule import is_believed

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.repository import Repository

# How often all manifests are listed: a request brings a thousand of them, and many services take money for each. About 300 a day at most.
_LISTED_EVERY = timedelta(minutes=15)
_LISTED_EVERY_FOR_A_PAGE = timedelta(minutes=5)
_LISTED_AT_LEAST_EVERY = timedelta(hours=12)
_PAGE = 1000
_CLOCK_STEP = timedelta(minutes=5)


@dataclass(slots=True)
class NewestTimes:
    """What `newest_times` gives, kept in memory: all is listed again after a while, and what belongs to one volume when its run has ended.

    Not for several threads.
    """

    opened_every: timedelta = timedelta()  # how often to ask whether the store is still there
    clock: Callable[[], float] = time.monotonic
    _newest: dict[str, datetime] = field(default_factory=dict)
    _volumes: set[str] = field(default_factory=set)  # whose runs have ended since
    _host: str = ""
    _opened: float | None = None
    _listed: float | None = None
    _listed_at: datetime | None = None
    _again_after: timedelta = timedelta()

    def run_ended(self, volume: str) -> None:
        self._volumes.add(volume)

    def forget(self) -> None:
        """Another store may be meant from now on."""
        self._listed = self._opened = None

    @property
    def listed_at(self) -> datetime | None:
        """When all was listed last."""
        return self._listed_at

    def times(self, open_store: Callable[[], Repository], host: str, now: datetime) -> dict[str, datetime]:
        """`open_store` is called where a request is needed, and raises NoSuchStore where there is none yet. Raises StoreError."""
        monotonic = self.clock()
        all_of_it = self._is_to_be_listed(host, now, monotonic)
        if all_of_it or self._volumes or self._is_to_be_opened(monotonic):
            try:
                repository = open_store()
                if all_of_it:
                    self._newest, count = _listed(repository, host, now)
                    self._again_after = min(
                        _LISTED_AT_LEAST_EVERY,
                        max(_LISTED_EVERY, _LISTED_EVERY_FOR_A_PAGE * (1 + count // _PAGE)),
                    )
                else:
                    for volume in self._volumes:
                        found, _ = _listed(repository, host, now, volume)
                        self._newest.pop(volume, None)
                        self._newest |= found
            except NoSuchStore:
                self._newest, self._again_after = {}, _LISTED_EVERY
            self._opened = monotonic
            if all_of_it:
                self._listed, self._listed_at, self._host = monotonic, now, host
            self._volumes.clear()
        return dict(self._newest)

    def _is_to_be_opened(self, monotonic: float) -> bool:
        return self._opened is None or monotonic - self._opened >= self.opened_every.total_seconds()

    def _is_to_be_listed(self, host: str, now: datetime, monotonic: float) -> bool:
        if self._listed is None or self._listed_at is None or host != self._host:
            return True
        passed = timedelta(seconds=monotonic - self._listed)
        # Whether an id is of the future is another question where the clock was set.
        return passed >= self._again_after or abs(now - self._listed_at - passed) > _CLOCK_STEP


def newest_times(repository: Repository, host: str, now: datetime) -> dict[str, datetime]:
    """By volume. An id from the future says nothing: its clock was wrong, and the ids of all later backups follow it. There the time counts
    at which the store got the manifest, by the store's own clock. Where that lies in the future, too, the backup has no time.

    Raises StoreError.
    """
    return _listed(repository, host, now)[0]


def _listed(
    repository: Repository, host: str, now: datetime, volume: str | None = None
) -> tuple[dict[str, datetime], int]:
    """And how many manifests there are; with `volume`, of that alone."""
    newest: dict[str, datetime] = {}
    from_the_future: list[tuple[str, datetime]] = []
    count = 0
    for info in repository.store.list(manifests_prefix(host, volume)):
        count += 1
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
        for name, modified in from_the_future:
            made = modified - ahead
            if is_believed(made, now):
                newest[name] = max(newest.get(name, made), made)
    return newest, count


def _now_of_store(repository: Repository, now: datetime) -> datetime:
    try:
        return repository.store.now()
    except StoreError:  # it can be read only
        return now
