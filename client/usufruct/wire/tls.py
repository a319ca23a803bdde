"""TLS keys and their fingerprints. A peer *is* its pinned key; host names and authorities mean nothing here.

TLS 1.3 only. gRPC for Python has no setting for the least version, but it reads ``GRPC_SSL_CIPHER_SUITES``
when it is imported, and that list governs TLS 1.2 and below only. ``usufruct/__init__.py`` sets it to suites
that only RSA keys can use; our keys are ECDSA, so every handshake below 1.3 fails. :func:`start_server`
proves it each time.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import socket
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from usufruct.errors import ConfigError, InvalidInput

PEER_NAME = "usufruct.peer"
"""The DNS name in every certificate of ours; channels expect it whatever host they connect to."""

CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"
VALID_DAYS = 3650

PROBE_SECONDS = 20.0
"""Time for the server's own handshake with itself; generous, because the machine may be busy."""

MESSAGE_LIMIT_BYTES = 4 << 20
"""Largest gRPC message either way. Bulk bytes come in chunks, so nothing is larger."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on one port is an error, not a lottery
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    # a client that vanished is noticed as fast as a server that did
    ("grpc.keepalive_time_ms", 4000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
)


def spki_fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo in DER; 32 bytes. A new certificate keeps it."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def fingerprint_text(fingerprint: bytes) -> str:
    """``sha256:<64 hexadecimal digits>``."""
    return f"sha256:{fingerprint.hex()}"


def parse_fingerprint(text: str) -> bytes:
    """Read :func:`fingerprint_text`.

    Raises:
        InvalidInput: it is not of that form.
    """
    match = re.fullmatch(r"sha256:([0-9a-fA-F]{64})", text)
    if match is None:
        raise InvalidInput(
            "A key fingerprint is written sha256: and 64 hexadecimal digits.", field="fingerprint"
        )
    return bytes.fromhex(match[1])


@dataclass(frozen=True)
class TlsIdentity:
    """A server's TLS key and self-signed certificate.

    Attributes:
        certificate_pem: the certificate, public.
        key_pem: the private key; never shown.
        fingerprint: see :func:`spki_fingerprint`.
    """

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    fingerprint: bytes

    @property
    def fingerprint_text(self) -> str:
        """The fingerprint as people pass it on."""
        return fingerprint_text(self.fingerprint)


def generate_identity() -> TlsIdentity:
    """A fresh ECDSA P-256 key with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, PEER_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # peers' clocks may be behind
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(PEER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return TlsIdentity(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        fingerprint=spki_fingerprint(certificate),
    )


def create_identity(directory: Path) -> TlsIdentity:
    """Generate an identity and write it into ``directory`` (made if missing, mode 0700); the key file has
    0600.

    Raises:
        ConfigError: there is a key already, or the directory cannot be written.
    """
    identity = generate_identity()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(directory / KEY_FILE, identity.key_pem, 0o600)
        _write_new(directory / CERTIFICATE_FILE, identity.certificate_pem, 0o644)
    except FileExistsError as error:
        raise ConfigError(
            f"There is a TLS key in {directory} already; peers have pinned it, so it is not replaced.",
            reason="KEY_INVALID",
        ) from error
    except OSError as error:
        raise ConfigError(f"The TLS key cannot be written to {directory}: {error.strerror}.") from error
    return identity


def load_identity(directory: Path) -> TlsIdentity:
    """Read the identity that :func:`create_identity` wrote.

    Raises:
        ConfigError: missing, readable by others, not ECDSA P-256, or key and certificate do not belong
            together.
    """
    key_path, certificate_path = directory / KEY_FILE, directory / CERTIFICATE_FILE
    try:
        if stat.S_IMODE(key_path.stat().st_mode) & 0o077:
            raise ConfigError(
                f"{key_path} can be read by others; run `chmod 600 {key_path}`.", reason="KEY_INVALID"
            )
        key_pem, certificate_pem = key_path.read_bytes(), certificate_path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be read: {error.strerror}. Make a TLS key with the `init` command first.",
            reason="KEY_INVALID",
        ) from error
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{key_path} or {certificate_path} is not a PEM file of ours.", reason="KEY_INVALID"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{key_path} is not an ECDSA P-256 key.", reason="KEY_INVALID")
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{certificate_path} is not the certificate of {key_path}.", reason="KEY_INVALID")
    return TlsIdentity(certificate_pem, key_pem, spki_fingerprint(certificate))


def server_credentials(identity: TlsIdentity) -> grpc.ServerCredentials:
    """gRPC credentials of a server with this identity."""
    return grpc.ssl_server_credentials([(identity.key_pem, identity.certificate_pem)])


def start_server(server: grpc.Server, identity: TlsIdentity, listen: str) -> int:
    """Bind ``server`` (made with :data:`SERVER_OPTIONS`) to ``listen``, start it, and prove TLS 1.3.

    Args:
        listen: ``host:port``; port 0 takes a free one.

    Returns:
        The port that was bound.

    Raises:
        ConfigError: ``PORT_IN_USE``, an address that is not of this machine, or a gRPC that speaks TLS 1.2.
    """
    host, port = parse_listen(listen)
    if port:
        require_free(listen)
    try:
        bound = server.add_secure_port(listen, server_credentials(identity))
    except RuntimeError as error:
        raise _in_use(listen) from error
    server.start()
    probe = "127.0.0.1" if host in ("0.0.0.0", "") else "::1" if host == "::" else host
    if _accepts_old_tls(probe, bound):
        server.stop(None)
        raise ConfigError(
            "gRPC was loaded before Usufruct, or GRPC_SSL_CIPHER_SUITES is set: this process would accept TLS 1.2. "
            "Import usufruct first and leave that variable unset."
        )
    return bound


def parse_listen(listen: str) -> tuple[str, int]:
    """Read ``host:port`` or ``[v6]:port``.

    Raises:
        ConfigError: it is not of that form.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:#/\[\]]+)):(\d{1,5})", listen)
    if match is None or int(match[3]) > 65535:
        raise ConfigError(f"{listen!r} is not an address such as 127.0.0.1:7100.", field="listen")
    return match[1] or match[2], int(match[3])


def require_free(listen: str) -> None:
    """Checks that a server could listen there. Port 0 always is free.

    Raises:
        ConfigError: PORT_IN_USE, or it is no address of this machine.
    """
    host, port = parse_listen(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise ConfigError(f"{host} is not an address of this machine.", field="listen") from error
    except PermissionError as error:
        raise ConfigError(
            f"Port {port} needs rights that this user does not have; choose one above 1023.", field="listen"
        ) from error
    except OSError as error:
        raise _in_use(listen) from error


def _in_use(listen: str) -> ConfigError:
    return ConfigError(
        f"{listen} cannot be bound: the port is in use, or the address is not of this machine. "
        "Stop the other server or choose another port.",
        reason="PORT_IN_USE",
        endpoint=listen,
    )


def _accepts_old_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS) as plain:
            with context.wrap_socket(plain):
                return True
    except (ssl.SSLError, ConnectionError):
        return False
    except OSError as error:
        raise ConfigError(f"The server does not answer at {host}:{port}, its own address.") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
