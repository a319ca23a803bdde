"""A token is given only to who holds the key, and only for the server whose TLS key the caller pinned."""

from __future__ import annotations

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from usufruct.errors import InvalidInput, NotAuthenticated
from usufruct.wire.auth import (
    Authenticator,
    TokenSource,
    authenticated_channel,
    challenge_text,
    sign_challenge,
)
from usufruct.wire.channel import pinned_channel
from usufruct.wire.status import rpc_errors

ACCOUNT = Account.from_key(b"\x11" * 32)
OTHER = Account.from_key(b"\x22" * 32)
SERVER, IMPOSTOR = b"\xaa" * 32, b"\xbb" * 32
WHO = "/usufruct.test.Echo/WhoAmI"
JOIN = "/usufruct.test.Echo/Join"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Authenticator:
    return Authenticator(SERVER, challenge_seconds=60, token_seconds=900, max_tokens=3, clock=clock)


def prove(server: Authenticator, account=ACCOUNT, fingerprint: bytes = SERVER) -> str:
    challenge, expires = server.challenge(account.address)
    return server.token(account.address, challenge, sign_challenge(account, fingerprint, challenge, expires))[
        0
    ]


def test_who_signs_gets_a_token(server: Authenticator, clock: Clock) -> None:
    token = prove(server)
    assert server.address_of(token) == ACCOUNT.address
    clock.now += 899
    assert server.address_of(token) == ACCOUNT.address


def test_a_token_ends(server: Authenticator, clock: Clock) -> None:
    token = prove(server)
    clock.now += 901
    with pytest.raises(NotAuthenticated) as refused:
        server.address_of(token)
    assert refused.value.reason == "TOKEN_EXPIRED"
    with pytest.raises(NotAuthenticated) as refused:
        server.address_of(token)
    assert refused.value.reason == "UNAUTHENTICATED"


def test_a_signature_for_another_servers_key_is_refused(server: Authenticator) -> None:
    """Somebody in the middle passes our challenge on to a caller who has pinned the middle's key."""
    with pytest.raises(NotAuthenticated):
        prove(server, fingerprint=IMPOSTOR)


def test_a_signature_of_another_key_is_refused(server: Authenticator) -> None:
    challenge, expires = server.challenge(ACCOUNT.address)
    text = challenge_text(SERVER, ACCOUNT.address, challenge, expires)
    forged = bytes(OTHER.sign_message(encode_defunct(text=text)).signature)
    with pytest.raises(NotAuthenticated):
        server.token(ACCOUNT.address, challenge, forged)


def test_a_challenge_is_for_its_address_only(server: Authenticator) -> None:
    challenge, expires = server.challenge(ACCOUNT.address)
    with pytest.raises(NotAuthenticated):
        server.token(OTHER.address, challenge, sign_challenge(OTHER, SERVER, challenge, expires))


def test_a_challenge_works_once(server: Authenticator) -> None:
    challenge, expires = server.challenge(ACCOUNT.address)
    signature = sign_challenge(ACCOUNT, SERVER, challenge, expires)
    server.token(ACCOUNT.address, challenge, signature)
    with pytest.raises(NotAuthenticated):
        server.token(ACCOUNT.address, challenge, signature)


def test_a_challenge_ends(server: Authenticator, clock: Clock) -> None:
    challenge, expires = server.challenge(ACCOUNT.address)
    signature = sign_challenge(ACCOUNT, SERVER, challenge, expires)
    clock.now += 61
    with pytest.raises(NotAuthenticated):
        server.token(ACCOUNT.address, challenge, signature)


def test_a_challenge_that_worked_cannot_come_back_when_its_memory_is_cleared(
    server: Authenticator, clock: Clock
) -> None:
    challenge, expires = server.challenge(ACCOUNT.address)
    signature = sign_challenge(ACCOUNT, SERVER, challenge, expires)
    server.token(ACCOUNT.address, challenge, signature)
    clock.now = expires + 1
    prove(server)  # clears what has ended
    with pytest.raises(NotAuthenticated):
        server.token(ACCOUNT.address, challenge, signature)


@pytest.mark.parametrize("position", range(32))
def test_an_altered_challenge_is_not_ours(server: Authenticator, position: int) -> None:
    challenge, _expires = server.challenge(ACCOUNT.address)
    altered = bytearray(challenge)
    altered[position] ^= 1
    signature = sign_challenge(ACCOUNT, SERVER, bytes(altered), int.from_bytes(altered[:5], "big"))
    with pytest.raises(NotAuthenticated):
        server.token(ACCOUNT.address, bytes(altered), signature)


def test_a_challenge_of_before_a_restart_is_not_ours(clock: Clock, server: Authenticator) -> None:
    challenge, expires = Authenticator(SERVER, clock=clock).challenge(ACCOUNT.address)
    with pytest.raises(NotAuthenticated):
        server.token(ACCOUNT.address, challenge, sign_challenge(ACCOUNT, SERVER, challenge, expires))


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\0" * 65, b"\xff" * 65, b"\x01" * 66])
def test_a_malformed_signature_is_refused(server: Authenticator, signature: bytes) -> None:
    challenge, _ = server.challenge(ACCOUNT.address)
    with pytest.raises(NotAuthenticated):
        server.token(ACCOUNT.address, challenge, signature)


def test_what_is_no_address_is_refused(server: Authenticator) -> None:
    with pytest.raises(InvalidInput):
        server.challenge("somebody")


def test_tokens_are_bounded_and_the_oldest_goes(server: Authenticator) -> None:
    tokens = [prove(server) for _ in range(4)]
    with pytest.raises(NotAuthenticated):
        server.address_of(tokens[0])
    assert {server.address_of(token) for token in tokens[1:]} == {ACCOUNT.address}


def test_the_server_keeps_no_token(server: Authenticator) -> None:
    token = prove(server)
    assert token not in repr(vars(server))


# -- over a real connection -----------------------------------------------------------------------------------


def test_a_call_proves_itself(echo) -> None:
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        proved = authenticated_channel(channel, ACCOUNT, echo.identity.fingerprint)
        assert list(proved.unary_stream(WHO)(b"", timeout=5)) == [ACCOUNT.address.encode()]
        assert proved.stream_unary(JOIN)(iter([b"x"]), timeout=5) == b"x"


def test_a_call_without_a_token_is_refused(echo) -> None:
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        with pytest.raises(NotAuthenticated) as refused, rpc_errors():
            list(channel.unary_stream(WHO)(b"", timeout=5))
    assert refused.value.reason == "UNAUTHENTICATED"


@pytest.mark.parametrize("metadata", [("authorization", "Bearer x"), ("authorization", "Basic x")])
def test_a_call_with_a_made_up_token_is_refused(echo, metadata: tuple[str, str]) -> None:
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        with pytest.raises(NotAuthenticated), rpc_errors():
            list(channel.unary_stream(WHO)(b"", timeout=5, metadata=(metadata,)))


def test_after_a_server_forgot_its_tokens_the_next_call_proves_itself_again(echo) -> None:
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        proved = authenticated_channel(channel, ACCOUNT, echo.identity.fingerprint)
        list(proved.unary_stream(WHO)(b"", timeout=5))
        echo.authenticator._tokens.clear()
        with pytest.raises(NotAuthenticated), rpc_errors():
            list(proved.unary_stream(WHO)(b"", timeout=5))
        assert list(proved.unary_stream(WHO)(b"", timeout=5)) == [ACCOUNT.address.encode()]


def test_a_caller_who_pinned_another_key_cannot_be_passed_on(echo) -> None:
    """The caller believes it talks to IMPOSTOR's key; its proof is useless at the real server."""
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        with pytest.raises(NotAuthenticated):
            TokenSource(channel, ACCOUNT, IMPOSTOR).token()
