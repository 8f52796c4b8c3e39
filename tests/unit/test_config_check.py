"""`volferry config check`: each mistake is found, with the file, the key, and what to do."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from volferry.cli.config import check
from volferry.config import load_config
from volferry.config_schema import config_schema
from volferry.errors import ConfigError

EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "volferry.toml"
STORES = '[stores.main]\nurl = "/srv/a"\n[stores.copy]\nurl = "/srv/b"\nreplica_of = "main"\n'
TABLE: list[tuple[str, str, str]] = [
    # what is in the file, the key that is named, and the hint
    ('hots = "db1"', "'hots'", "did you mean 'host'"),
    ('[default]\nschedule = "@daily"', "'default'", "did you mean 'defaults'"),
    ('[[rule]]\nmatch = "x"', "'rule'", "did you mean 'rules'"),
    ('[store.main]\nurl = "/srv"', "store", "expected text"),
    ('[defaults]\nshedule = "@daily"', "'defaults.shedule'", "did you mean 'defaults.schedule'"),
    ('[defaults]\nquiece = "stop"', "'defaults.quiece'", "did you mean 'defaults.quiesce'"),
    ('[defaults]\nquiesce = "freeze"', "defaults.quiesce", "'none', 'pause' or 'stop'"),
    ('[defaults]\nwarm = "perhaps"', "defaults.warm", "expected true or false"),
    ('[defaults]\nexclude = "*.tmp"', "defaults.exclude", "expected a list"),
    ('[defaults]\nexclude = ["!"]', "defaults.exclude", "'!'"),
    ('[defaults]\nschedule = "0 25 * * *"', "defaults.schedule", "the hour is from 0 to 23"),
    ('[defaults]\nschedule = "0 2 * *"', "defaults.schedule", "has 4 fields: a cron expression has five"),
    ('[defaults]\nschedule = "every day"', "defaults.schedule", 'an interval is such as "every 6h"'),
    ('[defaults]\nschedule = "@dayly"', "defaults.schedule", "@daily"),
    ('[defaults]\nschedule = "0 0 30 2 *"', "defaults.schedule", "never comes"),
    ("[defaults]\nschedule = 5", "defaults.schedule", "a schedule is text"),
    ("[defaults.keep]\ndayly = 7", "'defaults.keep.dayly'", "did you mean 'defaults.keep.daily'"),
    ("[defaults.keep]\ndaily = -2", "defaults.keep.daily", ">= -1"),
    ('[defaults.keep]\nwithin = "a month"', "defaults.keep.within", "such as 1y6m, 30d or 12h"),
    ('[defaults.hooks]\nbefore = "x"', "'defaults.hooks.before'", "`volferry config show` lists all"),
    ('[defaults.hooks]\non-error = "x"', "'defaults.hooks.on-error'", "did you mean 'defaults.hooks.on_error'"),
    ('[defaults.hooks]\npre = " "', "defaults.hooks.pre", "give it a command"),
    ('[defaults.hooks]\ntimeout = "10"', "defaults.hooks.timeout", "such as 90s, 10m or 1h30m"),
    ('[defaults]\nping = "hc-ping.com/x"', "defaults.ping", "use one such as https://"),
    ('[[rules]]\nmach = "x"', "'rules.0.mach'", "did you mean 'rules.0.match'"),
    ('[[rules]]\nmatch = "a"\n[[rules]]\nlabel = "=x"', "rules.1.label", "use KEY or KEY=VALUE"),
    ("[[rules]]\nproject = 7", "rules.0.project", "expected text"),
    ('[daemon]\ntimezone = "Berlin"', "daemon.timezone", "use one such as Europe/Berlin"),
    ("[daemon]\nat_once = 0", "daemon.at_once", ">= 1"),
    ('[daemon]\njitter = "a while"', "daemon.jitter", "such as 90s, 10m or 1h30m"),
    ('[daemon]\nlog = "xml"', "daemon.log", "'console' or 'json'"),
    ('[daemon]\nlisten = "9633x"', "daemon.listen", "such as 127.0.0.1:9633"),
    ('[daemon]\nlisten = "127.0.0.1:99999"', "daemon.listen", "such as 127.0.0.1:9633"),
    ('[daemon]\nselect = "some"', "daemon.select", "'all' or 'labelled'"),
    ('[notify]\non = ["failures"]', "notify.on.0", "'failure'"),
    ('[notify]\nurls = ["mail:me"]', "notify.urls.0", "apprise does not know"),
    ('[notify]\nurls_file = "/nowhere"', "notify.urls_file", "no such file"),
    ('[notify]\ntitle = "{volumes}"', "notify.title", "did you mean {volume}?"),
    ('[notify]\nbody = "{"', "notify.body", "a brace is written twice"),
    ('[prune]\ngrace = "soon"', "prune.grace", "such as 1y6m, 30d or 12h"),
    ('state_dir = "var/lib"', "state_dir", "not an absolute path"),
    ('engine = "localhost"', "engine", "there is no Docker context 'localhost'"),
    ('engine = "ftp://host"', "engine", "use unix:///path"),
    ('store = "mian"\n' + STORES, "store", "did you mean 'main'"),
    ('[stores.main]\nurl = "/a"\n[stores.copy]\nurl = "/b"\nreplica_of = "mian"', "stores.copy.replica_of", "did you mean 'main'"),
    ('[stores.a]\nurl = "/a"\nreplica_of = "b"\n[stores.b]\nurl = "/b"\nreplica_of = "a"', "stores", "one of them is the primary"),
    ('[stores.a]\nurl = "/a"\n[stores.b]\nurl = "/a"', "stores.a.url", "at the same place"),
    ('[stores.a]\nurl = "/a"\nregion = "eu"', "stores.a.region", "for s3:// only"),
    ('[stores.a]\nurl = "ftp://x/y"', "stores.a.url", "use a path, file:///path, s3://bucket/prefix or sftp://user@host/path"),
    ('[stores.a]\nurl = "s3://"', "stores.a.url", "use s3://BUCKET"),
    ('[stores.a]\nurl = "s3://b"\nendpoint = "minio:9000"', "stores.a.endpoint", "use one such as https://"),
    ('[stores.a]\nurl = "s3://b"\npart_size = "1M"', "stores.a.part_size", "from 5M to 5G"),
    ('[stores.a]\nurl = "s3://b"\nsecret_access_key = "x"', "stores.a", "needs access_key_id"),
    ('[stores.a]\nurl = "s3://b"\n[stores.a.object_lock]\nmode = "legal"\ndays = 3', "stores.a.object_lock.mode", "'governance' or 'compliance'"),
    ('[helper]\nmemory = "10M"', "helper.memory", "64M"),
    ("compression = 25", "compression", "<= 19"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "hint"), TABLE)
def test_a_mistake_is_one_line_with_file_key_and_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str, hint: str
) -> None:
    for name in ("VOLFERRY_CONFIG", "VOLFERRY_STORE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "volferry.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check(config=path)
    message = str(caught.value)
    assert str(path) in message
    assert key in message
    assert hint in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 40


def test_the_example_is_right_by_the_schema_and_what_is_wrong_is_not() -> None:
    """Without a validator: every key that the schema has is one that the file can have, and the other way round."""
    schema = config_schema()
    document = tomllib.loads(
        "\n".join(
            line.removeprefix("#") if line[:2] not in {"# ", "#"} else ""
            for line in EXAMPLE.read_text().splitlines()
        )
    )
    assert set(document) == set(schema["properties"])
    rule = schema["properties"]["rules"]["items"]["properties"]
    assert set(document["rules"][0]) == set(rule)
    assert rule["quiesce"]["enum"] == ["none", "pause", "stop"]
    assert schema["properties"]["stores"]["additionalProperties"]["required"] == ["url"]
    assert schema["properties"]["compression"] == {
        "type": "integer", "description": "zstd level: 1 is fastest.", "minimum": 1, "maximum": 19, "default": 1
    }  # fmt: skip
    assert json.loads(json.dumps(schema))["properties"].keys() == schema["properties"].keys()
    assert load_config(EXAMPLE) == load_config(None)
