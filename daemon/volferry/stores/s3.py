"""A store in an S3 bucket, below a prefix.

An object is there once its PutObject or CompleteMultipartUpload was answered, and not before. `If-None-Match: *` keeps
it from being overwritten where the server knows that, a HEAD in the moment before where it does not.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from blake3 import blake3
from botocore.exceptions import ClientError

from volferry.errors import DeletionDenied, ObjectLocked, StoreError
from volferry.stores.base import PROBES, validate_key, write_whole
from volferry.stores.places import bucket_of
from volferry.stores.s3_answers import MISSING, date_of, error_code
from volferry.stores.s3_client import Server
from volferry.stores.s3_knowledge import Knowledge
from volferry.stores.s3_lists import UPLOADS_STAY, UploadsNotListed, objects, unfinished_uploads
from volferry.stores.s3_look import plain_head
from volferry.stores.s3_probe import BucketProbe, probe
from volferry.stores.s3_put import SmallObject
from volferry.stores.s3_reader import S3Reader
from volferry.stores.s3_transfer import Transfers
from volferry.stores.s3_ways import CRC32, MD5, RETAIN
from volferry.stores.s3_writer import S3Writer, abort_upload
from volferry.stores.throttle import Throttle
from volferry.stores.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from volferry.model import ObjectInfo
    from volferry.store_config import StoreConfig

_RANGES_AT_ONCE = 4
# Uploads of other machines that nothing was heard of for so long are those of dead runs.
_FOREIGN_UPLOAD = timedelta(days=1)
_MOST_VERSIONS = 100  # of one object: there is one, or a few


class S3Store:
    """Implements `Store`. Nothing is sent before the first call; the bucket must exist.

    `state` is a directory for what this machine remembers of the server; `note` is told what a user should know, once.
    """

    def __init__(
        self,
        settings: StoreConfig,
        *,
        state: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
        throttle: Throttle | None = None,
    ) -> None:
        """Raises UsageError for a URL that cannot be one."""
        place = bucket_of(settings.url)
        self._bucket, self._prefix = place.name, place.prefix
        self._settings = settings
        self._state = state
        self._note = note
        self._throttle = throttle or Throttle()
        self._server = Server(settings, self._bucket)

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def place(self) -> str:
        return f"{self._server.endpoint} {self.url}"

    @cached_property
    def _transfers(self) -> Transfers:
        """Made with the first use: that is when it is said what a user should know of the endpoint."""
        settings = self._settings
        if self._server.endpoint.startswith("http://"):
            self._note(
                f"{self._server.endpoint} is an endpoint without TLS: what is sent can be read on its way"
            )
        return Transfers(
            self._server,
            ThreadPoolExecutor(settings.parallel_parts + _RANGES_AT_ONCE, thread_name_prefix="s3"),
            url=self.url,
            part_bytes=settings.part_size,
            parallel_parts=settings.parallel_parts,
            uploads=Uploads(self._place_in_state),
            knowledge=Knowledge(self._memory, self._server.endpoint, self._note),
            arguments=self._new_object_arguments,
            throttle=self._throttle,
            place=self._prefix,
        )

    def create(self, key: str, *, replaces: bool = False) -> S3Writer:
        version = self._version(key, "write") if replaces else None
        then = partial(self._delete_older, key, version) if version else None
        return S3Writer(self._transfers, self._name(key), key, replaces=replaces, then=then)

    def replace(self, key: str, data: bytes) -> None:
        write_whole(S3Writer(self._transfers, self._name(key), key, replaces=True), data)

    def put_unlocked(self, key: str, data: bytes) -> None:
        SmallObject(
            self._transfers, self._name(key), key, data, replaces=True, arguments=self._unlocked_arguments()
        ).put()

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> S3Reader:
        return S3Reader(self._transfers, self._name(key), key, offset, length)

    def size(self, key: str) -> int:
        found = plain_head(self._transfers, self._name(key), key)
        if found is None:
            raise self._server.missing(key, self.url)
        return int(found["ContentLength"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return objects(self._transfers, self._prefix, prefix)

    def delete(self, key: str) -> bool:
        settings = self._settings
        if settings.delete_versions and settings.object_lock is None:
            return self._delete_all_versions(key)
        version = self._version(key, "delete")
        return version is not None and self._delete_version(key, version)

    def keeps_versions(self) -> bool:
        """Whether what is deleted stays, behind a marker. Asked without a deletion; where the credentials may not ask, it is no."""
        if self._settings.delete_versions or self._settings.object_lock is not None:
            return False
        if self._transfers.knowledge.abilities.keeps_versions is None:
            try:
                self._transfers.knowledge.found(
                    keeps_versions=bool(self.ask_bucket("get_bucket_versioning").get("Status"))
                )
            except (ClientError, StoreError):
                return False
        return bool(self._transfers.knowledge.abilities.keeps_versions)

    def ask_bucket(self, question: str) -> Any:
        """About the bucket, by the name of a method of boto3. Raises ClientError, StoreError."""
        return self._server.call(
            "ask about the bucket",
            lambda client: getattr(client, question)(Bucket=self._bucket),
            refusable=True,
        )

    @property
    def prefix(self) -> str:
        return self._prefix

    @property
    def part_bytes(self) -> int:
        return self._settings.part_size

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the server does not have, and what that means: as far as it is known."""
        return tuple(self._transfers.knowledge.lacks())

    def probe(self) -> BucketProbe:
        """Raises StoreError."""
        self._transfers.knowledge.begin_anew()
        return probe(self)

    def create_trial(self, key: str) -> S3Writer:
        """An object that is not locked, and soon deleted."""
        return S3Writer(self._transfers, self._name(key), key, arguments=self._unlocked_arguments)

    def remove_trial(self, key: str) -> None:
        """With the version that takes up room, where that is allowed. Raises DeletionDenied, StoreError."""
        head = self._head(key, "delete")
        if head is not None:
            self._delete_version(key, {"VersionId": head["VersionId"]} if head.get("VersionId") else {})

    def _unlocked_arguments(self) -> dict[str, Any]:
        return {
            argument: value
            for argument, value in self._new_object_arguments().items()
            if not argument.startswith("ObjectLock")
        }

    def _delete_all_versions(self, key: str) -> bool:
        """Whether any stays. Each attempt at writing may have left one."""
        for _ in range(_MOST_VERSIONS):
            head = self._head(key, "delete")
            if head is None:
                return False
            version = {"VersionId": head["VersionId"]} if head.get("VersionId") else {}
            if self._delete_version(key, version):
                return True
            if not version:
                return False
        raise StoreError(
            f"cannot delete {key} in the store {self.url}: there is always another version of it"
        )

    def _delete_version(self, key: str, version: dict[str, str]) -> bool:
        """Whether the room is still taken up. Who may not delete versions puts a marker over them."""
        try:
            return self._delete(key, version)
        except DeletionDenied:
            if not version:
                raise
            return self._delete(key, {})

    def _version(self, key: str, action: str) -> dict[str, str] | None:
        """The one that is there, for a request about it, or nothing where there are no locks; None if none is there. Raises ObjectLocked."""
        if self._settings.object_lock is None:
            return {}
        head = self._head(key, action)
        if head is None:
            return None
        until = head.get("ObjectLockRetainUntilDate")
        if (until is not None and until > datetime.now(UTC)) or head.get("ObjectLockLegalHoldStatus") == "ON":
            why = f"until {until:%Y-%m-%d %H:%M} UTC" if until is not None else "by a legal hold"
            raise ObjectLocked(f"{key} in the store {self.url} is locked {why}")
        # Without a version, only a marker would be put over what takes up room.
        return {"VersionId": head["VersionId"]} if head.get("VersionId") else {}

    def _delete_older(self, key: str, version: dict[str, str]) -> None:
        """A version that takes up room behind the one that has replaced it. Raises StoreError."""
        head = self._head(key, "write")
        if head is not None and head.get("VersionId") not in {None, version["VersionId"]}:
            self._delete(key, version)

    def _head(self, key: str, action: str) -> Any:
        """None if there is no such object."""
        return plain_head(self._transfers, self._name(key), key, action)

    def _delete(self, key: str, version: dict[str, str]) -> bool:
        """Whether an older version stays, and takes up room."""
        name = self._name(key)

        def delete(client: Any) -> bool:
            response = client.delete_object(Bucket=self._bucket, Key=name, **version)
            has_marker = bool(response.get("DeleteMarker")) or response.get("VersionId") not in {None, "null"}
            if not version and has_marker:
                self._transfers.knowledge.found(keeps_versions=True)
            return not version and bool(self._transfers.knowledge.abilities.keeps_versions)

        try:
            return self._server.call(f"delete {key}", delete, refusable=True)
        except ClientError as error:
            if error_code(error) in MISSING:
                return False
            told = self._server.error(f"delete {key}", error)
            if error_code(error) in {"AccessDenied", "403"} and self._server.has_served:
                raise DeletionDenied(str(told)) from error
            raise told from error

    def protect(self, keys: Iterable[str]) -> None:
        lock = self._settings.object_lock
        if lock is None:
            return
        until = _in(lock.days)

        def extend(key: str) -> None:
            try:
                self._transfers.ask(
                    RETAIN,
                    f"lock {key}",
                    frozenset({CRC32, MD5}),
                    lambda client, way: client.put_object_retention(
                        Bucket=self._bucket,
                        Key=self._name(key),
                        Retention={"Mode": lock.mode.upper(), "RetainUntilDate": until},
                        # boto3 sends CRC-32 where nothing is said, and knows the body only then.
                        **({"ContentMD5": "of the body"} if MD5 in way else {}),
                    ),
                )
            except ClientError as error:
                if error_code(error) in MISSING:
                    raise self._server.missing(key, self.url) from error
                raise self._server.error(f"lock {key}", error) from error
            except StoreError:
                # A lock of before `days` was made less cannot be made shorter, and need not be.
                if not self._is_locked(key, lock.mode, until):
                    raise

        for future in [self._transfers.submit(partial(extend, key)) for key in keys]:
            future.result()

    def _is_locked(self, key: str, mode: str, until: datetime) -> bool:
        """Whether it is, as strictly and as long."""
        try:
            head: Any = self._server.call(
                f"lock {key}", lambda client: client.head_object(Bucket=self._bucket, Key=self._name(key))
            )
        except (ClientError, StoreError):
            return False
        found = head.get("ObjectLockRetainUntilDate")
        as_strictly = head.get("ObjectLockMode") in {mode.upper(), "COMPLIANCE"}
        return as_strictly and found is not None and found >= until

    def now(self) -> datetime:
        def date(client: Any) -> datetime | None:
            return date_of(client.head_bucket(Bucket=self._bucket))

        def date_of_list(client: Any) -> datetime | None:
            return date_of(client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1))

        try:
            return self._server.call("ask for the time", date, refusable=True) or self._time_of_writing()
        except ClientError as error:
            told = self._server.error("ask for the time", error)
            if error_code(error) in {*MISSING, "400"}:
                raise told from error
            try:  # credentials for a prefix may not ask for the bucket
                found = self._server.call("ask for the time", date_of_list, refusable=True)
            except (ClientError, StoreError):
                raise told from error
            return found or self._time_of_writing()

    def _time_of_writing(self) -> datetime:
        """Where answers have no date: when the server has written something, by its own clock; else by this machine's."""
        key = f"{PROBES}{secrets.token_hex(8)}"
        try:
            self.put_unlocked(key, b"what is the time")
            head = self._head(key, "read")
            with suppress(StoreError):
                self.remove_trial(key)
            return cast("datetime", head["LastModified"])
        except (StoreError, KeyError, TypeError):
            self._note(
                f"{self._server.endpoint} does not say what time it is: the clock of this machine is used"
            )
            return datetime.now(UTC)

    def clean(self) -> None:
        for uploads in self._transfers.uploads.of_the_dead():
            for upload in uploads:
                abort_upload(self._server, upload.name, upload.id)

    def abort_uploads(self) -> int:
        """Ends the uploads of dead runs, those of other machines a day after they began. Returns how many."""
        self.clean()
        living = self._transfers.uploads.of_the_living()
        oldest = datetime.now(UTC) - _FOREIGN_UPLOAD
        aborted = 0
        try:
            for each in unfinished_uploads(self._transfers, self._prefix):
                if each.id not in living and each.begun < oldest:
                    aborted += abort_upload(self._server, each.name, each.id)
        except UploadsNotListed as error:
            self._note(f"{error}: {UPLOADS_STAY}")
        for info in [info for info in self.list(PROBES) if info.modified < oldest]:
            self.delete(info.key)
        return aborted

    def try_to_list_uploads(self) -> None:
        """Raises UploadsNotListed, StoreError."""
        for _ in unfinished_uploads(self._transfers, self._prefix):
            return

    def _name(self, key: str) -> str:
        """Of the object in the bucket."""
        return self._prefix + validate_key(key)

    def _new_object_arguments(self) -> dict[str, Any]:
        settings = self._settings
        arguments: dict[str, Any] = {
            "StorageClass": settings.storage_class,
            "ServerSideEncryption": settings.encryption,
            "SSEKMSKeyId": settings.kms_key_id,
        }
        if settings.object_lock is not None:
            arguments["ObjectLockMode"] = settings.object_lock.mode.upper()
            arguments["ObjectLockRetainUntilDate"] = _in(settings.object_lock.days)
        return {name: value for name, value in arguments.items() if value is not None}

    @cached_property
    def _place_in_state(self) -> Path | None:
        if self._state is None:
            return None
        name = blake3(f"{self._server.endpoint}\n{self.url}".encode()).hexdigest()[:16]
        return self._state / "s3" / name

    @property
    def _memory(self) -> Path | None:
        return self._place_in_state / "server.json" if self._place_in_state else None


def _in(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)
