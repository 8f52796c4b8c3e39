"""What all objects of a bucket share on their way: threads, what is known of the server, and how it is asked accordingly."""

from __future__ import annotations

import threading
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from volferry.errors import StoreError
from volferry.interrupts import held_back
from volferry.stores.s3_answers import NOT_IMPLEMENTED, SERVER_FAULT, STRANGE, GarbledResponse, http_status
from volferry.stores.s3_trial import take_crc32_in_parts
from volferry.stores.s3_ways import Refusal, Way, meaning, others, ways

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from volferry.stores.s3_client import Server
    from volferry.stores.s3_knowledge import Knowledge
    from volferry.stores.throttle import Direction, Throttle
    from volferry.stores.uploads import Uploads

T = TypeVar("T")

_SEND_BYTES = 1 << 20


class Body(BytesIO):
    """Comes in larger pieces than urllib3 asks for, which are of 16 KiB: fewer calls, fewer waits for the interpreter."""

    def __init__(self, data: bytes, throttle: Direction) -> None:
        super().__init__(data)
        self._throttle = throttle

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size < _SEND_BYTES:  # to sign it, where there is no TLS
            return super().read(size)
        # A server ends a connection on which nothing comes for long.
        found = super().read(self._throttle.piece_bytes if self._throttle.is_limited else _SEND_BYTES)
        self._throttle.take(len(found))
        return found


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
        place: str,
    ) -> None:
        self.server = server
        self.pool = pool
        self.url = url
        self.part_bytes = part_bytes
        self.parallel_parts = parallel_parts
        self.throttle = throttle
        self.uploads = uploads
        self.knowledge = knowledge
        self._place = place  # in the bucket: a prefix
        self._preparing = threading.Lock()
        self.arguments = arguments  # of every new object: storage class, encryption, retention

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        with held_back():  # the pool may start a thread
            return self.pool.submit(job)

    def prepare_uploads(self) -> None:
        """Before each multipart upload. Raises StoreError."""
        with self._preparing:
            take_crc32_in_parts(self, self._place)

    def ask(
        self, call: str, what: str, offered: Way, request: Callable[[Any, Way], T], *, is_there: bool = True
    ) -> T:
        """The response to `request`, in the safest way that the server takes of those that send what is `offered`. Without `is_there`, an
        answer that there is such an object is a refusal like others.

        Another way is tried only where the server refuses the first: what it then takes is remembered. Raises as
        `Server.call` does, and ClientError for what is refused in each way: then it is the first refusal.
        """
        way = self.knowledge.way(call, offered)
        alternatives = len(ways(call, offered)) > 1

        def asked(way: Way) -> T:
            """Raises ClientError for whatever is refused."""
            result = self.server.call(
                what,
                lambda client: request(client, way),
                refusable=alternatives,
                patient=not alternatives or self.knowledge.is_proven(call, way),
            )
            self.knowledge.took(call, way)
            return result

        try:
            return asked(way)
        except ClientError as error:
            kind = meaning(error, call, is_there=is_there)
            if not alternatives or kind in {Refusal.ANSWER, Refusal.FINAL}:
                raise
            if kind is Refusal.DENIED and not self.server.knows_us():
                raise
            return self._otherwise(call, offered, way, error, asked, is_there=is_there)
        except StoreError as error:
            barest = ways(call, offered)[-1]
            if way == barest or not self._may_be_of_way(call, way, error):
                raise
            try:
                result = request(self.server.client, barest)
            except (ClientError, BotoCoreError, GarbledResponse, StoreError, *STRANGE):
                raise error from error.__cause__
            self.knowledge.refused(call, way, barest)
            return result

    def _may_be_of_way(self, call: str, way: Way, error: StoreError) -> bool:
        """Whether a fault of the server's own, whatever its number, may be its answer to something that it does not know: it serves else."""
        cause = error.__cause__
        return (
            isinstance(cause, ClientError)
            and http_status(cause) >= SERVER_FAULT
            and not self.knowledge.is_proven(call, way)
            and self.server.knows_us()
        )

    def _otherwise(
        self,
        call: str,
        offered: Way,
        refused: Way,
        error: ClientError,
        asked: Callable[[Way], T],
        *,
        is_there: bool,
    ) -> T:
        """As `ask`, in the other ways. Raises the first error if none of them helps."""
        candidates = others(call, offered, refused, error)
        denied = meaning(error, call) is Refusal.DENIED
        if denied and not self.knowledge.abilities.denies:
            # Most likely it is what it seems to be. Nothing more than the barest request is sent to find out.
            candidates = candidates[-1:]
        elif http_status(error) != NOT_IMPLEMENTED:  # bits may have changed on their way
            candidates.insert(0, refused)
        for way in candidates:
            try:
                result = asked(way)
            except ClientError as another:
                if meaning(another, call, is_there=is_there) is not Refusal.ANSWER:
                    continue
                self._taken(call, refused, way, denied=denied)
                raise
            self._taken(call, refused, way, denied=denied)
            return result
        raise error

    def _taken(self, call: str, refused: Way, way: Way, *, denied: bool) -> None:
        knows_better = not denied or self.knowledge.abilities.denies
        if denied:
            self.knowledge.found(denies=True)
        if way != refused and knows_better:  # else there may be a safer one, for which the next request looks
            self.knowledge.refused(call, refused, way)
