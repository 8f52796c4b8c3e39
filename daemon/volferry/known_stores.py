"""Which store was last seen at each place: an unmounted share leaves its mount point, where everything would be stored anew, and
nothing kept.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from volferry.archive.sealed import seal, unseal
from volferry.errors import NoSuchStore, StoreError, StoreGone, UnknownStore, VolferryError, reason
from volferry.repository import Repository
from volferry.stores.base import PROBES
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.stores.base import Store


_PROBE_LEFT_FOR = timedelta(days=1)


class KnownStores:
    """Remembers them in the state directory, by place: the store's URL, which has no credentials, and an endpoint."""

    def __init__(self, state_directory: Path) -> None:
        self._directory = state_directory / "known-stores"

    @property
    def empty(self) -> bool:
        """Whether this machine has never seen a store."""
        return not any(self._directory.glob("*.json"))

    def ids(self) -> frozenset[str]:
        """Of all that this machine has seen, but for damaged records."""
        found = (_id_in(path) for path in self._directory.glob("*.json"))
        return frozenset(each for each in found if each is not None)

    def open(self, store: Store, endpoint: str | None) -> Repository:
        """Raises UnknownStore where there never was one, StoreGone where there is none any longer, StoreError where there is another one."""
        path = self._path(store, endpoint)
        known = _id_in(path)
        try:
            repository = Repository.open(store)
        except NoSuchStore as error:
            if known is None and not path.exists():  # a damaged record, too, was of a store
                raise UnknownStore(str(error)) from error
            raise StoreGone(
                f"there was a store at {store.url}, and there is none now: is it mounted? "
                "If it is gone for good, --new-store (of `volferry backup` and `copy`) makes a new one"
            ) from error
        if known is None:
            try:
                self._remember(path, store, repository)
            except VolferryError:  # whoever only looks may have no place of his own
                pass
        elif known != repository.id:
            raise StoreError(
                f"the store at {store.url} is another one than before: is the right place mounted? "
                "If it is meant, --new-store (of `volferry backup` and `copy`) goes on with it"
            )
        return repository

    def open_or_create(
        self, store: Store, endpoint: str | None, *, new_store: bool
    ) -> tuple[Repository, bool]:
        """The repository, and whether it is new. With `new_store`, what was there before does not matter. Raises StoreError."""
        try:
            if not new_store:
                return self.open(store, endpoint), False
        except NoSuchStore:
            pass
        repository, new = Repository.open_or_create(store)
        self._remember(self._path(store, endpoint), store, repository)
        return repository, new

    def _path(self, store: Store, endpoint: str | None) -> Path:
        place = f"{endpoint or ''} {store.url}"
        return self._directory / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"

    def _remember(self, path: Path, store: Store, repository: Repository) -> None:
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            temporary.write_bytes(seal({"url": store.url, "store_id": repository.id}))
            temporary.replace(path)
        except OSError as error:
            raise VolferryError(
                f"cannot write to the state directory {path.parent}: {reason(error)}"
            ) from error


def are_one_place(source: Repository, target: Repository) -> bool:
    """Whether what is written to the target is written to the source. A store that was copied with other tools has the same id in another
    place. Raises StoreError.
    """
    if source.id != target.id:
        return False
    if source.store.place == target.store.place:
        return True
    if isinstance(source.store, LocalStore) and isinstance(target.store, LocalStore):
        return target.store.is_at(source.store)
    return _sees_a_probe_of(source.store, target.store)


def _sees_a_probe_of(source: Store, target: Store) -> bool:
    """A bucket may be reached by two names, or be mounted. Times and sizes tell nothing: tools that copy a bucket keep them. Where a mount
    sees a new object late, what is replaced in it is replaced by the same bytes.
    """
    key = f"{PROBES}{secrets.token_hex(16)}"
    target.put_unlocked(key, b"")
    try:
        return any(info.key == key for info in source.list(PROBES))
    finally:
        with suppress(StoreError):  # whoever may not delete leaves a few of them
            _remove_probes(target, key)


def _remove_probes(store: Store, own: str) -> None:
    """One's own, and those of runs that were killed. Raises StoreError."""
    store.delete(own)
    oldest = store.now() - _PROBE_LEFT_FOR
    for info in store.list(PROBES):
        if info.modified < oldest:
            store.delete(info.key)


def _id_in(path: Path) -> str | None:
    try:
        return str(unseal(path.read_bytes())["store_id"])
    except (OSError, ValueError, KeyError):  # none, or half of one
        return None
