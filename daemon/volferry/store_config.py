"""Settings of one store: a directory, a bucket, or a directory on another machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Meta

from volferry.checked import Section
from volferry.errors import ConfigError, reason
from volferry.retention import Keep
from volferry.sizes import Limit, Size

_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://[^/@:]*):[^/]*@", re.IGNORECASE)
_SMALLEST_PART, _LARGEST_PART = (
    5 << 20,
    5 << 30,
)  # of S3 (docs.aws.amazon.com, "Amazon S3 multipart upload limits")


class PartSize(Size):
    """What S3 takes as a part."""

    @classmethod
    def of_document(cls, value: object) -> PartSize:
        size = cls(super().of_document(value))
        if not _SMALLEST_PART <= size <= _LARGEST_PART:
            raise ValueError("it should be from 5M to 5G: that is what S3 takes as a part")
        return size


class Secret:
    """Text that is printed nowhere."""

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def of_document(cls, value: object) -> Secret:
        """Raises ValueError."""
        if not isinstance(value, str) or not value:
            raise ValueError("it should be text")
        return cls(value)

    def reveal(self) -> str:
        return self._text

    def __str__(self) -> str:
        return "(hidden)"

    __repr__ = __str__


class ObjectLock(Section, frozen=True):
    """S3 Object Lock: until when what is stored cannot be deleted."""

    mode: Annotated[
        Literal["governance", "compliance"], Meta(description="Who may lift it: some users, or nobody.")
    ]
    days: Annotated[int, Meta(ge=1, le=36500, description="How long, from the end of the last run.")]


# Keys that only one kind of store has a use for.
OF_BUCKETS = frozenset({
    *("endpoint", "region", "addressing", "profile", "access_key_id", "access_key_id_file", "secret_access_key"),
    *("secret_access_key_file", "session_token", "session_token_file", "ca_bundle", "storage_class", "encryption"),
    *("kms_key_id", "part_size", "parallel_parts", "object_lock"),
})  # fmt: skip
OF_REMOTES = frozenset({"identity_file", "known_hosts", "password", "password_file"})


class StoreConfig(Section, frozen=True):
    """One store. Most of it is for s3:// or sftp:// only, and boto3 and ssh find it elsewhere too."""

    url: Annotated[
        str,
        Meta(
            min_length=1,
            description="A directory, or a URL: file:///srv/backups, s3://bucket/prefix, sftp://user@host/path.",
        ),
    ]
    replica_of: Annotated[str | None, Meta(description="The store that this one is a copy of.")] = None
    endpoint: Annotated[str | None, Meta(description="URL of the server; default: that of AWS.")] = None
    region: Annotated[str | None, Meta(description="Region of the bucket.")] = None
    addressing: Annotated[
        Literal["auto", "path", "virtual"], Meta(description="Whether the bucket is in the path or the host.")
    ] = "auto"
    profile: Annotated[str | None, Meta(description="A profile of the AWS tools.")] = None
    access_key_id: Annotated[str | None, Meta(description="Credentials of its own.")] = None
    access_key_id_file: Annotated[Path | None, Meta(description="A file that holds it.")] = None
    secret_access_key: Annotated[Secret | None, Meta(description="Credentials of its own.")] = None
    secret_access_key_file: Annotated[Path | None, Meta(description="A file that holds it.")] = None
    session_token: Annotated[Secret | None, Meta(description="For temporary credentials.")] = None
    session_token_file: Annotated[Path | None, Meta(description="A file that holds it.")] = None
    ca_bundle: Annotated[Path | None, Meta(description="Certificates to trust in place of the usual.")] = None
    storage_class: Annotated[str | None, Meta(description="Such as STANDARD_IA.")] = None
    encryption: Annotated[
        Literal["AES256", "aws:kms"] | None, Meta(description="Encryption by the server.")
    ] = None
    kms_key_id: Annotated[str | None, Meta(description="The key for aws:kms.")] = None
    part_size: Annotated[PartSize, Meta(description="Of multipart uploads.")] = PartSize(8 << 20)
    parallel_parts: Annotated[int, Meta(ge=1, le=32, description="Parts on their way at once.")] = 4
    object_lock: ObjectLock | None = None
    limit: Annotated[
        Limit | None, Meta(description="Bytes a second that are sent there: 20M, or 20M; 08:00-18:00 2M.")
    ] = None
    limit_down: Annotated[Limit | None, Meta(description="Bytes a second that are read there.")] = None
    identity_file: Annotated[Path | None, Meta(description="A private key for sftp://.")] = None
    known_hosts: Annotated[
        Path | None, Meta(description="Host keys for sftp://, in place of ~/.ssh/known_hosts.")
    ] = None
    password: Annotated[Secret | None, Meta(description="Of the account at sftp://.")] = None
    password_file: Annotated[Path | None, Meta(description="A file that holds it.")] = None
    delete_versions: Annotated[
        bool,
        Meta(description="Whether what is deleted goes for good also from a bucket that keeps versions."),
    ] = False
    keep: Annotated[
        Keep | None, Meta(description="What is kept here, in place of what is said of the volumes.")
    ] = None

    def __post_init__(self) -> None:
        if (self.access_key_id or self.access_key_id_file) is None:
            if self.secret_access_key or self.secret_access_key_file:
                raise ValueError("secret_access_key needs access_key_id")
        elif (self.secret_access_key or self.secret_access_key_file) is None:
            raise ValueError("access_key_id needs secret_access_key")
        if self.kms_key_id and self.encryption != "aws:kms":
            raise ValueError('kms_key_id needs encryption = "aws:kms"')

    @property
    def kind(self) -> Literal["directory", "bucket", "remote"]:
        """What its URL leads to."""
        scheme = self.url.partition("://")[0].lower() if "://" in self.url else ""
        return "bucket" if scheme == "s3" else "remote" if scheme == "sftp" else "directory"

    @property
    def place(self) -> str:
        """Where it is, the same however a path is written: by this, what was run is kept by store."""
        url = self.url
        if "://" not in url or url.startswith("file:"):
            # Path.expanduser raises where there is no such user; a place is no reason to fail.
            path = unquote(urlsplit(url).path) if "://" in url else os.path.expanduser(url)  # noqa: PTH111
            return str(Path(path).absolute())
        return f"{self.endpoint or ''} {url.rstrip('/')}".strip()

    @property
    def credentials(self) -> tuple[str, str, str | None] | None:
        """Key id, secret, session token, where they are set. Raises ConfigError for a file that cannot be read."""
        key_id = self.access_key_id or _content(self.access_key_id_file)
        secret = (
            self.secret_access_key.reveal()
            if self.secret_access_key
            else _content(self.secret_access_key_file)
        )
        token = self.session_token.reveal() if self.session_token else _content(self.session_token_file)
        return (key_id, secret, token) if key_id and secret else None

    @property
    def sftp_password(self) -> str | None:
        """Where one is set. Raises ConfigError for a file that cannot be read."""
        return self.password.reveal() if self.password else _content(self.password_file)


def without_password(url: str) -> str:
    """As it may be shown."""
    return _PASSWORD.sub(r"\1@", url)


def _content(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        content = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read the credentials in {path}: {why}") from error
    if not content:
        raise ConfigError(f"the file for credentials {path} is empty")
    return content
