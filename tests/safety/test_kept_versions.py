"""A bucket that keeps versions: prune tells what room is free, and what is not."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.parts.cli import Cli
from tests.parts.local_helper import LocalVolume
from tests.parts.s3_servers import KEY_ID, SECRET
from volferry.layout import pack_key
from volferry.model import BackupRef
from volferry.repository import Repository
from volferry.stores.base import put
from volferry.stores.s3 import S3Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.s3_servers import Servers


@pytest.mark.parametrize("deletes", [False, True], ids=["versions stay", "versions go"])
def test_prune_frees_what_it_says(s3_server: Servers, tmp_path: Path, deletes: bool) -> None:
    server = s3_server("seaweedfs")
    bucket = server.bucket()
    client = server.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    (tmp_path / "data").mkdir()
    volume = LocalVolume(tmp_path / "data", tmp_path / "state")
    store = S3Store(server.settings(f"s3://{bucket}"), state=volume.state)
    repository, _ = Repository.open_or_create(store)
    for _ in range(2):
        (volume.data / "noise").write_bytes(os.urandom(100_000))
        volume.back_up(repository)
    put(store, pack_key(BackupRef("host", "vol", ""), "20200101T000000Z-abcdef.0"), bytes(200_000))
    config = tmp_path / "config.toml"
    config.write_text(
        f"""
        host = "{volume.host}"
        [stores.main]
        url = "s3://{bucket}"
        endpoint = "{server.endpoint}"
        access_key_id = "{KEY_ID}"
        secret_access_key = "{SECRET}"
        delete_versions = {str(deletes).lower()}
        [defaults]
        keep = {{ last = 1 }}
        [prune]
        grace = "0h"
        """
    )
    run = Cli(f"unix://{tmp_path / 'no-engine.sock'}", tmp_path, volume.state, tmp_path).having(
        VOLFERRY_CONFIG=str(config), VOLFERRY_STORE="main"
    )
    newest = max(info.modified for info in store.list(""))
    deadline = time.monotonic() + 30
    while store.now() <= newest:  # only what is older than the grace period of no hours goes
        assert time.monotonic() < deadline
        time.sleep(0.02)

    def room() -> int:
        """That is taken up, by all versions."""
        return sum(each["Size"] for each in client.list_object_versions(Bucket=bucket).get("Versions", []))

    before = room()
    dry = run("prune", "--dry-run", "--json").exits(0).json
    assert room() == before
    outcome = run("prune").exits(0)
    freed, kept = dry["freed_bytes"], dry["kept_version_bytes"]
    if deletes:
        assert (kept, before - room()) == (0, freed)
        assert freed > 100_000
        assert "older versions" not in outcome.stdout
    else:
        assert (freed, before - room()) == (0, 0)
        assert kept > 100_000
        assert "NoncurrentVersionExpiration" in outcome.stdout
        assert "0 B free" in outcome.stdout
    assert len(list(Repository.open(store).refs())) == 1
