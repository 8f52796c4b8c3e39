"""Who a user is to an S3 server: where credentials come from, and what is said where they do not do."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.parts.http_answers import EMPTY_LIST, Answer, answering_server
from tests.parts.s3_servers import KEY_ID, SECRET
from volferry.errors import ConfigError, StoreUnreachable
from volferry.store_config import ObjectLock, Secret, StoreConfig
from volferry.stores.base import get, put
from volferry.stores.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.parts.http_answers import Asked
    from tests.parts.s3_servers import S3Server, Servers


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The AWS tools find nothing here but what the test puts there."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def server(s3_server: Servers) -> S3Server:
    """One that looks at signatures."""
    return s3_server("seaweedfs")


def settings(server: S3Server, **more: object) -> StoreConfig:
    """Without credentials."""
    return server.settings(
        f"s3://{server.bucket()}/x", **{"access_key_id": None, "secret_access_key": None, **more}
    )


def profile(name: str, key_id: str = KEY_ID, secret: str = SECRET) -> str:
    return f"[{name}]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n"


def works(store: S3Store) -> None:
    put(store, "object", b"content")
    assert get(store, "object") == b"content"


@pytest.mark.parametrize("named_by", ["config", "environment", "nothing"])
def test_credentials_may_be_in_a_profile(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    right, wrong = ("default", "backups") if named_by == "nothing" else ("backups", "default")
    (tmp_path / "credentials").write_text(profile(right) + profile(wrong, secret="wrong"))
    store = S3Store(settings(server, profile="backups" if named_by == "config" else None))
    if named_by == "environment":
        monkeypatch.setenv("AWS_PROFILE", "backups")
    works(store)


def test_a_profile_may_say_all_of_a_server(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        profile("profile backups") + f"endpoint_url = {server.endpoint}\nregion = eu-central-1\n"
    )
    works(S3Store(settings(server, profile="backups", endpoint=None, addressing="auto")))


@pytest.mark.parametrize("named_by", ["config", "environment"])
def test_a_profile_that_is_not_there_is_a_wrong_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    (tmp_path / "credentials").write_text(profile("default"))
    if named_by == "environment":
        monkeypatch.setenv("AWS_PROFILE", "nobody")
    store = S3Store(
        StoreConfig(
            url="s3://bucket/x",
            endpoint="http://127.0.0.1:9",
            profile="nobody" if named_by == "config" else None,
        )
    )
    with pytest.raises(ConfigError, match=r"^store s3://bucket/x: .*profile \(nobody\) could not be found$"):
        list(store.list(""))


def test_credentials_may_be_in_the_environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    works(S3Store(settings(server, endpoint=None, addressing="auto")))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnreachable, match="check the credentials"):
        list(S3Store(settings(server)).list(""))
    works(S3Store(settings(server, access_key_id=KEY_ID, secret_access_key=Secret(SECRET))))


def test_half_of_the_credentials_is_a_wrong_configuration(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    with pytest.raises(ConfigError, match=r"^store s3://.*AWS_SECRET_ACCESS_KEY$"):
        list(S3Store(settings(server)).list(""))


def test_the_role_of_an_instance_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    role = "volferry-role"
    until = datetime.now(UTC) + timedelta(hours=6)
    document = json.dumps(
        {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": "KEY-OF-THE-ROLE",
            "SecretAccessKey": "secret-of-the-role",
            "Token": "token-of-the-role",
            "Expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}",
        }
    )
    place = "/latest/meta-data/iam/security-credentials/"

    def metadata(asked: Asked) -> Answer:
        if (asked.method, asked.path) == ("PUT", "/latest/api/token"):
            return Answer(body="session")
        if asked.headers.get("x-aws-ec2-metadata-token") != "session":
            return Answer(401)
        found = {place: role, f"{place}{role}": document}.get(asked.path)
        return Answer(404) if found is None else Answer(body=found)

    with (
        answering_server(metadata) as instance,
        answering_server(lambda _: Answer(body=EMPTY_LIST)) as server,
    ):
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance.endpoint)
        store = S3Store(StoreConfig(url="s3://bucket/x", endpoint=server.endpoint))
        assert list(store.list("")) == []
        (asked,) = server.asked
        assert "Credential=KEY-OF-THE-ROLE/" in asked.headers["authorization"]
        assert asked.headers["x-amz-security-token"] == "token-of-the-role"
        assert [each.path for each in instance.asked] == ["/latest/api/token", place, f"{place}{role}"]


def refusing(code: str, status: int) -> Callable[[Asked], Answer]:
    """All but questions whether something is there."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>Said by the server.</Message></Error>'
    return lambda asked: Answer(404) if asked.method == "HEAD" else Answer(status, body)


def store_at(endpoint: str) -> S3Store:
    return S3Store(
        StoreConfig(
            url="s3://bucket/x",
            endpoint=endpoint,
            access_key_id=KEY_ID,
            secret_access_key=Secret(SECRET),
            session_token=Secret("token"),
            object_lock=ObjectLock(mode="governance", days=1),
        )
    )


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("ExpiredToken", 400, "the credentials have expired"),
        ("InvalidToken", 400, "the session token is not valid: check the credentials"),
        ("AccessDenied", 403, "access is denied: check what the credentials may do with the bucket"),
        ("RequestTimeTooSkewed", 403, "the clock of this machine is wrong, by what the server says"),
    ],
)
def test_what_cannot_be_helped_is_said_at_once(code: str, status: int, words: str) -> None:
    with answering_server(refusing(code, status)) as server:
        store = store_at(server.endpoint)
        for what, use in (
            ("list objects", lambda: list(store.list(""))),
            ("read object", lambda: store.open("object")),
            ("write object", lambda: put(store, "object", b"x")),
            ("lock object", lambda: store.protect(["object"])),
            ("list uploads", store.abort_uploads),
        ):
            server.asked.clear()
            with pytest.raises(StoreUnreachable) as raised:
                use()
            assert str(raised.value) == (
                f"cannot {what} in the bucket bucket at {server.endpoint}: {words} ({code}: Said by the server.)"
            )
            assert len([each for each in server.asked if each.method != "HEAD"]) == 1, what


@pytest.mark.parametrize(
    ("status", "words"), [(400, "the credentials may have expired"), (403, "access is denied")]
)
def test_what_cannot_be_helped_is_said_also_of_answers_without_a_body(status: int, words: str) -> None:
    with answering_server(lambda _: Answer(status)) as server:
        store = store_at(server.endpoint)
        for use in (lambda: store.size("object"), lambda: store.delete("object"), store.now):
            server.asked.clear()
            with pytest.raises(StoreUnreachable, match=words) as raised:
                use()
            assert len(str(raised.value).splitlines()) == 1
            # botocore asks once more which region the bucket is in
            assert len(server.asked) <= 2
