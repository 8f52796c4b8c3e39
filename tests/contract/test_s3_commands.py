"""What a user is told on the command line of a bucket that cannot be used. No engine is needed to look at backups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.cli import Outcome
    from tests.parts.s3_servers import S3Server, Servers

COMMANDS = (("list",), ("show", "volume"), ("verify",), ("prune",))
_LONGEST_SECONDS = 60


@pytest.fixture
def server(s3_server: Servers) -> S3Server:
    return s3_server("seaweedfs")


def cli(server: S3Server, directory: Path, bucket: str, **more: str) -> Cli:
    """With an engine that is not there."""
    return Cli(
        f"unix://{directory / 'no-engine.sock'}", directory / "store", directory / "state", directory
    ).having(**server.environment(VOLFERRY_HOST="host", VOLFERRY_STORE=f"s3://{bucket}/x", **more))


def is_told(outcome: Outcome, *words: str, code: int = 1) -> None:
    outcome.fails_with(*words, code=code)
    notes, complaint = outcome.stderr.splitlines()[:-1], outcome.stderr.splitlines()[-1]
    assert all("is an endpoint without TLS" in note for note in notes), outcome.story
    assert len(notes) <= 1, outcome.story
    assert complaint.startswith("volferry: "), outcome.story
    assert outcome.stdout == ""
    assert outcome.seconds < _LONGEST_SECONDS, outcome.story


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_a_wrong_secret(server: S3Server, tmp_path: Path, command: tuple[str, ...]) -> None:
    run = cli(server, tmp_path, server.bucket(), AWS_SECRET_ACCESS_KEY="wrong")
    is_told(run(*command), server.endpoint, "check the credentials")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_a_bucket_that_is_not_there(server: S3Server, tmp_path: Path, command: tuple[str, ...]) -> None:
    run = cli(server, tmp_path, "no-such-bucket")
    is_told(run(*command), f"there is no bucket no-such-bucket at {server.endpoint}")


def test_an_endpoint_that_refuses_connections(server: S3Server, tmp_path: Path) -> None:
    run = cli(server, tmp_path, "bucket", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    # All at once: each tries for a while.
    running = [run.start(*command) for command in COMMANDS]
    for outcome in [each.outcome() for each in running]:
        is_told(outcome, "cannot reach the endpoint http://127.0.0.1:9")


def test_a_bucket_without_backups(server: S3Server, tmp_path: Path) -> None:
    bucket = server.bucket()
    is_told(cli(server, tmp_path, bucket)("list"), f"there is no volferry store at s3://{bucket}/x", code=2)


def test_doctor_tries_the_bucket_and_leaves_nothing(server: S3Server, tmp_path: Path) -> None:
    bucket = server.bucket()
    found = cli(server, tmp_path, bucket)("doctor", "--json").exits(1).json  # there is no engine
    (store,) = [check for check in found["checks"] if check["name"] == "store"]
    assert store["ok"], store
    assert "written, read and deleted for a trial" in store["detail"]
    assert store["notes"] == []
    assert server.client().list_objects_v2(Bucket=bucket).get("Contents", []) == []
    assert server.unfinished(bucket) == 0
    found = cli(server, tmp_path, bucket, AWS_SECRET_ACCESS_KEY="wrong")("doctor", "--json").exits(1).json
    (store,) = [check for check in found["checks"] if check["name"] == "store"]
    assert "check the credentials" in store["detail"]
