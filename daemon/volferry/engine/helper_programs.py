"""Whether the programs of a helper's image do the work: an image that was configured may have any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.engine.channel import READ_BYTES, InputRefused
from volferry.engine.host_programs import OTHER_WAY
from volferry.engine.program_probes import PROGRAMS, Ran, fault_of, faults_of_their_own
from volferry.errors import HelperImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from volferry.engine.helper import Helper


def check_programs(helper: Helper, image: str) -> None:
    """Tries each in a helper that may write. Raises HelperImageError with all that is wrong."""

    def run(command: Sequence[str], stdin: bytes, /) -> Ran:
        errors: list[bytes] = []
        process = helper.start(command, stdin=True, on_stderr=errors.append)
        try:
            process.write(stdin)
        except InputRefused:  # its status says why
            pass
        process.close_stdin()
        out = b""
        while data := process.read(READ_BYTES):
            out += data
        return Ran(process.wait(), out, b"\n".join(errors))

    faults: dict[str, str] = {}
    missing = []
    for name in PROGRAMS:
        work = f"{helper.spool}/tried-{name}"
        run(["sh", "-c", 'mkdir "$0"', work], b"")
        if run(["sh", "-c", 'command -v "$0"', name], b"").status != 0:
            missing.append(name)
            faults[name] = f"there is no {name}"
        elif fault := fault_of(name, run, work, 0):
            faults[name] = f"{name}: {fault}"
    if faults:
        said = "; ".join(faults_of_their_own(faults, missing).values())
        raise HelperImageError(f"image {image}: {said}: {OTHER_WAY}")
