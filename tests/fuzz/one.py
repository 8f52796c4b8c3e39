"""One run of the fuzzer, which ends its process: `python -m tests.fuzz.one TARGET [OPTION...] DIRECTORY...`, as libFuzzer has them."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    with atheris.instrument_imports(include=["volferry"]):
        from tests.parts.fuzz_targets import TARGETS
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
