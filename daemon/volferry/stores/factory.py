"""Opens the store that a path or URL names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from volferry.store_config import StoreConfig
from volferry.stores.local import LocalStore
from volferry.stores.places import Remote, place_of
from volferry.stores.throttle import throttle_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.stores.base import Store


def open_store(
    settings: StoreConfig | str, *, state: Path | None = None, note: Callable[[str], None] = lambda _: None
) -> Store:
    """At the place of its URL, as `place_of` has it, with the settings of its kind.

    Touches nothing. `state` is the state directory; `note` is told what a user should know, once. Raises UsageError.
    """
    if isinstance(settings, str):
        settings = StoreConfig(url=settings)
    place = place_of(settings.url)
    throttle = throttle_of(settings)
    if isinstance(place, Path):
        return LocalStore(place, note=note, throttle=throttle)
    if isinstance(place, Remote):
        from volferry.stores.sftp import SftpStore  # noqa: PLC0415 -- as below

        return SftpStore(settings, state=state, note=note, throttle=throttle)
    from volferry.stores.s3 import S3Store  # noqa: PLC0415 -- boto3 is slow to import, and not always used

    return S3Store(settings, state=state, note=note, throttle=throttle)
