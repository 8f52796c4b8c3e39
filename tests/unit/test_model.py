from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.model import BACKUP_ID, Volume, VolumeUse, new_backup_id, printable


def named_by(text: str) -> bytes:
    """The path that a printable text names."""
    parts = re.split(r"(\\\\|\\x[0-9a-f]{2})", text)
    return b"".join(
        b"\\" if part == "\\\\" else bytes.fromhex(part[2:]) if part[:1] == "\\" else part.encode()
        for part in parts
    )


@given(st.binary() | st.text().map(str.encode))
def test_a_printable_path_names_its_path_exactly(path: bytes) -> None:
    assert named_by(printable(path)) == path


@given(st.binary() | st.text().map(str.encode))
def test_a_printable_path_is_one_line_that_can_be_printed(path: bytes) -> None:
    text = printable(path)
    assert text.isprintable()
    assert len(text.splitlines()) <= 1
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"", ""),
        (b"plain/path.txt", "plain/path.txt"),
        (b" two words ", " two words "),
        ("é/日本".encode(), "é/日本"),
        (b"a\nb", r"a\x0ab"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"back\\slash", r"back\\slash"),
        (b"\\xff", r"\\xff"),
        (b"\x1b[31m", r"\x1b[31m"),
        ("\u202e".encode(), r"\xe2\x80\xae"),
    ],
)
def test_a_printable_path_is_as_readable_as_can_be(path: bytes, text: str) -> None:
    assert printable(path) == text


@given(st.datetimes(min_value=datetime(1000, 1, 2), max_value=datetime(9000, 1, 1)))  # noqa: DTZ001 -- the zone is set below
def test_an_id_begins_with_the_time_in_utc(moment: datetime) -> None:
    here = moment.replace(tzinfo=timezone(timedelta(hours=5, minutes=30)))
    found = new_backup_id(here)
    assert BACKUP_ID.fullmatch(found)
    assert found[:16] == here.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def test_ids_of_one_second_differ() -> None:
    now = datetime.now(UTC)
    assert len({new_backup_id(now) for _ in range(20)}) == 20


def volume(
    name: str = "data", labels: dict[str, str] | None = None, uses: tuple[VolumeUse, ...] = ()
) -> Volume:
    return Volume(name, "local", {}, labels or {}, "local", "2026-01-01T00:00:00Z", uses)


def use(state: str = "running", project: str | None = None) -> VolumeUse:
    return VolumeUse("db", "0" * 64, "image", state, "/data", read_write=True, project=project)


@pytest.mark.parametrize(
    ("found", "anonymous"),
    [
        (volume("data"), False),
        (volume("0123456789abcdef" * 4), True),
        (volume("0123456789abcdef" * 4 + "0"), False),
        (volume("0123456789abcdeF" * 4), False),
        (volume("data", {"com.docker.volume.anonymous": ""}), True),
    ],
)
def test_a_volume_without_a_name_of_its_own_is_anonymous(found: Volume, anonymous: bool) -> None:
    assert found.anonymous is anonymous


def test_a_volume_belongs_to_its_project_and_to_those_that_mount_it() -> None:
    labels = {"com.docker.compose.project": "shop"}
    assert volume("data", labels, (use(project="blog"), use())).projects == {"shop", "blog"}
    assert volume().projects == frozenset()


@pytest.mark.parametrize(
    ("state", "running"),
    [
        ("running", True),
        ("stopping", True),
        ("paused", True),
        ("restarting", True),
        ("exited", False),
        ("created", False),
        ("dead", False),
    ],
)
def test_a_container_that_has_processes_runs(state: str, running: bool) -> None:
    assert use(state).running is running
