"""A channel reaches the pinned key or nobody, in TLS 1.3 or not at all, and notices a peer that died."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tcp_relay import Relay

from usufruct.errors import ConfigError, InvalidInput, PeerKeyMismatch, PeerUnreachable
from usufruct.wire import tls
from usufruct.wire.channel import PinnedEndpoint, pinned_channel, split_endpoint
from usufruct.wire.raw import with_header
from usufruct.wire.status import rpc_errors

JOIN = "/usufruct.test.Echo/Join"
ECHO = "/usufruct.test.Echo/Echo"


def handshake(port: int, least: ssl.TLSVersion, most: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = least, most
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        with context.wrap_socket(plain) as secured:
            return secured.version()


def test_the_pinned_key_is_reached(echo) -> None:
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        assert channel.stream_unary(JOIN)(iter([b"a", b"b"]), timeout=5) == b"ab"


def test_through_a_relay_the_key_is_still_the_peers(echo, relay: Relay) -> None:
    with pinned_channel(relay.endpoint, echo.identity.fingerprint) as channel:
        assert channel.stream_unary(JOIN)(iter([b"a" * 300_000] * 5), timeout=5) == b"a" * 1_500_000


def test_another_key_is_refused_and_both_are_named(echo) -> None:
    wrong = tls.generate_identity().fingerprint
    with pytest.raises(PeerKeyMismatch) as refused:
        pinned_channel(echo.endpoint, wrong)
    assert tls.fingerprint_text(wrong) in refused.value.message
    assert echo.identity.fingerprint_text in refused.value.message


def test_a_peer_that_changes_its_key_after_the_check_is_not_trusted(echo, identity: tls.TlsIdentity) -> None:
    """The check passes through a relay; then the relay's far end becomes another server."""
    relay = Relay(echo.port)
    channel = pinned_channel(relay.endpoint, identity.fingerprint)
    impostor = tls.generate_identity()
    server = grpc.server(ThreadPoolExecutor(1), options=list(tls.SERVER_OPTIONS))
    relay._target_port = tls.start_server(server, impostor, "127.0.0.1:0")
    try:
        with pytest.raises(PeerUnreachable), rpc_errors(relay.endpoint):
            channel.stream_unary(JOIN)(iter([b"secret"]), timeout=5)
    finally:
        channel.close()
        server.stop(None).wait()
        relay.close()


def test_nobody_there_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound, not listening
        start = time.monotonic()
        with pytest.raises(PeerUnreachable) as refused:
            pinned_channel(f"127.0.0.1:{port}", bytes(32))
        assert time.monotonic() - start < 3
        assert f"127.0.0.1:{port}" in refused.value.message


def test_a_peer_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(PeerUnreachable) as refused:
            pinned_channel(f"127.0.0.1:{silent.getsockname()[1]}", bytes(32), timeout_seconds=0.5)
        assert time.monotonic() - start < 3
        assert "did not answer" in refused.value.message


def test_a_peer_without_tls_is_named_as_such() -> None:
    with socket.socket() as plain:
        plain.bind(("127.0.0.1", 0))
        plain.listen()

        def answer() -> None:
            connection, _ = plain.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(PeerUnreachable) as refused:
            pinned_channel(f"127.0.0.1:{plain.getsockname()[1]}", bytes(32))
        assert "TLS 1.3" in refused.value.message


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_the_server_refuses_everything_below_tls_1_3(echo, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(echo.port, version, version)


def test_the_server_speaks_tls_1_3(echo) -> None:
    assert handshake(echo.port, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


@pytest.mark.parametrize("order", ["grpc first", "variable set"])
def test_a_process_that_would_speak_tls_1_2_does_not_serve(order: str) -> None:
    """gRPC loaded before Usufruct has read its own cipher list; the server proves itself and refuses to start."""
    code = (
        ("import grpc\n" if order == "grpc first" else "")
        + "import usufruct, grpc\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "from usufruct.wire import tls\nfrom usufruct.errors import ConfigError\n"
        "server = grpc.server(ThreadPoolExecutor(1), options=list(tls.SERVER_OPTIONS))\n"
        "try:\n    tls.start_server(server, tls.generate_identity(), '127.0.0.1:0')\n"
        "except ConfigError as error:\n    print('refused', 'TLS 1.2' in error.message)\n"
    )
    environment = dict(os.environ)
    environment.pop("GRPC_SSL_CIPHER_SUITES", None)
    if order == "variable set":
        environment["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-ECDSA-AES128-GCM-SHA256"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout.strip() == "refused True", done.stderr


def test_a_tls_1_2_only_peer_is_not_spoken_to(identity: tls.TlsIdentity, tmp_path: Path) -> None:
    tls_directory = tmp_path / "tls"
    made = tls.create_identity(tls_directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_directory / tls.CERTIFICATE_FILE, tls_directory / tls.KEY_FILE)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            try:
                context.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(PeerUnreachable):
            pinned_channel(f"127.0.0.1:{listener.getsockname()[1]}", made.fingerprint)


def test_a_dead_peer_is_noticed_within_ten_seconds(echo, relay: Relay) -> None:
    """The relay swallows every byte and closes nothing, as a machine that lost its power does."""
    frozen = threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"before"
        frozen.wait()

    with pinned_channel(relay.endpoint, echo.identity.fingerprint) as channel:
        answers = channel.stream_stream(ECHO)(messages(), timeout=60)
        assert next(answers) == b"before"
        relay.freeze()
        start = time.monotonic()
        with pytest.raises(PeerUnreachable), rpc_errors(relay.endpoint):
            next(answers)
        frozen.set()
        assert time.monotonic() - start < 10


def test_a_port_in_use_is_one_clear_sentence(echo) -> None:
    server = grpc.server(ThreadPoolExecutor(1), options=list(tls.SERVER_OPTIONS))
    with pytest.raises(ConfigError) as refused:
        tls.start_server(server, echo.identity, echo.endpoint)
    assert refused.value.reason == "PORT_IN_USE" and echo.endpoint in refused.value.message


# -- identities -----------------------------------------------------------------------------------------------


def test_an_identity_survives_on_disk_and_only_its_owner_reads_the_key(tmp_path: Path) -> None:
    made = tls.create_identity(tmp_path / "state")
    assert (tmp_path / "state" / "tls.key").stat().st_mode & 0o777 == 0o600
    assert tls.load_identity(tmp_path / "state") == made
    assert made.key_pem.decode() not in repr(made)
    with pytest.raises(ConfigError):
        tls.create_identity(tmp_path / "state")
    assert tls.load_identity(tmp_path / "state") == made


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tls.create_identity(tmp_path)
    (tmp_path / "tls.key").chmod(0o644)
    with pytest.raises(ConfigError) as refused:
        tls.load_identity(tmp_path)
    assert "chmod 600" in refused.value.message


@pytest.mark.parametrize("spoil", ["missing", "junk", "other key"])
def test_a_spoilt_identity_is_refused(tmp_path: Path, spoil: str) -> None:
    tls.create_identity(tmp_path)
    key = tmp_path / "tls.key"
    if spoil == "missing":
        key.unlink()
    elif spoil == "junk":
        key.write_bytes(b"-----BEGIN PRIVATE KEY-----\njunk\n-----END PRIVATE KEY-----\n")
    else:
        key.write_bytes(tls.generate_identity().key_pem)
    with pytest.raises(ConfigError) as refused:
        tls.load_identity(tmp_path)
    assert refused.value.reason == "KEY_INVALID"


def test_the_fingerprint_is_sha256_of_the_public_key(identity: tls.TlsIdentity, tmp_path: Path) -> None:
    """Against openssl: x509 -pubkey | pkey -pubin -outform DER | sha256, recomputed here from the PEM."""
    import hashlib

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = x509.load_pem_x509_certificate(identity.certificate_pem).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert identity.fingerprint == hashlib.sha256(der).digest()
    assert tls.parse_fingerprint(identity.fingerprint_text) == identity.fingerprint


# -- names ----------------------------------------------------------------------------------------------------


def test_a_peer_is_written_with_its_key() -> None:
    text = "127.0.0.1:7100#sha256:" + "ab" * 32
    assert PinnedEndpoint.parse(text) == PinnedEndpoint("127.0.0.1:7100", b"\xab" * 32)
    assert str(PinnedEndpoint.parse(text)) == text
    assert PinnedEndpoint.parse("[::1]:1#sha256:" + "0" * 64).endpoint == "[::1]:1"


@pytest.mark.parametrize(
    "text",
    [
        "", "host", "host:1", "host:1#", "host:1#sha256:", "host:1#sha1:" + "a" * 64, "host:1#sha256:" + "a" * 63,
        "host:1#sha256:" + "g" * 64, "host:0#sha256:" + "a" * 64, "host:65536#sha256:" + "a" * 64,
        ":1#sha256:" + "a" * 64, "unix:/tmp/x#sha256:" + "a" * 64, "a b:1#sha256:" + "a" * 64,
    ],
)  # fmt: skip
def test_what_is_no_peer_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        PinnedEndpoint.parse(text)


def test_endpoints_split() -> None:
    assert split_endpoint("[::1]:80") == ("::1", 80)
    assert split_endpoint("example.org:7100") == ("example.org", 7100)
    assert tls.parse_listen("0.0.0.0:0") == ("0.0.0.0", 0)
    with pytest.raises(ConfigError):
        tls.parse_listen("7100")


def test_with_header_is_exercised_by_a_real_call(echo) -> None:
    from usufruct.v1 import aggregation_pb2

    header = aggregation_pb2.UploadHeader(dataset_id=7)
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        joined = channel.stream_unary(JOIN)(with_header(header, b"x" * 1_200_000), timeout=5)
    assert joined == header.SerializeToString() + b"x" * 1_200_000
