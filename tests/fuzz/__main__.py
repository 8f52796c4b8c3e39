"""`./dev fuzz [TARGET] [SECONDS] [--keep]`: looks for inputs that a parser fails on, beginning with the corpus.

With --keep, inputs that reach code which the corpus does not reach are added to it, the smallest first. What a parser failed on is left in
the current directory, as crash-*, and belongs into the corpus once it is mended.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import CORPUS
from tests.parts.fuzz_targets import TARGETS

_SECONDS = 60
_MOST_BYTES = 12_000  # of the corpus of one target
_LARGEST_INPUT = 4096


def main(arguments: list[str]) -> int:
    keep = "--keep" in arguments
    words = [each for each in arguments if each != "--keep"]
    names = [each for each in words if not each.isdigit()] or list(TARGETS)
    seconds = next((int(each) for each in words if each.isdigit()), _SECONDS)
    if unknown := [name for name in names if name not in TARGETS]:
        print(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    failed = [name for name in names if not _fuzz(name, seconds, keep=keep)]
    for name in failed:
        print(f"{name}: failed, see crash-* and what is above", file=sys.stderr)
    return 1 if failed else 0


def _fuzz(name: str, seconds: int, *, keep: bool) -> bool:
    own = CORPUS / name
    with tempfile.TemporaryDirectory() as directory:
        print(f"{name}: {seconds} s", flush=True)
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={_LARGEST_INPUT}",
            "-rss_limit_mb=1024",
            "-timeout=20",
            "-reduce_inputs=1",
            "-print_final_stats=1",
        ]
        process = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.one", name, *options, directory, str(own)],
            check=False,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        lines = process.stdout.splitlines()
        shown = [line for line in lines if "stat::" in line] if not process.returncode else lines[-40:]
        print("\n".join(shown), flush=True)
        if keep:
            _keep(name, Path(directory))
    return not process.returncode


def _keep(name: str, found: Path) -> None:
    """What libFuzzer has written there is what reached new code, each made as small as it could."""
    own = CORPUS / name
    total = sum(path.stat().st_size for path in own.iterdir())
    for path in sorted(found.iterdir(), key=lambda each: each.stat().st_size):
        data = path.read_bytes()
        total += len(data)
        if total > _MOST_BYTES:
            break
        (own / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
