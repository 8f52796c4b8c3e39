"""`volferry list` of 10,000 manifests in SeaweedFS and in a directory, the first time and once they are known."""

from __future__ import annotations

import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.measuring import VOLFERRY, megabytes, timed, workplace
from tests.parts.s3_servers import seaweedfs
from volferry.archive.sealed import seal, unseal
from volferry.model import new_backup_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.measuring import Measured

_VOLUMES, _BACKUPS = 100, 100
_GOLDEN = Path(__file__).parents[1] / "golden" / "format-2" / "store"


def main(arguments: list[str]) -> None:
    rounds = int(arguments[0]) if arguments else 5
    with workplace() as place:
        (place / "server").mkdir()
        objects = dict(_objects())
        for key, data in objects.items():
            path = place / "store" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        with seaweedfs(place / "server") as server:
            bucket = server.bucket()
            client = server.client()
            with ThreadPoolExecutor(16) as pool:
                list(
                    pool.map(
                        lambda key: client.put_object(Bucket=bucket, Key=key, Body=objects[key]), objects
                    )
                )
            environment = {**os.environ, **server.environment()}
            for name, store in (("SeaweedFS", f"s3://{bucket}"), ("directory", str(place / "store"))):
                _list(
                    name,
                    {**environment, "VOLFERRY_STORE": store, "VOLFERRY_STATE_DIR": str(place / name)},
                    rounds,
                )


def _list(name: str, environment: dict[str, str], rounds: int) -> None:
    def once() -> Measured:
        return timed([*VOLFERRY, "list", "--host", "bench"], environment=environment)

    first = once()
    again = [once() for _ in range(rounds)]
    seconds = sorted(each.seconds for each in again)
    print(
        f"{name}: {_VOLUMES * _BACKUPS} manifests: first {first.seconds:.2f} s; once seen {statistics.median(seconds):.2f} s "
        f"(median of {rounds}, {seconds[0]:.2f} to {seconds[-1]:.2f}); peak {megabytes(max(each.peak_bytes for each in again))}",
        flush=True,
    )


def _objects() -> Iterator[tuple[str, bytes]]:
    """The store's marker and its manifests: one of the golden ones, under other names."""
    yield "volferry.json", (_GOLDEN / "volferry.json").read_bytes()
    model: dict[str, Any] = unseal(max((_GOLDEN / "manifests").rglob("*.json")).read_bytes())
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for volume in range(_VOLUMES):
        for number in range(_BACKUPS):
            began = begin + timedelta(hours=number)
            backup = new_backup_id(began)
            name = f"volume{volume:03}"
            document = {**model, "id": backup, "started_at": began.isoformat()}
            document |= {"host": "bench", "volume": {**model["volume"], "name": name}}
            yield f"manifests/bench/{name}/{backup}.json", seal(json.loads(json.dumps(document)))
