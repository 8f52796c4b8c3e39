"""The demo: back up a volume, restore it into a new one, and compare the two without volferry's help.

It uses the engine at DOCKER_HOST. A VOLUME that is named is only read.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING

import docker
from docker.errors import DockerException, NotFound

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import FrameType

    from docker.models.containers import Container
    from docker.models.volumes import Volume

PROJECT = Path(__file__).resolve().parent.parent.parent
OWN_PLACES = {"VOLFERRY_STORE": ".demo/store", "VOLFERRY_STATE_DIR": ".demo/state"}
DEMO_VOLUME = "volferry-demo"
DEMO_LABELS = {"volferry-demo": "1"}
IMAGE = "volferry-demo-empty"
MOUNT = "/volume"
CONTENT_PATTERNS = ("*.md", "*.toml", "*.lock", "dev", "daemon/**/*", "docs/**/*", "tests/**/*", "systemd/*")
SQLITE_ROWS = 20_000


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of a volume, as the engine's archive endpoint shows it."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: float
    size: int
    link: str
    device: tuple[int, int]
    sha256: str


@contextlib.contextmanager
def mounted(client: docker.DockerClient, volume: str, *, read_only: bool) -> Iterator[Container]:
    """A container that mounts `volume` at /volume. It is never started, so an empty image is enough."""
    with io.BytesIO() as empty:
        with tarfile.open(fileobj=empty, mode="w"):
            pass
        client.api.import_image_from_data(empty.getvalue(), repository=IMAGE, tag="latest")
    mode = "ro" if read_only else "rw"
    container: Container | None = None
    try:
        with _signals_wait():
            container = client.containers.create(
                IMAGE, ["none"], volumes={volume: {"bind": MOUNT, "mode": mode}}, network_mode="none"
            )
        yield container
    finally:
        if container is not None:
            container.remove(force=True)
        with contextlib.suppress(DockerException):
            client.images.remove(IMAGE)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """For what somebody must know of afterwards, so that it is removed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _archive(client: docker.DockerClient, container: Container) -> Generator[bytes]:
    """Of all that is at /volume, as the engine sends it. The connection ends with the `with` that closes this: the engine removes no
    container of which it is still sending something.
    """
    url = f"{client.api.base_url}/v{client.api.api_version}/containers/{container.id}/archive"
    with client.api.get(
        url, params={"path": f"{MOUNT}/."}, stream=True, timeout=client.api.timeout
    ) as answer:
        answer.raise_for_status()
        yield from answer.iter_content(1 << 20)


def fill(client: docker.DockerClient, volume: Volume) -> None:
    """Put real content into `volume`: this project's files, a database, links, an executable, odd names."""
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add_content(tar)
        stream.seek(0)
        with mounted(client, volume.name, read_only=False) as container:
            container.put_archive(MOUNT, stream)


def _add_content(tar: tarfile.TarFile) -> None:
    for path in sorted({path for pattern in CONTENT_PATTERNS for path in PROJECT.glob(pattern)}):
        if path.is_file() and "__pycache__" not in path.parts:
            tar.add(path, f"project/{path.relative_to(PROJECT)}")
    with tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / "orders.sqlite"
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, cents INTEGER)")
            connection.executemany(
                "INSERT INTO orders (customer, cents) VALUES (?, ?)",
                ((f"customer {row % 997}", row * 37 % 10_000) for row in range(SQLITE_ROWS)),
            )
        tar.add(database, "data/orders.sqlite", filter=_owned_by_a_service)
    _add(tar, "bin/hello", b'#!/bin/sh\necho "hello from a volume"\n', mode=0o755)
    _add(tar, "data/private.key", b"not a real key\n", mode=0o600, uid=999, gid=999)
    _add(tar, "data/Grüße, mit Leerzeichen.txt", "Ünïcödé\n".encode())
    _link(tar, tarfile.SYMTYPE, "current", "project/README.md")
    _link(tar, tarfile.LNKTYPE, "data/orders-hardlink.sqlite", "data/orders.sqlite")


def _owned_by_a_service(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 999
    member.uname = member.gname = ""
    return member


def _add(
    tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644, uid: int = 0, gid: int = 0
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.uid, member.gid = len(content), mode, uid, gid
    member.mtime = 1_700_000_000.25
    tar.addfile(member, io.BytesIO(content))


def _link(tar: tarfile.TarFile, kind: bytes, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    tar.addfile(member)


def nodes(client: docker.DockerClient, volume: str) -> dict[str, Node]:
    """What is in `volume`, by path, read through the engine's archive endpoint instead of volferry."""
    found: dict[str, Node] = {}
    # spooled, not streamed: the member headers are needed together with the content's digest
    with (
        tempfile.TemporaryFile() as spool,
        mounted(client, volume, read_only=True) as container,
        contextlib.closing(_archive(client, container)) as chunks,
    ):
        for chunk in chunks:
            spool.write(chunk)
        spool.seek(0)
        with tarfile.open(fileobj=spool, mode="r:") as tar:
            for member in tar:
                found[member.name] = _node(member, tar.extractfile(member) if member.isreg() else None)
    return found


def _node(member: tarfile.TarInfo, content: IO[bytes] | None) -> Node:
    digest = ""
    if content is not None:
        with content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    return Node(
        kind={tarfile.AREGTYPE: "0"}.get(member.type, member.type.decode()),
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime=float(member.mtime),
        size=member.size,
        link=member.linkname,
        device=(member.devmajor, member.devminor),
        sha256=digest,
    )


def compare(source: dict[str, Node], restored: dict[str, Node]) -> str:
    """One line on how much was compared. Raises DemoError, naming the differences."""
    different = [
        f"{path!a}: {difference(source.get(path), restored.get(path))}"
        for path in sorted(source.keys() | restored.keys())
        if source.get(path) != restored.get(path)
    ]
    if different:
        raise DemoError(
            "the two volumes differ (was something writing to the source?):\n  " + "\n  ".join(different[:20])
        )
    size = sum(node.size for node in source.values())
    return f"compared {len(source)} entries, {size / 1e6:.1f} MB: identical"


def difference(source: Node | None, restored: Node | None) -> str:
    """What differs between two nodes of one path."""
    if source is None or restored is None:
        return "only restored" if source is None else "not restored"
    return ", ".join(
        f"{field.name} {getattr(source, field.name)!r} became {getattr(restored, field.name)!r}"
        for field in fields(Node)
        if getattr(source, field.name) != getattr(restored, field.name)
    )


def volferry(*arguments: str) -> None:
    """Run volferry as a user would, showing the command line first."""
    program = shutil.which(
        "volferry", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    )
    if program is None:
        raise DemoError("the volferry command is not installed; get it with: ./dev setup")
    sys.stdout.write(f"\n$ {shlex.join(['volferry', *arguments])}\n")
    sys.stdout.flush()
    places = {name: str(Path.cwd() / place) for name, place in OWN_PLACES.items()}
    code = _ended(subprocess.Popen([program, *arguments], cwd=PROJECT, env=os.environ | places))
    if code == 130 or code < 0:
        # It has said so, and cleaned up; or a signal came before it had begun.
        raise SystemExit(code if code > 0 else 128 - code)
    # 3: done, with findings, which it has printed
    if code not in {0, 3}:
        raise DemoError(f"volferry {arguments[0]} ended with exit code {code}")


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. A signal meanwhile is its own to handle: it has containers to remove."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {
        number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def demo_volume(client: docker.DockerClient) -> Volume:
    """The made-up volume, filled; one of an earlier demo is used again."""
    with contextlib.suppress(NotFound):
        volume = client.volumes.get(DEMO_VOLUME)
        if (volume.attrs.get("Labels") or {}).get("volferry-demo") != "1":
            raise DemoError(
                f"a volume named {DEMO_VOLUME} exists, and is not this demo's; it was not touched"
            )
        return volume
    volume = client.volumes.create(DEMO_VOLUME, labels=DEMO_LABELS)
    try:
        fill(client, volume)
    except BaseException:
        volume.remove(force=True)
        raise
    return volume


def free_name(client: docker.DockerClient, wanted: str) -> str:
    """`wanted`, or the first of `wanted-2`, `wanted-3` … that no volume has."""
    taken = {volume.name for volume in client.volumes.list()}
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


def target_name(client: docker.DockerClient, source: str, *, made_up: bool) -> str:
    """A name for the restored volume. What an earlier run restored from the made-up volume is removed."""
    if not made_up:
        return free_name(client, f"{source}-demo-restored")
    name = f"{source}-restored"
    with contextlib.suppress(NotFound):
        earlier = client.volumes.get(name)
        if (earlier.attrs.get("Labels") or {}).get("volferry-demo") != "1":
            return free_name(client, name)
        earlier.remove()
    return name


def run(client: docker.DockerClient, named: str | None, *, throwaway_engine: bool) -> None:
    if named is None:
        source = demo_volume(client).name
    else:
        try:
            source = client.volumes.get(named).name
        except NotFound as error:
            raise DemoError(f"there is no volume {named} on this engine") from error
    target = target_name(client, source, made_up=named is None)

    volferry("volumes")
    volferry("backup", source)
    volferry("list")
    volferry("show", source)
    volferry("restore", source, "--into", target)

    sys.stdout.write(f"\nReading {source} and {target} through the Docker API, without volferry:\n")
    sys.stdout.write(compare(nodes(client, source), nodes(client, target)) + "\n")
    host = os.environ.get("VOLFERRY_HOST") or str(client.info()["Name"])
    sys.stdout.write(next_steps(host, source, target, throwaway_engine=throwaway_engine))


def next_steps(host: str, source: str, target: str, *, throwaway_engine: bool) -> str:
    """What to try now. With the host's name, a backup can be looked into when the engine is gone."""
    program = ".venv/bin/volferry"
    exports = " ".join(f"{name}=$PWD/{place}" for name, place in OWN_PLACES.items())
    lines = [
        ("first, in your shell", f"export {exports}"),
        ("what is in the backup", f"{program} ls {host}/{source}"),
        ("as a plain tar", f"{program} export {host}/{source} -o {source}.tar"),
        (
            "without volferry",
            f"see docs/recover-by-hand.md; the packs are below {OWN_PLACES['VOLFERRY_STORE']}/packs",
        ),
    ]
    if throwaway_engine:
        lines.append(("the volumes", "go with the private engine, now; the store stays"))
    else:
        lines.append(("back up again (only what changed)", f"{program} backup {source}"))
        volumes = f"{source} {target}" if source == DEMO_VOLUME else target
        lines.append(("remove what the demo made", f"docker volume rm {volumes}; rm -r .demo"))
    if throwaway_engine:
        lines.append(("remove what the demo made", "rm -r .demo"))
    width = max(len(what) for what, _ in lines)
    return "\nNext:\n" + "".join(f"  {what:<{width}}  {how}\n" for what, how in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    parser.add_argument("volume", nargs="?", metavar="VOLUME", help="a volume to back up; it is only read")
    parser.add_argument("--throwaway-engine", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    try:
        with contextlib.closing(docker.from_env(timeout=120)) as client:
            run(client, chosen.volume, throwaway_engine=chosen.throwaway_engine)
    except (DemoError, DockerException) as error:
        sys.stdout.flush()
        sys.stderr.write(f"demo: {error}\n")
        return 1
    return 0
