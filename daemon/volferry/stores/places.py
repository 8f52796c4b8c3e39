"""Where a path or URL says that a store is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from volferry.errors import UsageError
from volferry.stores.base import is_valid_key

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{1,254}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class Bucket:
    name: str
    prefix: str  # with its slash at the end, where there is one


def place_of(url: str) -> Path | Bucket:
    """`/srv/backups`, `relative/path`, `file:///srv/backups` or `s3://bucket/prefix`. Touches nothing. Raises UsageError."""
    if "://" not in url:
        if not url.strip():
            raise UsageError("the store is an empty path: give a directory, such as /srv/backups")
        if _SCHEME.match(url):  # one slash less, and a copy that is to be far away would be a directory here
            raise UsageError(
                f"store {url!r} looks like a URL, and is none: use file:///path or s3://bucket/prefix; "
                f"a directory of that name is './{url}'"
            )
        try:
            return Path(url).expanduser().absolute()
        except RuntimeError as error:
            raise UsageError(f"store {url!r}: nobody has that name here") from error
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return bucket_of(url)
    if parts.scheme != "file":
        raise UsageError(
            f"store {url!r}: {parts.scheme}:// is not supported; use a path, file:///path or s3://bucket/prefix"
        )
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise UsageError(f"store {url!r}: a file URL has three slashes, such as file:///srv/backups")
    return Path(unquote(parts.path))


def bucket_of(url: str) -> Bucket:
    """Raises UsageError."""
    parts = urlsplit(url)
    if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise UsageError(f"store {url!r}: use s3://BUCKET or s3://BUCKET/PREFIX")
    prefix = unquote(parts.path).strip("/")
    if prefix and not is_valid_key(prefix):
        raise UsageError(
            f"store {url!r}: a prefix has letters, digits and - _ . ~ %, in parts separated by /"
        )
    return Bucket(parts.netloc, f"{prefix}/" if prefix else "")
