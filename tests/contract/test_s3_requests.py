"""How much is asked of an S3 server: a request costs money, and time."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from tests.parts.http_answers import EMPTY_LIST, Answer, answering_server
from tests.parts.local_helper import LocalVolume
from volferry.archive.manifest import Manifest
from volferry.errors import StoreError, StoreUnreachable
from volferry.layout import manifest_key
from volferry.manifest_cache import ManifestCache
from volferry.model import BackupRef, new_backup_id
from volferry.repository import Repository
from volferry.store_config import Secret, StoreConfig
from volferry.stores.base import put
from volferry.stores.s3 import S3Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.s3_servers import Servers

_AT_ONCE = 8
_STEP_SECONDS = 20


class Requests:
    """Those of one kind that a store sends, from now on."""

    def __init__(self, store: S3Store, operation: str) -> None:
        self.number = 0
        self.together: threading.Barrier | None = None  # at which each waits for others
        self._lock = threading.Lock()
        store._server.client.meta.events.register(f"before-send.s3.{operation}", self._sent)

    def _sent(self, **_: Any) -> None:
        with self._lock:
            self.number += 1
        if self.together is not None:
            self.together.wait(_STEP_SECONDS)


def test_a_thousand_objects_are_listed_with_each_request(s3_server: Servers) -> None:
    server = s3_server("rclone")
    bucket = server.bucket()
    assert server.data
    place = server.data / bucket / "x" / "packs"
    place.mkdir(parents=True)
    keys = [f"packs/{number:04}" for number in range(2500)]
    for key in keys:
        (place.parent / key).write_bytes(b"x")
    store = S3Store(server.settings(f"s3://{bucket}/x"))
    lists = Requests(store, "ListObjectsV2")
    found = list(store.list("packs/"))
    assert [(info.key, info.size) for info in found] == [(key, 1) for key in keys]
    assert lists.number == 3


def test_manifests_are_fetched_several_at_once_and_never_again(s3_server: Servers, tmp_path: Path) -> None:
    server = s3_server("seaweedfs")
    store = S3Store(server.settings(f"s3://{server.bucket()}/x"), state=tmp_path)
    repository, _ = Repository.open_or_create(store)
    (tmp_path / "data").mkdir()
    first = LocalVolume(tmp_path / "data", tmp_path / "state").back_up(repository).ref
    manifest = repository.manifest(first)

    def another(minutes: int) -> BackupRef:
        later = replace(manifest, id=new_backup_id(manifest.started_at + timedelta(minutes=minutes)))
        ref = BackupRef(first.host, first.volume, later.id)
        put(store, manifest_key(ref), later.to_bytes())
        return ref

    refs = [first, *(another(minutes) for minutes in range(1, 2 * _AT_ONCE))]
    cache = ManifestCache(tmp_path / "manifests.sqlite")

    def listed() -> list[BackupRef]:
        found = repository.manifests(host=first.host, cache=cache)
        assert all(isinstance(manifest, Manifest) for _, manifest in found)
        return [ref for ref, _ in found]

    gets = Requests(store, "GetObject")
    gets.together = threading.Barrier(_AT_ONCE)
    assert listed() == refs
    assert gets.number == len(refs)
    gets.together = None
    assert listed() == refs
    assert gets.number == len(refs)
    refs.append(another(minutes=60))
    assert listed() == refs
    assert gets.number == len(refs), "the new one"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that are waited between attempts, in place of the waits."""
    found: list[float] = []
    monkeypatch.setattr("volferry.stores.s3_client.time.sleep", found.append)
    return found


def xml(code: str) -> str:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>Said by the server.</Message></Error>'


@pytest.mark.parametrize(
    "answer",
    [Answer(503, xml("SlowDown")), Answer(500, xml("InternalError")), Answer(429), Answer(502, "<html>")],
    ids=["503", "500", "429", "a gateway's page"],
)
def test_what_may_pass_is_tried_again_for_the_better_part_of_a_minute(
    waits: list[float], answer: Answer
) -> None:
    answers = [answer] * 7
    with answering_server(lambda _: answers.pop() if answers else Answer(body=EMPTY_LIST)) as server:
        store = S3Store(anybody(server.endpoint))
        assert list(store.list("")) == []
        assert len(server.asked) == 8
        assert 20 < sum(waits) < 60
        assert waits == sorted(waits) or max(waits) >= 10
        answers += [answer] * 100
        for _ in range(3):  # what failed before does not make it less patient
            before = len(server.asked)
            with pytest.raises(StoreError, match=r"^cannot list .* in the bucket bucket at http://"):
                list(store.list(""))
            assert len(server.asked) - before == 8


def test_a_server_that_has_never_answered_is_not_waited_for_as_long(waits: list[float]) -> None:
    with pytest.raises(StoreUnreachable, match=r"^cannot reach the endpoint http://127\.0\.0\.1:9: "):
        list(S3Store(anybody("http://127.0.0.1:9")).list(""))
    assert len(waits) == 3
    assert sum(waits) < 5


def anybody(endpoint: str) -> StoreConfig:
    return StoreConfig(
        url="s3://bucket/x", endpoint=endpoint, access_key_id="a", secret_access_key=Secret("b")
    )
