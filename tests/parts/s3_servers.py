"""Real S3 servers on loopback: SeaweedFS, rclone and moto, each in a process of its own that ends with the test session."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.parts.certificates import certificates
from volferry.store_config import PartSize, Secret, StoreConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEY_ID, SECRET = "volferry-test", "made-up-secret"
_START_SECONDS = 60
_buckets = itertools.count(1)
_asked = itertools.count()


@dataclass(frozen=True, slots=True)
class S3Server:
    """One that runs, and what it can do."""

    name: str
    endpoint: str
    heeds_conditions: bool
    has_object_lock: bool
    ca_bundle: Path | None = None  # by which it is trusted
    data: Path | None = None  # where its objects are files, one directory a bucket

    def client(self) -> Any:
        """Of boto3: how tests look behind volferry's back."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            verify=str(self.ca_bundle) if self.ca_bundle else None,
            config=Config(
                retries={"mode": "standard"},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def bucket(self, *, locked: bool = False) -> str:
        """A new one."""
        name = f"test-{os.getpid()}-{next(_buckets)}"
        self.client().create_bucket(Bucket=name, **({"ObjectLockEnabledForBucket": True} if locked else {}))
        return name

    def settings(self, url: str, **more: Any) -> StoreConfig:
        """To open a store there; parts are as small as they may be."""
        return StoreConfig(
            **{
                "url": url,
                "endpoint": self.endpoint,
                "addressing": "path",
                "access_key_id": KEY_ID,
                "secret_access_key": Secret(SECRET),
                "part_size": PartSize(5 << 20),
                "ca_bundle": self.ca_bundle,
                **more,
            }
        )

    def environment(self, **more: str) -> dict[str, str]:
        """As the AWS tools read it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            **more,
        }

    def unfinished(self, bucket: str) -> int:
        """Multipart uploads in the bucket."""
        client = self.client()
        try:
            return len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))
        except client.exceptions.NoSuchUpload:  # how rclone says that there are none
            return 0


@contextmanager
def seaweedfs(directory: Path) -> Iterator[S3Server]:
    ports = free_ports(4)
    config = directory / "s3.json"
    config.write_text(
        '{"identities": [{"name": "test", "credentials": '
        f'[{{"accessKey": "{KEY_ID}", "secretKey": "{SECRET}"}}], "actions": ["Admin"]}}]}}'
    )
    command = [
        program("weed"), "-logtostderr=true", "server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={ports[0]}", f"-volume.port={ports[1]}", f"-filer.port={ports[2]}",
        "-volume.max=5000", "-master.volumeSizeLimitMB=1024", "-volume.preStopSeconds=0", "-master.telemetry=false",
        "-s3", f"-s3.port={ports[3]}", f"-s3.config={config}", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.localSocket=",
    ]  # fmt: skip
    with running(command, directory / "log", ports[3]):
        server = S3Server("seaweedfs", f"http://127.0.0.1:{ports[3]}", True, True)
        await_answer(server)
        yield server


@contextmanager
def rclone(directory: Path) -> Iterator[S3Server]:
    (port,) = free_ports(1)
    (directory / "data").mkdir()
    command = [
        program("rclone"), "serve", "s3", str(directory / "data"), f"--addr=127.0.0.1:{port}",
        f"--auth-key={KEY_ID},{SECRET}", "--vfs-cache-mode=off", f"--cache-dir={directory / 'cache'}",
        f"--config={directory / 'none.conf'}",
    ]  # fmt: skip
    with running(command, directory / "log", port):
        server = S3Server("rclone", f"http://127.0.0.1:{port}", False, False, data=directory / "data")
        await_answer(server)
        yield server


@contextmanager
def moto(directory: Path) -> Iterator[S3Server]:
    (port,) = free_ports(1)
    with running([program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], directory / "log", port):
        server = S3Server("moto", f"http://127.0.0.1:{port}", True, True)
        await_answer(server)
        yield server


@contextmanager
def moto_with_tls(directory: Path) -> Iterator[S3Server]:
    (port,) = free_ports(1)
    made = certificates(directory)
    command = [program("moto_server"), "-H", "127.0.0.1", "-p", str(port), "-c", str(made.server), "-k", str(made.key)]  # fmt: skip
    with running(command, directory / "log", port):
        server = S3Server("moto", f"https://127.0.0.1:{port}", True, True, ca_bundle=made.authority)
        await_answer(server)
        yield server


Servers = Callable[[str], S3Server]

SERVERS = {"seaweedfs": seaweedfs, "rclone": rclone, "moto": moto}


def program(name: str) -> str:
    """One that the development dependencies bring."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"there is no {name}: ./dev setup installs it"
    return found


def free_ports(count: int) -> list[int]:
    """SeaweedFS takes those 10000 above its own as well; from 32768 on, any connection may take one."""
    ports: list[int] = []
    number = 11000 + (os.getpid() * 41 + next(_asked) * 7) % 9000
    while len(ports) < count:
        number += 1
        if all(_is_free(each) for each in (number, number + 10000)):
            ports.append(number)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def running(command: Sequence[str], log: Path, port: int) -> Iterator[None]:
    """A server, from when it listens to the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent
        )
        try:
            _await_port(process, port, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(_START_SECONDS * 20):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}: {log.read_text(errors='replace')[-3000:]}")


def await_answer(server: S3Server) -> None:
    """A server that listens may need a moment more."""
    client = server.client()
    try:
        for _ in range(_START_SECONDS * 10):
            try:
                client.list_buckets()
            except (ClientError, BotoCoreError):
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"{server.name} does not answer at {server.endpoint}")
    finally:
        client.close()
