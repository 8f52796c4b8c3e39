"""Tries all that a store in a bucket does, with an object that is gone afterwards, before the first backup finds out."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from volferry.errors import DeletionDenied, ObjectExists, ObjectLocked, StoreError
from volferry.stores.base import PROBES, get, write_whole
from volferry.stores.s3_lists import UPLOADS_STAY, UploadsNotListed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from volferry.stores.s3 import S3Store

_SMALL = b"volferry doctor\n" * 64
_SMALLEST_PART = 5 << 20
_THAWING = {"GLACIER", "DEEP_ARCHIVE"}


@dataclass(frozen=True, slots=True)
class BucketProbe:
    """What a bucket lacks, a sentence each, and what that means."""

    lacks: tuple[str, ...]


def probe(store: S3Store) -> BucketProbe:
    """Writes and reads objects as backups do; nothing stays, but where the credentials may not delete. What a killed probe left goes with a
    later `prune`. Raises StoreError where no store can be kept.
    """
    own = f"{PROBES}{secrets.token_hex(8)}"
    keys = (f"{own}-small", f"{own}-large")
    lacks: list[str] = []
    try:
        _written(store, keys[0], _SMALL)
        _written(store, keys[1], _SMALL + bytes(max(store.part_bytes, _SMALLEST_PART)))
        listed = {info.key for info in store.list(own)}
        if listed != set(keys):
            raise StoreError(
                f"cannot use the store {store.url}: its list does not have what was just written"
            )
        store.now()
        try:
            store.try_to_list_uploads()
        except UploadsNotListed as error:
            lacks.append(f"{error}: {UPLOADS_STAY}")
    finally:
        try:
            for key in keys:
                _removed(store, key)
        except DeletionDenied as error:
            lacks.append(
                f"{error}: backups need no more; `volferry prune` needs credentials that may delete, and "
                f"what was tried stays below {PROBES}"
            )
        except StoreError as error:
            lacks.append(f"{error}: `volferry prune` will fail, too")
    lacks += store.lacks
    lacks += _of_versions(store)
    lacks += _of_rules(store)
    return BucketProbe(tuple(lacks))


def _removed(store: S3Store, key: str) -> None:
    """Where objects are locked, it goes later. Raises DeletionDenied, StoreError."""
    try:
        store.remove_trial(key)
    except DeletionDenied:
        raise
    except ObjectLocked:
        pass


def _written(store: S3Store, key: str, data: bytes) -> None:
    """Written, read back, and not overwritten. Raises StoreError."""
    write_whole(store.create_trial(key), data)
    if get(store, key) != data:
        raise StoreError(f"cannot use the store {store.url}: it gives back other bytes than were written")
    try:  # other bytes: of the same ones, a store that has lost an answer may believe that they are its own
        write_whole(store.create_trial(key), b"-" + data[1:])
    except ObjectExists:
        return
    raise StoreError(
        f"cannot use the store {store.url}: it lets one writer overwrite what another has written"
    )


def _of_versions(store: S3Store) -> Iterator[str]:
    if store.keeps_versions():
        yield (
            "the bucket keeps versions: what `prune` deletes takes up room until a lifecycle rule (NoncurrentVersionExpiration) ends that, or "
            "with delete_versions = true is deleted for good"
        )


def _of_rules(store: S3Store) -> Iterator[str]:
    """Lifecycle rules that would take objects from backups. None where the credentials may not ask."""
    for rule in _rules(store):
        if rule.get("Status") != "Enabled" or not _is_about(rule, store.prefix):
            continue
        name = rule.get("ID") or "without a name"
        if "Expiration" in rule and rule["Expiration"].keys() & {"Days", "Date"}:
            yield (
                f"the bucket's lifecycle rule {name!r} expires objects: backups that are still listed will lose packs; let it expire "
                "noncurrent versions only"
            )
        if any(each.get("StorageClass") in _THAWING for each in rule.get("Transitions", ())):
            yield f"the bucket's lifecycle rule {name!r} moves objects to where they need thawing: they cannot be restored or verified then"


def _rules(store: S3Store) -> Sequence[Mapping[str, Any]]:
    try:
        found: Sequence[Mapping[str, Any]] = store.ask_bucket("get_bucket_lifecycle_configuration").get(
            "Rules", ()
        )
    except (ClientError, StoreError):
        return ()
    return found


def _is_about(rule: Mapping[str, Any], prefix: str) -> bool:
    """Whether it may concern objects below the prefix; those without a tag have none."""
    condition = rule.get("Filter") or {}
    both = condition.get("And") or {}
    if "Tag" in condition or both.get("Tags"):
        return False
    start = str(rule.get("Prefix") or condition.get("Prefix") or both.get("Prefix") or "")
    return prefix.startswith(start) or start.startswith(prefix)
