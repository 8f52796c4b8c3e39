"""Certificates of the tests' own, for an engine that is reached over TLS, and the Docker context that knows them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = "secure"


def make_certificates(directory: Path) -> None:
    """`ca.pem`, and for each side `server-cert.pem`, `server-key.pem`, `cert.pem`, `key.pem`."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("volferry tests", authority_key, "volferry tests", authority_key, authority=True)
    (directory / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    for prefix in ("server-", ""):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate("127.0.0.1", key, "volferry tests", authority_key, authority=False)
        (directory / f"{prefix}cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (directory / f"{prefix}key.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )


def engine_options(directory: Path, port: int) -> list[str]:
    """By which dockerd listens there too, for who has such a certificate."""
    return [
        f"--host=tcp://127.0.0.1:{port}",
        "--tlsverify",
        f"--tlscacert={directory}/ca.pem",
        f"--tlscert={directory}/server-cert.pem",
        f"--tlskey={directory}/server-key.pem",
    ]


def make_context(docker_config: Path, certificates: Path, port: int) -> None:
    """As `docker context create` does, in a directory for DOCKER_CONFIG."""
    own = sha256(CONTEXT.encode()).hexdigest()
    meta = docker_config / "contexts" / "meta" / own
    meta.mkdir(parents=True)
    endpoint = {"Host": f"tcp://127.0.0.1:{port}", "SkipTLSVerify": False}
    (meta / "meta.json").write_text(
        json.dumps({"Name": CONTEXT, "Metadata": {}, "Endpoints": {"docker": endpoint}})
    )
    place = docker_config / "contexts" / "tls" / own / "docker"
    place.mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (place / name).write_bytes((certificates / name).read_bytes())


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        address = x509.IPAddress(ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
