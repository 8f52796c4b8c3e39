"""Opens the store that a path or URL names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from volferry.errors import UsageError
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from volferry.stores.base import Store


def open_store(url: str) -> Store:
    """`/srv/backups`, `relative/path` or `file:///srv/backups`. Touches nothing. Raises UsageError."""
    if "://" not in url:
        if not url.strip():
            raise UsageError("the store is an empty path: give a directory, such as /srv/backups")
        return LocalStore(Path(url).expanduser().absolute())
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise UsageError(f"store {url!r}: {parts.scheme}:// is not supported; use a path or file:///path")
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise UsageError(f"store {url!r}: a file URL has three slashes, such as file:///srv/backups")
    return LocalStore(Path(unquote(parts.path)))
