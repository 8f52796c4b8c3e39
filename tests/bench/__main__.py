"""`python -m tests.bench NAME`: runs one benchmark; `./dev bench NAME` does so under a private engine."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def main() -> int:
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "measuring")
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        print(f"usage: ./dev bench {'|'.join(known)}", file=sys.stderr)
        return 2
    import_module(f"tests.bench.{sys.argv[1]}").main(sys.argv[2:])
    return 0


sys.exit(main())
