"""What is shown of a command's output: nothing that stands in the command, or in its environment, but names of programs and options."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from volferry.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAMS = ["pg_dump", "mysqldump", "/usr/local/bin/freeze", "redis-cli"]
OPTIONS = ["--password", "--no-owner", "-p", "-U"]


def shown(line: str, text: str, environment: Mapping[str, str] | None = None) -> str:
    return Redaction(["sh", "-c", line], environment or {})(text)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("pg_dump -U app -Fc app", 'pg_dump: error: connection to server failed: FATAL: database "x" does not exist'),
        ("mysqldump --no-owner x", "mysqldump: unknown option '--no-owner'"),
        ("set -e\nmysqldum -psecret\n", "sh: 2: mysqldum: not found"),
        ("/usr/local/bin/freeze hunter22", "/usr/local/bin/freeze: line 3: no such device"),
        ("test -e /there || { echo 'not mounted' >&2; exit 1; }", "not mounted"),
        ("echo it is not mounted >&2; exit 1", "it is not mounted"),
        ("printf 'no %s\\n' disk 1>&2 && exit 1", "no disk"),
        ("sleep 5 2>/dev/null; exec pg_dump x", "pg_dump: null value"),
        ("X=$(hostname); logger x", "hostname: not found"),
    ],
)  # fmt: skip
def test_an_error_stays_an_error(line: str, text: str) -> None:
    assert shown(line, text) == text


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        ("mysqldump -pS3cret app", "mysqldump: S3cret", "mysqldump: …"),
        ("mysqldump -pabc app", "mysqldump: -pabc: abc is wrong", "mysqldump: …: … is wrong"),
        ("PGPASSWORD=abc123 pg_dump app", "sh: 1: PGPASSWORD=abc123: not found", "sh: 1: …: not found"),
        ("pg_dump app\nmysqldump -psecret", "sh: 2: mysqldump -psecret: not found", "sh: 2: …: not found"),
        ("mysqldump -pab;cdef app", "sh: 1: cdef: not found", "sh: 1: …: not found"),
        ("mysqldump -pab;cde app", "sh: 1: cde: not found", "sh: 1: …: not found"),
        ("mysqldump -pabcd|efgh app", "sh: 1: efgh: not found", "sh: 1: …: not found"),
        ("mysqldump -pab&cdef app", "sh: 1: cdef: not found", "sh: 1: …: not found"),
        ("mysqldump -pabcd$efgh app", "access denied (abcd)", "access denied (…)"),
        ("mysqldump --password='it''s' app", "mysqldump: its", "mysqldump: …"),
        ('mysqldump "-pmy secret" app', "got my secret", "got …"),
        ("pg_dump postgres://app:s3c@db/shop", "no access for app with s3c", "no access for … with …"),
        ("pg_dump postgres://app:p%40ssw0rd@db/shop", "wrong password p@ssw0rd", "wrong password …"),
        ("mysql -e \"set password='hunter2'\"", "error near (hunter2)", "error near (…)"),
        ("mysql -e \"set password='hunter2-battery'\"", "error near 'er2-batt'", "error near '…'"),
        ("mysql <<X\nhunter2\nX", "hunter2: not found", "…: not found"),
        ("mysql x # hunter2; swordfish", "hunter2 or swordfish", "… or …"),
        ("case $1 in\nhunter2) pg_dump;;\nesac", "hunter2", "…"),
        ("echo hunter2 | mysql -p", "no user hunter2", "no user …"),
        ("echo hunter2 >&2; mysql -phunter2", "no user hunter2", "no user …"),
        ("mysqldump -p'SECRET' app", "unknown user secret", "unknown user …"),
        ("mysqldump 'broken -psecret", "sh: unterminated: broken -psecret", "sh: unterminated: …"),
    ],
)  # fmt: skip
def test_what_may_be_a_secret_is_hidden(line: str, text: str, said: str) -> None:
    assert shown(line, text) == said


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        (["mysqldump", "--password=hunter2"], "mysqldump: bad hunter2", "mysqldump: bad …"),
        (["mysqldump -phunter2"], 'exec: "mysqldump -phunter2": executable file not found', 'exec: "…": executable file not found'),
        (["/bin/bash", "-ec", "pg_dump --no-owner hunter2"], "pg_dump --no-owner: hunter2", "pg_dump --no-owner: …"),
        (["su", "-c", "mysqldump -phunter2"], "su: hunter2", "su: …"),
        (["sh", "script", "hunter2"], "sh: hunter2", "sh: …"),
    ],
)  # fmt: skip
def test_a_list_of_arguments_is_a_command_too(command: list[str], text: str, said: str) -> None:
    assert Redaction(command, {})(text) == said


@pytest.mark.parametrize(
    ("environment", "text", "said"),
    [
        ({"MYSQL_ROOT": "hunter2"}, "no access with -phunter2", "no access with -p…"),
        ({"DB_PASSWORD": "abc"}, "no access with abc", "no access with …"),
        ({"DATABASE_URL": "postgres://app:hunter2@db/shop"}, "hunter2 is wrong", "… is wrong"),
        ({"PATH": "/usr/bin", "VOLFERRY_VOLUME": "pgdata"}, "pgdata: not in /usr/bin", "pgdata: not in /usr/bin"),
        ({"KEYS": "first\nsecond"}, "not second", "not …"),
    ],
)  # fmt: skip
def test_nor_is_what_stands_in_the_environment(environment: dict[str, str], text: str, said: str) -> None:
    assert shown("mysqldump -p$X", text, environment) == said


def test_lines_of_a_trace_and_very_long_ones_are_not_shown() -> None:
    redaction = Redaction(["sh", "-c", "set -x; mysqldump -p$(cat /run/secrets/x)"], {})
    lines = [
        b"",
        b"++ cat /run/secrets/x",
        b"+ mysqldump -phunter2",
        b"x" * 5000,
        b"mysqldump: no\\such",
        b"+ x",
    ]
    assert redaction.first_of(lines) == r"mysqldump: no\\such"
    assert redaction.first_of(lines[:4]) == ""


SECRETS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="…"), min_size=4, max_size=20
)
SWAPPED = {code: chr(code).swapcase() for code in range(128)}
FORMS = [
    "{program} {option} {quoted} other",
    "{program} -p{quoted} other",
    "{program} --password={quoted}",
    "KEY={quoted} {program} --no-owner",
    "export KEY={quoted}; {program}",
    "{program} x\n{program} {quoted}\n",
    "{program} scheme://user:{quoted}@host/path",
    "cd /x && {program} | tee {quoted} >&2",
    "{program} {option} {secret} other",  # whoever forgot to quote it
    "{program} -p{secret}",
    "{program} --password={secret} x",
    "{program} user:{secret}@host",
    'bash -c "{program} {secret} x"',
]
TEXTS = [
    "{program}: error: {secret}",
    "sh: 1: {secret}: not found",
    "{program}: access denied for 'x'@'y' ({secret})",
    "-p{secret}",
    "{line}",
    "sh: 1: {line}: not found",
    "{secret}{secret}",
    "{program}{secret}",
]  # fmt: skip


@given(
    st.sampled_from(FORMS), st.sampled_from(TEXTS), SECRETS, st.sampled_from(PROGRAMS), st.sampled_from(OPTIONS),
    st.booleans(),
)  # fmt: skip
@example("{program} -p{secret}", "sh: 1: {secret}: not found", "ab$(cdef)", "pg_dump", "-p", False)
@example("{program} {option} {secret} other", "sh: 1: {secret}: not found", "#abc", "pg_dump", "-p", False)
def test_no_word_of_the_command_is_shown(
    form: str, text: str, secret: str, program: str, option: str, upper: bool
) -> None:
    line = form.format(program=program, option=option, secret=secret, quoted=shlex.quote(secret))
    assume(secret.lower() not in f"{program} {option} not found error access denied".lower())
    spoken = text.format(
        program=program, secret=secret.translate(SWAPPED) if upper else secret, line=line.splitlines()[-1]
    )
    for said in (shown(line, spoken), Redaction([program, line], {})(spoken)):
        assert not {secret, secret.translate(SWAPPED)} & {
            said[at : at + len(secret)] for at in range(len(said))
        }


@given(st.lists(SECRETS, min_size=1, max_size=4), st.sampled_from(PROGRAMS))
def test_nor_any_argument_of_a_list(arguments: list[str], program: str) -> None:
    redaction = Redaction([program, *arguments], {})
    for each in arguments:
        assume(not each.startswith("-") and each.lower() not in program)
        for said in (f"{program}: {each}", json.dumps([program, *arguments], ensure_ascii=False)):
            assert each.lower() not in redaction(said).lower()


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_line_can_be_looked_at(line: str, text: str) -> None:
    shown(line, text)
    Redaction([line], {"X": line})(text)
    Redaction([], {})(text)
