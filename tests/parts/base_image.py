"""A base image for builds where no registry can be reached: a small Debian with Python, made by mmdebstrap.

It knows the machine's ways to package registries (mirror, proxies, certificates, index), so that a build in it reaches what the
machine reaches. mmdebstrap takes 20 s here, debootstrap 36 s.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.parts.room import roomy_directory

if TYPE_CHECKING:
    import docker

SUITE = "bookworm"
PACKAGES = "python3,python3-pip,ca-certificates"
_USUAL_MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NOT_NEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


def import_base(client: docker.DockerClient, name: str) -> None:
    """Makes the image `name` on an engine."""
    assert shutil.which("mmdebstrap"), "mmdebstrap is missing; get it with: apt-get install mmdebstrap"
    assert _KEYRING.exists(), (
        "Debian's keys are missing; get them with: apt-get install debian-archive-keyring"
    )
    # mmdebstrap has apt run as another user, which must get there; pytest's own directories are closed to it.
    with TemporaryDirectory(dir=roomy_directory(), prefix="volferry-base-") as place:
        directory = Path(place)
        directory.chmod(0o755)
        for file, content in _settings().items():
            path = directory / "settings" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        tree = directory / "base.tar"
        done = subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=apt",
                # else a program, in Perl, would make it so
                "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                f"--include={PACKAGES}",
                f"--keyring={_KEYRING}",
                "--dpkgopt=force-unsafe-io",
                '--aptopt=Acquire::Languages "none"',
                *(f"--aptopt={line}" for line in _apt_settings()),
                f"--customize-hook=cp -r {directory}/settings/. $1",
                f"--customize-hook=cd $1 && rm -rf {' '.join(_NOT_NEEDED)}",
                SUITE,
                str(tree),
                _mirror(),
            ],
            env={**os.environ, "TMPDIR": place},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        client.api.import_image_from_file(str(tree), repository=name, tag="latest")


def build_arguments() -> dict[str, str]:
    """What `docker build` passes on without being told to."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _settings() -> dict[str, str]:
    """Path in the tree -> content."""
    bundle = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    settings = {"etc/pip.conf": _pip_settings("/etc/ssl/machine.pem" if bundle else None)}
    if bundle:
        settings["etc/ssl/machine.pem"] = Path(bundle).read_text()
    return settings


def _pip_settings(bundle: str | None) -> str:
    """Those that say where packages are; what is in a directory of this machine is not in the tree."""
    lines = ["[global]", *([f"cert = {bundle}"] if bundle else [])]
    program = shutil.which("pip") or shutil.which("pip3")
    found = _output([program, "config", "list"]) if program else ""
    for key, value in re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", found, re.MULTILINE):
        places = [each for each in value.replace("\\n", " ").split() if not each.startswith(("file:", "/"))]
        if key in {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout"} and places:
            lines.append(f"{key} = {' '.join(places)}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _apt_settings() -> list[str]:
    wanted = re.compile(r'Acquire::(https?::(.*::)?(Proxy|CaInfo)|Check-(Valid-Until|Date)) ".+";$')
    return [line for line in _output(["apt-config", "dump"]).splitlines() if wanted.match(line)]


def _mirror() -> str:
    """The machine's own, where it has one of this suite."""
    found = _output(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    )
    sites = re.findall(rf"^(http\S+debian/?) {SUITE} main$", found, re.MULTILINE)
    return sites[0] if sites else _USUAL_MIRROR


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
