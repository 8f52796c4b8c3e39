"""A first backup of 1.5 GB to SeaweedFS and a restore from it, beside `tar`, `zstd` and `rclone` in a pipe.

Each round runs both once, in turn; what counts is the median, and the ratio.
"""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING

from tests.bench.measuring import VOLFERRY, kept_volumes, megabytes, mixed_data, timed, volume, workplace
from tests.parts.s3_servers import KEY_ID, SECRET, program, seaweedfs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.measuring import Measured
    from tests.parts.s3_servers import S3Server

_SIZE_BYTES = 1_500_000_000
_FILES = 12_000
_NAME = "volferry-bench-s3"
_REMOTE = f"""[bench]
type = s3
provider = SeaweedFS
endpoint = {{}}
access_key_id = {KEY_ID}
secret_access_key = {SECRET}
"""


def main(arguments: list[str]) -> None:
    rounds = int(arguments[0]) if arguments else 3
    took: dict[str, list[Measured]] = {}
    with workplace() as place, volume(_NAME) as data, kept_volumes() as kept:
        mixed_data(data, size_bytes=_SIZE_BYTES, files=_FILES)
        (place / "server").mkdir()
        with seaweedfs(place / "server") as server:
            (place / "rclone.conf").write_text(_REMOTE.format(server.endpoint))
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", flush=True)
                here = place / f"round{number}"
                here.mkdir()
                for name, measured in (_volferry(server, here, kept) | _rclone(server, here, data)).items():
                    took.setdefault(name, []).append(measured)
    seconds = {name: statistics.median(each.seconds for each in values) for name, values in took.items()}
    print(f"\n{'':10}{'volferry':>10}{'rclone':>10}{'ratio':>8}   (medians of {rounds}, seconds)")
    for what in ("backup", "restore"):
        ours, theirs = seconds[f"volferry {what}"], seconds[f"rclone {what}"]
        print(f"{what:10}{ours:10.2f}{theirs:10.2f}{ours / theirs:8.2f}")
    peaks = (
        each.peak_bytes for name, values in took.items() if name.startswith("volferry") for each in values
    )
    print(f"\npeak memory of volferry: {megabytes(max(peaks))}")


def _volferry(server: S3Server, place: Path, kept: list[str]) -> dict[str, Measured]:
    environment = {
        **os.environ,
        **server.environment(),
        "VOLFERRY_STATE_DIR": str(place / "state"),
        "VOLFERRY_STORE": f"s3://{server.bucket()}/bench",
    }
    backup = timed([*VOLFERRY, "backup", _NAME], environment=environment)
    kept.append(f"{_NAME}-{place.name}")
    restore = timed([*VOLFERRY, "restore", _NAME, "--into", kept[-1]], environment=environment)
    return {"volferry backup": backup, "volferry restore": restore}


def _rclone(server: S3Server, place: Path, data: Path) -> dict[str, Measured]:
    """As people do it by hand, with as many threads as there are cores."""
    rclone = f"{program('rclone')} --config {place.parent / 'rclone.conf'}"
    target = f"bench:{server.bucket()}/bench.tar.zst"
    (place / "out").mkdir()
    backup = timed(["sh", "-c", f'tar -c -C "$0" . | zstd -q -1 -T0 | {rclone} rcat {target}', str(data)])
    restore = timed(["sh", "-c", f'{rclone} cat {target} | zstd -dc | tar -x -C "$0"', str(place / "out")])
    return {"rclone backup": backup, "rclone restore": restore}
