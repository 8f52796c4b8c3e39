"""What the daemon knows of copies and prunes: which stores they are for, what is owed to them, and how the last ones went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from volferry.config import Config
    from volferry.scheduler.copies import CopyEnding
    from volferry.upkeep import Upkeep, UpkeepLog, Work


@dataclass(frozen=True, slots=True)
class DaemonCopies:
    """Implements `CopyMemory`. Called from threads of runs, too."""

    config: Callable[[], Config]
    host: Callable[[], str]
    backed_up: Callable[[], Collection[str]]  # volumes of which there are backups
    log: UpkeepLog

    @property
    def stores(self) -> Mapping[Work, Mapping[str, str]]:
        """Names by place, of what copies and of what prunes are for."""
        config = self.config()
        name = config.store_name or config.store_config.url
        return {
            "copy": {config.named_store(each).place: each for each in config.replicas},
            "prune": {config.store_config.place: name},
        }

    def owe(self, volume: str) -> None:
        """There is a new backup of it."""
        self.log.owe(self.stores["copy"], self.host(), volume)

    def due(
        self, work: Work, busy: Collection[str], now: datetime
    ) -> tuple[dict[str, list[Upkeep]], datetime | None]:
        stores = self.stores[work]
        volumes = set(self.backed_up()) - set(busy)
        due, following = self.log.due(work, stores.keys(), self.host(), volumes, now)
        return {stores[place]: owed for place, owed in due.items()}, following

    def failed(self, work: Work, volume: str, began: datetime, now: datetime, error: str) -> None:
        """Of a command that ended with an error: where it could not keep that itself."""
        self._failed(work, self.stores[work].keys(), [volume], began, now, error)

    def has_ended(self, ending: CopyEnding, now: datetime) -> int:
        places = [place for place, name in self.stores[ending.work].items() if name == ending.store]
        if ending.error:
            self._failed(ending.work, places, ending.volumes, ending.began, now, ending.error)
        found = [each.failures for each in self._of(ending.work, places, ending.volumes)]
        return max(found, default=0)

    def _failed(
        self,
        work: Work,
        places: Collection[str],
        volumes: Collection[str],
        began: datetime,
        now: datetime,
        error: str,
    ) -> None:
        kept = {
            (each.store, each.volume)
            for each in self._of(work, places, volumes)
            if each.tried is not None and began <= each.tried
        }
        for place in places:
            left = [volume for volume in volumes if (place, volume) not in kept]
            self.log.failed(work, place, self.host(), left, now, error)

    def _of(self, work: Work, places: Collection[str], volumes: Collection[str]) -> list[Upkeep]:
        host = self.host()
        return [each for each in self.log.all(work, places) if each.host == host and each.volume in volumes]
