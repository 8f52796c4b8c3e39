"""Opens the store that a path or URL names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from volferry.errors import UsageError
from volferry.store_config import StoreConfig
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.stores.base import Store


def open_store(
    settings: StoreConfig | str, *, state: Path | None = None, note: Callable[[str], None] = lambda _: None
) -> Store:
    """`/srv/backups`, `relative/path`, `file:///srv/backups` or `s3://bucket/prefix`, with the settings of a bucket.

    Touches nothing. `state` is the state directory; `note` is told what a user should know, once. Raises UsageError.
    """
    if isinstance(settings, str):
        settings = StoreConfig(url=settings)
    url = settings.url
    if "://" not in url:
        if not url.strip():
            raise UsageError("the store is an empty path: give a directory, such as /srv/backups")
        return LocalStore(Path(url).expanduser().absolute(), note=note)
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from volferry.stores.s3 import S3Store  # noqa: PLC0415 -- boto3 is slow to import, and not always used

        return S3Store(settings, state=state, note=note)
    if parts.scheme != "file":
        raise UsageError(
            f"store {url!r}: {parts.scheme}:// is not supported; use a path, file:///path or s3://bucket/prefix"
        )
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise UsageError(f"store {url!r}: a file URL has three slashes, such as file:///srv/backups")
    return LocalStore(Path(unquote(parts.path)), note=note)
