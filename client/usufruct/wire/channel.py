"""Channels to a peer whose TLS key is pinned. There is no other kind of channel in Usufruct.

First a plain TLS 1.3 handshake fetches the certificate and its key's fingerprint is compared with the pinned
one; then gRPC connects and trusts exactly that certificate. An attacker between the two has to hold the
pinned key for the second. Host names do not matter, so any TCP relay in front of a peer works.
"""

from __future__ import annotations

import datetime
import re
import socket
import ssl
from dataclasses import dataclass

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from usufruct.errors import InvalidInput, PeerKeyMismatch, PeerUnreachable
from usufruct.wire.tls import MESSAGE_LIMIT_BYTES, fingerprint_text, parse_fingerprint, spki_fingerprint

CONNECT_SECONDS = 5.0
"""Default time for the first handshake."""

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # A dead peer is noticed after 3 + 5 seconds of silence, during calls only. ping_timeout is for the pings that
    # gRPC sends to measure bandwidth: while one is unanswered it sends no keepalive, and waits 60 s by default.
    ("grpc.keepalive_time_ms", 3000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True)
class PinnedEndpoint:
    """Where a peer is, and which key it must show.

    Attributes:
        endpoint: ``host:port``.
        fingerprint: 32 bytes, see :func:`usufruct.wire.tls.spki_fingerprint`.
    """

    endpoint: str
    fingerprint: bytes

    def __str__(self) -> str:
        return f"{self.endpoint}#{fingerprint_text(self.fingerprint)}"

    @classmethod
    def parse(cls, text: str) -> PinnedEndpoint:
        """Read ``host:port#sha256:<hex>``.

        Raises:
            InvalidInput: it is not of that form.
        """
        endpoint, mark, fingerprint = text.partition("#")
        if not mark:
            raise InvalidInput(
                "A peer is written host:port#sha256:…; the part after # is its key.", field="endpoint"
            )
        split_endpoint(endpoint)
        return cls(endpoint, parse_fingerprint(fingerprint))


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of ``host:port`` (IPv6 in brackets).

    Raises:
        InvalidInput: it is not of that form.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253})):(\d{1,5})", endpoint)
    if match is None or not 0 < int(match[3]) < 65536:
        raise InvalidInput(
            "An endpoint is written host:port, such as 127.0.0.1:7100.",
            field="endpoint",
            endpoint=endpoint[:300],
        )
    return match[1] or match[2], int(match[3])


def fetch_certificate(endpoint: str, timeout_seconds: float = CONNECT_SECONDS) -> x509.Certificate:
    """The certificate that ``endpoint`` shows in a TLS 1.3 handshake; nothing about it is trusted yet.

    Raises:
        PeerUnreachable: no answer within ``timeout_seconds``, or no TLS 1.3.
    """
    host, port = split_endpoint(endpoint)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the caller compares the key itself
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds) as plain:
            with context.wrap_socket(plain) as secured:
                der = secured.getpeercert(binary_form=True)
    except ssl.SSLError as error:
        raise PeerUnreachable(
            f"{endpoint} answers, but not in TLS 1.3. Check that the endpoint is a Usufruct server.",
            endpoint=endpoint,
        ) from error
    except TimeoutError as error:
        raise PeerUnreachable(
            f"{endpoint} did not answer within {timeout_seconds:g} s. Check the endpoint, and that it is running.",
            endpoint=endpoint,
        ) from error
    except OSError as error:
        raise PeerUnreachable(
            f"{endpoint} cannot be reached ({error.strerror or 'connection closed'}). "
            "Check the endpoint, and that it is running.",
            endpoint=endpoint,
        ) from error
    try:
        return x509.load_der_x509_certificate(der or b"")
    except ValueError as error:
        raise PeerUnreachable(f"{endpoint} shows no readable certificate.", endpoint=endpoint) from error


def pinned_channel(
    endpoint: str, fingerprint: bytes, timeout_seconds: float = CONNECT_SECONDS
) -> grpc.Channel:
    """A gRPC channel to the peer at ``endpoint`` that holds the key of ``fingerprint``.

    *Guarantee*: bytes reach, and come from, the holder of that key only, over TLS 1.3.

    Raises:
        PeerKeyMismatch: the peer shows another key; both fingerprints are in the message.
        PeerUnreachable: nobody answers, or not in TLS 1.3, or with a certificate that cannot be used.
    """
    certificate = fetch_certificate(endpoint, timeout_seconds)
    found = spki_fingerprint(certificate)
    if found != fingerprint:
        raise PeerKeyMismatch(
            f"{endpoint} shows the key {fingerprint_text(found)}, but {fingerprint_text(fingerprint)} is pinned. "
            "If the peer has a new key, take it from the chain or the job; otherwise somebody is in between.",
            endpoint=endpoint,
            expected=fingerprint_text(fingerprint),
            found=fingerprint_text(found),
        )
    if not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
        raise PeerUnreachable(f"{endpoint} has no ECDSA key; only those are used here.", endpoint=endpoint)
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise PeerUnreachable(
            f"The certificate of {endpoint} is not valid today; check this machine's clock.",
            endpoint=endpoint,
        )
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (name, *_) = names.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise PeerUnreachable(f"The certificate of {endpoint} has no DNS name.", endpoint=endpoint) from error
    credentials = grpc.ssl_channel_credentials(certificate.public_bytes(serialization.Encoding.PEM))
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", name)]
    return grpc.secure_channel(endpoint, credentials, options=options)
