"""Debian's packages by way of the machine's own settings: mirror, proxies, certificates."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_USUAL_MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def debootstrapped(suite: str, packages: str, place: str, target: Path, options: Sequence[str] = ()) -> None:
    """A small Debian with `packages` (comma-separated) at `target`: a directory, or a tarball by its suffix. mmdebstrap takes some 20 s, debootstrap 36 s.

    `place` is for temporary files; all of it, and `target`, must be reachable by anybody: apt runs as another user.
    """
    assert shutil.which("mmdebstrap"), "mmdebstrap is missing; get it with: apt-get install mmdebstrap"
    assert _KEYRING.exists(), (
        "Debian's keys are missing; get them with: apt-get install debian-archive-keyring"
    )
    settings = _apt_settings()
    if suite == "sid":
        # A mirror's copy may be older than the few days that its list is valid.
        settings.append('Acquire::Check-Valid-Until "false";')
    done = subprocess.run(
        [
            # What it mounts below `place` stays its own: whoever removes that would remove what is mounted there, too.
            *("unshare", "--mount", "--propagation", "private"),
            "mmdebstrap",
            "--quiet",
            "--variant=apt",
            # else a program, in Perl, would make it so
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            f"--include={packages}",
            f"--keyring={_KEYRING}",
            "--dpkgopt=force-unsafe-io",
            '--aptopt=Acquire::Languages "none"',
            *(f"--aptopt={line}" for line in settings),
            *options,
            suite,
            str(target),
            _mirror(),
        ],
        env={**os.environ, "TMPDIR": place},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _apt_settings() -> list[str]:
    wanted = re.compile(r'Acquire::(https?::(.*::)?(Proxy|CaInfo)|Check-(Valid-Until|Date)) ".+";$')
    return [line for line in output_of(["apt-config", "dump"]).splitlines() if wanted.match(line)]


def _mirror() -> str:
    """The machine's own, where it has one: it has all suites."""
    found = output_of(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    )
    sites = re.findall(r"^(http\S+debian/?) (?!\S+-security)\S+ main$", found, re.MULTILINE)
    return sites[0] if sites else _USUAL_MIRROR


def output_of(command: list[str]) -> str:
    """Of a program that may be missing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
