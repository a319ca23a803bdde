"""Proving an Ethereum key to a server, once, for a short-lived token.

The text that is signed (EIP-191) holds the TLS key fingerprint that the *caller* has pinned. Somebody in the
middle with another TLS key can pass the challenge on, but the signature then names the wrong key and is
refused.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import grpc
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount

from usufruct.domain import ids
from usufruct.errors import InvalidInput, NotAuthenticated
from usufruct.v1 import auth_pb2, auth_pb2_grpc
from usufruct.wire.status import rpc_errors
from usufruct.wire.tls import fingerprint_text

CHALLENGE_SECONDS = 60
TOKEN_SECONDS = 900
RENEW_SECONDS = 60
"""A client asks for a new token this long before the old one ends."""

MAX_TOKENS = 4096
CALL_SECONDS = 10.0
_SCHEME = "Bearer "


def challenge_text(fingerprint: bytes, address: str, challenge: bytes, expire_time_seconds: int) -> str:
    """The text that a caller signs: which server (by its pinned key), who, which challenge, until when."""
    return (
        "Usufruct authentication v1\n"
        f"server key: {fingerprint_text(fingerprint)}\n"
        f"address: {address}\n"
        f"challenge: {ids.to_hex(challenge)}\n"
        f"expires: {expire_time_seconds}"
    )


def sign_challenge(
    account: LocalAccount, fingerprint: bytes, challenge: bytes, expire_time_seconds: int
) -> bytes:
    """The caller's 65-byte EIP-191 signature over :func:`challenge_text`."""
    text = challenge_text(fingerprint, account.address, challenge, expire_time_seconds)
    return bytes(account.sign_message(encode_defunct(text=text)).signature)


class Authenticator:
    """The server's side: gives challenges, checks signatures, knows its tokens.

    A challenge carries its own expiry and a keyed tag, so an unproven caller costs no memory here. Of a token
    only the hash is kept.

    *Guarantee*: :meth:`authenticate` returns an address only to a caller that, within the last
    ``token_seconds``, signed a fresh challenge naming this server's TLS key with the key of that address.

    Args:
        fingerprint: of this server's TLS key, 32 bytes.
        clock: UTC seconds.
    """

    def __init__(
        self,
        fingerprint: bytes,
        *,
        challenge_seconds: int = CHALLENGE_SECONDS,
        token_seconds: int = TOKEN_SECONDS,
        max_tokens: int = MAX_TOKENS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fingerprint = fingerprint
        self._challenge_seconds = challenge_seconds
        self._token_seconds = token_seconds
        self._max_tokens = max_tokens
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._used: OrderedDict[bytes, int] = OrderedDict()
        self._tokens: OrderedDict[bytes, tuple[str, int]] = OrderedDict()

    def challenge(self, address: str) -> tuple[bytes, int]:
        """A fresh challenge for ``address``: 32 bytes, and when it stops working.

        Raises:
            InvalidInput: that is no address.
        """
        address = ids.address(address, "address")
        expires = int(self._clock()) + self._challenge_seconds
        body = expires.to_bytes(5, "big") + secrets.token_bytes(11)
        return body + self._tag(body, address), expires

    def token(self, address: str, challenge: bytes, signature: bytes) -> tuple[str, int]:
        """A token for whoever signed ``challenge``, and when it stops working.

        Raises:
            NotAuthenticated: the challenge is not ours, too old or used, or the signature is not of
                ``address`` over this server's key.
        """
        address = ids.address(address, "address")
        now = int(self._clock())
        if len(challenge) != 32 or not hmac.compare_digest(
            self._tag(challenge[:16], address), challenge[16:]
        ):
            raise NotAuthenticated("The challenge is not one of this server's for this address.")
        expires = int.from_bytes(challenge[:5], "big")
        if expires < now:
            raise NotAuthenticated("The challenge is too old; ask for a new one.", reason="TOKEN_EXPIRED")
        text = challenge_text(self._fingerprint, address, challenge, expires)
        if recover(encode_defunct(text=text), signature) != address:
            raise NotAuthenticated(
                "The challenge is not signed by the address named, or names another TLS key than this server's."
            )
        with self._lock:
            while self._used and next(iter(self._used.values())) < now:
                self._used.popitem(last=False)
            if challenge in self._used:
                raise NotAuthenticated("The challenge has been used; ask for a new one.")
            self._used[challenge] = expires
            while len(self._tokens) >= self._max_tokens:
                self._tokens.popitem(last=False)  # the oldest; its owner proves the key again
            token = secrets.token_urlsafe(32)
            ends = now + self._token_seconds
            self._tokens[_digest(token)] = (address, ends)
        return token, ends

    def address_of(self, token: str) -> str:
        """Who holds ``token``.

        Raises:
            NotAuthenticated: ``UNAUTHENTICATED`` if it is none of ours, ``TOKEN_EXPIRED`` if it is too old.
        """
        with self._lock:
            address, ends = self._tokens.get(_digest(token), ("", 0))
            if not address:
                raise NotAuthenticated()
            if ends < self._clock():
                del self._tokens[_digest(token)]
                raise NotAuthenticated(reason="TOKEN_EXPIRED")
        return address

    def authenticate(self, context: grpc.ServicerContext) -> str:
        """The checksummed address that the caller of this RPC has proved; errors as :meth:`address_of`."""
        for key, value in context.invocation_metadata():
            if key == "authorization" and isinstance(value, str) and value.startswith(_SCHEME):
                return self.address_of(value[len(_SCHEME) :])
        raise NotAuthenticated()

    def _tag(self, body: bytes, address: str) -> bytes:
        return hmac.digest(self._secret, body + address.encode("ascii"), "sha256")[:16]


class AuthService(auth_pb2_grpc.AuthServiceServicer):
    """The protobuf face of an :class:`Authenticator`."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def GetChallenge(
        self, request: auth_pb2.GetChallengeRequest, context: grpc.ServicerContext
    ) -> auth_pb2.GetChallengeResponse:
        """Gives a challenge to anyone."""
        challenge, expires = self._authenticator.challenge(request.address)
        return auth_pb2.GetChallengeResponse(challenge=challenge, expire_time_seconds=expires)

    def GetToken(
        self, request: auth_pb2.GetTokenRequest, context: grpc.ServicerContext
    ) -> auth_pb2.GetTokenResponse:
        """Exchanges a signed challenge for a token."""
        token, expires = self._authenticator.token(request.address, request.challenge, request.signature)
        return auth_pb2.GetTokenResponse(token=token, expire_time_seconds=expires)


class TokenSource:
    """The caller's side: proves ``account`` when a token is needed, and renews it in time.

    Args:
        channel: pinned, to the server of ``fingerprint``.
        account: the key to prove.
        fingerprint: the TLS key that was pinned; it goes into what is signed.
    """

    def __init__(self, channel: grpc.Channel, account: LocalAccount, fingerprint: bytes) -> None:
        self._stub = cast(Any, auth_pb2_grpc.AuthServiceStub)(channel)
        self._account = account
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._token = ""
        self._renew_time = 0.0

    def token(self) -> str:
        """A token that should still work for a while.

        Raises:
            UsufructError: what the server answered.
        """
        with self._lock:
            if not self._token or time.monotonic() >= self._renew_time:
                self._token, self._renew_time = self._prove()
            return self._token

    def forget(self, token: str) -> None:
        """``token`` was refused: do not use it again."""
        with self._lock:
            if self._token == token:
                self._token = ""

    def _prove(self) -> tuple[str, float]:
        address = self._account.address
        with rpc_errors():
            given = self._stub.GetChallenge(
                auth_pb2.GetChallengeRequest(address=address), timeout=CALL_SECONDS
            )
            if len(given.challenge) != 32:
                raise InvalidInput("The server's challenge does not have 32 bytes.", field="challenge")
            signature = sign_challenge(
                self._account, self._fingerprint, given.challenge, given.expire_time_seconds
            )
            granted = self._stub.GetToken(
                auth_pb2.GetTokenRequest(address=address, challenge=given.challenge, signature=signature),
                timeout=CALL_SECONDS,
            )
        lifetime = granted.expire_time_seconds - time.time()
        return granted.token, time.monotonic() + max(1.0, lifetime - RENEW_SECONDS)


class _CallDetails(grpc.ClientCallDetails):
    def __init__(self, details: Any, token: str) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = (*(details.metadata or ()), ("authorization", _SCHEME + token))
        self.credentials = details.credentials
        self.wait_for_ready = getattr(details, "wait_for_ready", None)
        self.compression = getattr(details, "compression", None)


class AuthInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to every call. A refused token is dropped; a unary call is then tried once more.

    A stream cannot be replayed from here: its caller sees the refusal, and its next call has a fresh token.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """A refused token has changed nothing at the server, so asking again is safe."""
        token = self._source.token()
        call = continuation(_CallDetails(details, token), request)
        if call.code() is grpc.StatusCode.UNAUTHENTICATED:
            self._source.forget(token)
            call = continuation(_CallDetails(details, self._source.token()), request)
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """See the class."""
        return self._stream(continuation, details, request)

    def intercept_stream_unary(self, continuation: Any, details: Any, request_iterator: Any) -> Any:
        """See the class."""
        return self._stream(continuation, details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, details: Any, request_iterator: Any) -> Any:
        """See the class."""
        return self._stream(continuation, details, request_iterator)

    def _stream(self, continuation: Any, details: Any, request: Any) -> Any:
        token = self._source.token()
        call = continuation(_CallDetails(details, token), request)

        def ended(*_: Any) -> None:
            if call.code() is grpc.StatusCode.UNAUTHENTICATED:
                self._source.forget(token)

        call.add_done_callback(ended)
        return call


def authenticated_channel(channel: grpc.Channel, account: LocalAccount, fingerprint: bytes) -> grpc.Channel:
    """``channel`` with a proof of ``account`` on every call (made at the first call that needs it)."""
    return grpc.intercept_channel(channel, AuthInterceptor(TokenSource(channel, account, fingerprint)))


def recover(message: Any, signature: bytes) -> str | None:
    """Who signed an ``eth_account`` message: a checksummed address, or None if the signature is malformed."""
    if len(signature) != 65:
        return None
    try:
        return str(Account.recover_message(message, signature=signature))
    except Exception:
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
