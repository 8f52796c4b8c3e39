"""A store in an S3 bucket, below a prefix.

An object is there once its PutObject or CompleteMultipartUpload was answered, and not before. `If-None-Match: *` keeps
it from being overwritten where the server knows that, a HEAD in the moment before where it does not.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from botocore.exceptions import ClientError

from volferry.errors import ObjectLocked, StoreError
from volferry.model import ObjectInfo
from volferry.stores.base import is_valid_key, validate_key, write_whole
from volferry.stores.places import bucket_of
from volferry.stores.s3_client import MISSING, GarbledResponse, Server, base64_text, error_code, md5
from volferry.stores.s3_reader import S3Reader
from volferry.stores.s3_transfer import Abilities, Knowledge, Transfers
from volferry.stores.s3_writer import S3Writer, abort_upload
from volferry.stores.throttle import Throttle
from volferry.stores.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from volferry.store_config import StoreConfig

_RANGES_AT_ONCE = 4
# Uploads of other machines that nothing was heard of for so long are those of dead runs.
_FOREIGN_UPLOAD = timedelta(days=1)
_KEYS_A_REQUEST = 1000


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
            knowledge=Knowledge(self._remembered(), self._remember),
            arguments=self._new_object_arguments,
            throttle=self._throttle,
        )

    def create(self, key: str, *, replaces: bool = False) -> S3Writer:
        version = self._version(key, "write") if replaces else None
        then = partial(self._delete_older, key, version) if version else None
        return S3Writer(self._transfers, self._name(key), key, replaces=replaces, then=then)

    def replace(self, key: str, data: bytes) -> None:
        write_whole(S3Writer(self._transfers, self._name(key), key, replaces=True), data)

    def put_unlocked(self, key: str, data: bytes) -> None:
        name = self._name(key)
        arguments = {
            argument: value
            for argument, value in self._new_object_arguments().items()
            if not argument.startswith("ObjectLock")
        }
        try:
            self._server.call(
                f"write {key}",
                lambda client: client.put_object(
                    Bucket=self._bucket,
                    Key=name,
                    Body=data,
                    ContentMD5=base64_text(md5(data)),  # buckets that lock by themselves ask for it
                    **arguments,
                ),
            )
        except ClientError as error:
            raise self._server.error(f"write {key}", error) from error

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> S3Reader:
        return S3Reader(self._transfers, self._name(key), key, offset, length)

    def size(self, key: str) -> int:
        name = self._name(key)
        try:
            return self._server.call(
                f"read {key}",
                lambda client: int(client.head_object(Bucket=self._bucket, Key=name)["ContentLength"]),
            )
        except ClientError as error:
            if error_code(error) in MISSING:
                raise self._server.missing(key, self.url) from error
            raise self._server.error(f"read {key}", error) from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found: list[ObjectInfo] = []
        token: str | None = None
        while True:
            infos, token = self._page(prefix, token)
            found += infos
            if token is None:
                break
        # Not every server lists in the order of keys.
        yield from sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        version = self._version(key, "delete")
        if version is not None:
            self._delete(key, version)

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
        name = self._name(key)
        try:
            return self._server.call(
                f"{action} {key}", lambda client: client.head_object(Bucket=self._bucket, Key=name)
            )
        except ClientError as error:
            if error_code(error) in MISSING:
                return None
            raise self._server.error(f"{action} {key}", error) from error

    def _delete(self, key: str, version: dict[str, str]) -> None:
        name = self._name(key)
        try:
            self._server.call(
                f"delete {key}", lambda client: client.delete_object(Bucket=self._bucket, Key=name, **version)
            )
        except ClientError as error:
            if error_code(error) not in MISSING:
                raise self._server.error(f"delete {key}", error) from error

    def protect(self, keys: Iterable[str]) -> None:
        lock = self._settings.object_lock
        if lock is None:
            return
        until = _in(lock.days)

        def extend(key: str) -> None:
            try:
                self._server.call(
                    f"lock {key}",
                    lambda client: client.put_object_retention(
                        Bucket=self._bucket,
                        Key=self._name(key),
                        Retention={"Mode": lock.mode.upper(), "RetainUntilDate": until},
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
        def date(client: Any) -> datetime:
            headers = client.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
            return parsedate_to_datetime(headers["date"])

        try:
            return self._server.call("ask for the time", date)
        except ClientError as error:
            raise self._server.error("ask for the time", error) from error

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
        marker: dict[str, str] | None = {}
        while marker is not None:
            uploads, marker = self._uploads_page(marker)
            for name, upload, begun in uploads:
                if upload not in living and begun < oldest:
                    aborted += abort_upload(self._server, name, upload)
        return aborted

    def _uploads_page(
        self, marker: dict[str, str]
    ) -> tuple[Sequence[tuple[str, str, datetime]], dict[str, str] | None]:
        """Name, id and beginning of uploads, and where to go on."""

        def page(client: Any) -> tuple[Sequence[tuple[str, str, datetime]], dict[str, str] | None]:
            response = client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix, **marker)
            uploads = [
                (each["Key"], each["UploadId"], each["Initiated"]) for each in response.get("Uploads", ())
            ]
            if not response.get("IsTruncated"):
                return uploads, None
            return uploads, {
                "KeyMarker": response["NextKeyMarker"],
                "UploadIdMarker": response["NextUploadIdMarker"],
            }

        try:
            return self._server.call("list uploads", page)
        except ClientError as error:
            if error_code(error) == "NoSuchUpload":  # how rclone says that there are none
                return [], None
            raise self._server.error("list uploads", error) from error

    def _page(self, prefix: str, token: str | None) -> tuple[Sequence[ObjectInfo], str | None]:
        """Objects, and where to go on."""

        def page(client: Any) -> tuple[Sequence[ObjectInfo], str | None]:
            response = client.list_objects_v2(
                Bucket=self._bucket,
                Prefix=f"{self._prefix}{prefix}",
                MaxKeys=_KEYS_A_REQUEST,
                **({"ContinuationToken": token} if token else {}),
            )
            if response["IsTruncated"] and not response["NextContinuationToken"]:
                raise GarbledResponse("a page of a list has no next one")
            infos = [
                ObjectInfo(key, int(each["Size"]), each["LastModified"])
                for each in response.get("Contents", ())
                # Others are none of ours, such as the "directories" that some tools make.
                if is_valid_key(key := each["Key"].removeprefix(self._prefix))
            ]
            return infos, response["NextContinuationToken"] if response["IsTruncated"] else None

        try:
            return self._server.call("list objects", page)
        except ClientError as error:
            raise self._server.error("list objects", error) from error

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

    def _remembered(self) -> Abilities | None:
        try:
            found = json.loads(self._memory.read_text()) if self._memory else {}
            return Abilities(bool(found["heeds_if_none_match"]), bool(found["checks_crc32"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, abilities: Abilities) -> None:
        if not abilities.heeds_if_none_match:
            self._note(
                f"{self._server.endpoint} does not know If-None-Match: volferry looks itself that nothing is overwritten"
            )
        if self._memory is None:
            return
        try:
            self._memory.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._memory.write_text(json.dumps(asdict(abilities)))
        except OSError:  # found out again next time
            pass

    @property
    def _memory(self) -> Path | None:
        return self._place_in_state / "server.json" if self._place_in_state else None


def _in(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)
