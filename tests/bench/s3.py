"""A first backup of 1.5 GB to SeaweedFS and a restore from it, beside `tar`, `zstd` and `rclone` in a pipe.

Each round runs both once, in turn; what counts is the median, and the ratio. Who is first alternates, and each begins with
empty caches but for the programs themselves: on a virtual machine, whoever needs memory that was not used for a while gets
it from the host (up to 5 s of `clear_page_erms` for 1.5 GB), and that must not be one of the two more often than the other.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.measuring import VOLFERRY, kept_volumes, megabytes, mixed_data, timed, volume, workplace
from tests.parts.s3_servers import KEY_ID, SECRET, program, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Callable

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
            places = [place / f"round{number}" for number in range(rounds)]
            ways = {
                "volferry": _volferry(server, kept),
                "rclone": _rclone(server, data, place / "rclone.conf"),
            }
            for what in ("backup", "restore"):
                for number, here in enumerate(places):
                    print(f"{what}, round {number + 1} of {rounds}", flush=True)
                    here.mkdir(exist_ok=True)
                    for name in sorted(ways, reverse=number % 2 == 0):
                        _empty_caches()
                        measured = ways[name](what, here)
                        took.setdefault(f"{name} {what}", []).append(measured)
                        print(f"  {name}: {measured.seconds:.2f} s", flush=True)
    seconds = {name: statistics.median(each.seconds for each in values) for name, values in took.items()}
    print(f"\n{'':10}{'volferry':>10}{'rclone':>10}{'ratio':>8}   (medians of {rounds}, seconds)")
    for what in ("backup", "restore"):
        ours, theirs = seconds[f"volferry {what}"], seconds[f"rclone {what}"]
        print(f"{what:10}{ours:10.2f}{theirs:10.2f}{ours / theirs:8.2f}")
    peaks = (
        each.peak_bytes for name, values in took.items() if name.startswith("volferry") for each in values
    )
    print(f"\npeak memory of volferry: {megabytes(max(peaks))}")


def _empty_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    for program_and_arguments in (
        [*VOLFERRY, "doctor"],
        [program("rclone"), "version"],
        ["zstd", "-V"],
        ["tar", "--version"],
    ):
        subprocess.run(program_and_arguments, check=False, capture_output=True)


def _volferry(server: S3Server, kept: list[str]) -> Callable[[str, Path], Measured]:
    def run(what: str, place: Path) -> Measured:
        environment = {
            **os.environ,
            **server.environment(),
            "VOLFERRY_STATE_DIR": str(place / "state"),
            "VOLFERRY_STORE": f"s3://{bucket}/{place.name}",
        }
        if what == "backup":
            return timed([*VOLFERRY, "backup", _NAME], environment=environment)
        kept.append(f"{_NAME}-{place.name}")
        return timed([*VOLFERRY, "restore", _NAME, "--into", kept[-1]], environment=environment)

    bucket = server.bucket()
    return run


def _rclone(server: S3Server, data: Path, configuration: Path) -> Callable[[str, Path], Measured]:
    """As people do it by hand, with as many threads as there are cores."""

    def run(what: str, place: Path) -> Measured:
        target = f"bench:{bucket}/{place.name}.tar.zst"
        if what == "backup":
            return timed(
                ["sh", "-c", f'tar -c -C "$0" . | zstd -q -1 -T0 | {rclone} rcat {target}', str(data)]
            )
        (place / "out").mkdir()
        return timed(["sh", "-c", f'{rclone} cat {target} | zstd -dc | tar -x -C "$0"', str(place / "out")])

    configuration.write_text(_REMOTE.format(server.endpoint))
    rclone = f"{program('rclone')} --config {configuration}"
    bucket = server.bucket()
    return run
