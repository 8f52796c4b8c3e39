"""What all objects of a bucket share on their way: threads, and what is known of the server."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from volferry.stores.s3_client import Server
    from volferry.stores.throttle import Throttle
    from volferry.stores.uploads import Uploads


class Transfers:
    """What all objects of a store share: the server, threads, and how objects are put."""

    def __init__(
        self,
        server: Server,
        pool: ThreadPoolExecutor,
        *,
        url: str,
        part_bytes: int,
        parallel_parts: int,
        uploads: Uploads,
        knowledge: Knowledge,
        arguments: Callable[[], dict[str, Any]],
        throttle: Throttle,
    ) -> None:
        self.server = server
        self.pool = pool
        self.url = url
        self.part_bytes = part_bytes
        self.parallel_parts = parallel_parts
        self.throttle = throttle
        self.uploads = uploads
        self.knowledge = knowledge
        self.arguments = arguments  # of every new object: storage class, encryption, retention

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        with held_back():  # the pool may start a thread
            return self.pool.submit(job)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What not every server can: known once the first small object was put."""

    heeds_if_none_match: bool
    checks_crc32: bool  # and says so: five times as fast as MD5


class Knowledge:
    """What is known of the server's abilities, and remembered."""

    def __init__(self, known: Abilities | None, remember: Callable[[Abilities], None]) -> None:
        self.abilities = known
        self._remember = remember
        self._lock = threading.Lock()

    @property
    def heeds_if_none_match(self) -> bool:
        return self.abilities is not None and self.abilities.heeds_if_none_match

    @property
    def checks_crc32(self) -> bool:
        return self.abilities is not None and self.abilities.checks_crc32

    @property
    def condition(self) -> dict[str, str]:
        """To be sent with what makes an object; no harm where it is not heeded."""
        refused = self.abilities is not None and not self.abilities.heeds_if_none_match
        return {} if refused else {"IfNoneMatch": "*"}

    def found(self, abilities: Abilities) -> None:
        with self._lock:
            if self.abilities is None:
                self.abilities = abilities
                self._remember(abilities)
