"""A base image for builds where no registry can be reached: a small Debian with Python, made by mmdebstrap.

It knows the machine's ways to package registries (mirror, proxies, certificates, index), so that a build in it reaches what the
machine reaches.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.parts.debian import debootstrapped, output_of
from tests.parts.room import roomy_directory

if TYPE_CHECKING:
    import docker

SUITE = "bookworm"
PACKAGES = "python3,python3-pip,ca-certificates"
_NOT_NEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


def import_base(client: docker.DockerClient, name: str) -> None:
    """Makes the image `name` on an engine."""
    # mmdebstrap has apt run as another user, which must get there; pytest's own directories are closed to it.
    with TemporaryDirectory(dir=roomy_directory(), prefix="volferry-base-") as place:
        directory = Path(place)
        directory.chmod(0o755)
        for file, content in _settings().items():
            path = directory / "settings" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        tree = directory / "base.tar"
        hooks = (f"cp -r {directory}/settings/. $1", f"cd $1 && rm -rf {' '.join(_NOT_NEEDED)}")
        debootstrapped(SUITE, PACKAGES, place, tree, [f"--customize-hook={hook}" for hook in hooks])
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
    found = output_of([program, "config", "list"]) if program else ""
    for key, value in re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", found, re.MULTILINE):
        places = [each for each in value.replace("\\n", " ").split() if not each.startswith(("file:", "/"))]
        if key in {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout"} and places:
            lines.append(f"{key} = {' '.join(places)}")
    return "\n".join(dict.fromkeys(lines)) + "\n"
