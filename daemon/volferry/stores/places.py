"""Where a path or URL says that a store is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from volferry.errors import UsageError
from volferry.store_config import without_password
from volferry.stores.base import is_valid_key

# As AWS and most others take it (docs.aws.amazon.com, "General purpose bucket naming rules").
_USUAL_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{1,254}")
# A name or an address, with brackets around one of IPv6.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/\s]+))(?::\d*)?\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class Bucket:
    name: str
    prefix: str  # with its slash at the end, where there is one


@dataclass(frozen=True, slots=True)
class Remote:
    """A directory on another machine, by SFTP."""

    user: str | None
    host: str  # or what ~/.ssh/config calls it
    port: int | None
    path: str  # absolute, or below the directory in which a login begins

    @property
    def url(self) -> str:
        user = f"{quote(self.user)}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        path = quote(self.path if self.path.startswith("/") else f"/~/{self.path}")
        return f"sftp://{user}{host}{port}{path}"


def place_of(url: str) -> Path | Bucket | Remote:
    """`/srv/backups`, `relative/path`, `file:///srv/backups`, `s3://bucket/prefix` or `sftp://user@host/path`. Touches nothing.
    Raises UsageError.
    """
    if "://" not in url:
        if not url.strip():
            raise UsageError("the store is an empty path: give a directory, such as /srv/backups")
        if _SCHEME.match(url):  # one slash less, and a copy that is to be far away would be a directory here
            raise UsageError(
                f"store {url!r} looks like a URL, and is none: use file:///path, s3://bucket/prefix or sftp://host/path; "
                f"a directory of that name is './{url}'"
            )
        try:
            return Path(url).expanduser().absolute()
        except RuntimeError as error:
            raise UsageError(f"store {url!r}: nobody has that name here") from error
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"store {url!r} is no URL: {error}") from error
    if parts.scheme == "s3":
        return bucket_of(url)
    if parts.scheme == "sftp":
        return remote_of(url)
    if parts.scheme != "file":
        raise UsageError(
            f"store {url!r}: {parts.scheme}:// is not supported; use a path, file:///path, "
            "s3://bucket/prefix or sftp://user@host/path"
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


def making_of(bucket: str) -> str:
    """What to do about a bucket that is not there."""
    if _USUAL_BUCKET.fullmatch(bucket):
        return "make it there, or name another one"
    return "its name is none in S3, where one has 3 to 63 lower-case letters, digits, dots and hyphens: name another one"


def remote_of(url: str) -> Remote:
    """`sftp://user@host:port/absolute/path`, or `sftp://host/~/path` for one below the login's directory. Raises UsageError."""
    shown = without_password(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"store {shown!r} is no URL: {error}") from error
    if parts.password is not None:
        raise UsageError(
            f"store {shown!r}: a URL is no place for a password, which would be shown with it: use a key, or password_file"
        )
    user = unquote(parts.username) if parts.username else None
    # urlsplit makes it lower case, and a name in ~/.ssh/config may have both.
    named = _HOST.match(parts.netloc.rpartition("@")[2])
    host = named[1] or named[2] if named else ""
    # Both reach a command line: a name that starts with a dash would be an option of ssh.
    if not host or host.startswith("-") or (user or "").startswith("-"):
        raise UsageError(f"store {shown!r}: use sftp://USER@HOST/PATH")
    if parts.query or parts.fragment:
        raise UsageError(f"store {shown!r}: write ? and # in a path as %3F and %23")
    path = _path_of(unquote(parts.path))
    if path is None:
        raise UsageError(
            f"store {shown!r} has no path: give a directory of its own, such as sftp://{host}/backups, "
            f"or sftp://{host}/~/backups below the directory in which a login begins"
        )
    return Remote(user, host, port, path)


def _path_of(text: str) -> str | None:
    """With single slashes, and none at the end."""
    path = re.sub("/{2,}", "/", text).rstrip("/")
    if path == "/~" or not path or "\0" in path:
        return None
    return path.removeprefix("/~/") if path.startswith("/~/") else path
