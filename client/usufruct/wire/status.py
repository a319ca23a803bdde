"""Errors across the wire: ``usufruct.errors`` <-> gRPC status with ``google.rpc.ErrorInfo``.

What a peer is shown is the catalogue's fixed text and the public details; what a peer sends is read only as
far as it is in our catalogue. No free text passes in either direction.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from usufruct.errors import (
    CATALOGUE,
    DOMAIN,
    PUBLIC_DETAILS,
    AuditError,
    ChainError,
    ConfigError,
    InvalidInput,
    LedgerError,
    NotAuthenticated,
    PeerError,
    PeerKeyMismatch,
    PeerUnreachable,
    Refused,
    RoundFailed,
    Status,
    UsufructError,
)

_LOG = logging.getLogger("usufruct.wire")
_DETAIL_CHARACTERS = 200

_FAMILIES: dict[str, type[UsufructError]] = {
    "PEER_UNREACHABLE": PeerUnreachable,
    "PEER_KEY_MISMATCH": PeerKeyMismatch,
    "DEADLINE_EXCEEDED": PeerError,
    "CHAIN_UNREACHABLE": ChainError,
    "CHAIN_DISAGREES": ChainError,
    "TRANSACTION_FAILED": ChainError,
    "LEDGER_LOCKED": LedgerError,
    "LEDGER_CORRUPT": LedgerError,
    "CONFIG_INVALID": ConfigError,
    "KEY_INVALID": ConfigError,
    "PORT_IN_USE": ConfigError,
    "AUDIT_FAILED": AuditError,
    "INTERNAL": PeerError,
    **dict.fromkeys(
        (
            "LEG_NOT_OPEN", "LEG_EXPIRED", "ROUND_OUT_OF_ORDER", "ROUND_VIEW_CHANGED", "CHECK_CHANGED",
            "ATTEMPT_LOST", "ATTEMPT_ALREADY_CHARGED", "ATTEMPTS_EXHAUSTED", "TRAINER_FAILED", "ROUND_INCOMPLETE", "ROUND_UNKNOWN",
            "ROSTER_MISMATCH", "UPLOAD_CHANGED", "SUM_INVALID", "KEY_USED", "INTERRUPTED",
        ),
        RoundFailed,
    ),
}  # fmt: skip


def family_of(reason: str) -> type[UsufructError]:
    """The error class a reason of the catalogue comes back as."""
    if reason in _FAMILIES:
        return _FAMILIES[reason]
    return {Status.UNAUTHENTICATED: NotAuthenticated, Status.INVALID_ARGUMENT: InvalidInput}.get(
        CATALOGUE[reason].status, Refused
    )


def to_status(error: UsufructError) -> status_pb2.Status:
    """The rich status of an error: code, fixed public text, reason, public details."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.public_details)
    detail = AnyMessage()
    detail.Pack(info)
    code = code_pb2.Code.Value(error.status.value)
    return status_pb2.Status(code=code, message=error.public_text, details=[detail])


def from_rpc_error(error: grpc.RpcError, endpoint: str = "the peer") -> UsufructError:
    """The error of ours that a failed call stands for.

    Args:
        endpoint: for the message, when the peer could not be reached.

    Returns:
        An error of the family of its reason, with our own text; the peer's text is never taken over.
    """
    info = _error_info(error)
    if info is not None and info.domain == DOMAIN and info.reason in CATALOGUE:
        details = {
            key: value
            for key, value in info.metadata.items()
            if key in PUBLIC_DETAILS and value.isprintable() and len(value) <= _DETAIL_CHARACTERS
        }
        return family_of(info.reason)("", reason=info.reason, **details)
    code = error.code() if isinstance(error, grpc.Call) else None
    if code is grpc.StatusCode.UNAVAILABLE:
        return PeerUnreachable(
            f"{endpoint} cannot be reached, or the connection broke. Check that it is running, then try again.",
            endpoint=endpoint,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PeerError(f"{endpoint} did not answer in time.", reason="DEADLINE_EXCEEDED", endpoint=endpoint)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refused(f"{endpoint} is busy, or the message is too large for it.", reason="TOO_MANY")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return InvalidInput(
            f"{endpoint} does not offer this call; check its role and version.", reason="UNSUPPORTED_VERSION"
        )
    name = code.name if code is not None else "no status"
    return PeerError(f"{endpoint} failed with {name}; its log has the details.", reason="INTERNAL")


@contextmanager
def rpc_errors(endpoint: str = "the peer") -> Iterator[None]:
    """Turns a failed call inside the block into the error of ours that it stands for."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, endpoint) from None


def _error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    try:
        status = rpc_status.from_call(cast(Any, error))
    except (ValueError, AttributeError, TypeError, NotImplementedError):
        return None
    except Exception:
        return None
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        try:
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
                return info
        except Exception:
            return None
    return None


class ErrorInterceptor(grpc.ServerInterceptor):
    """Turns what a handler raises into a status: errors of ours by the catalogue, all else into INTERNAL.

    Handlers raise and never call ``context.abort``. Of an unknown exception the log gets the type and the
    places in the code, never its text, which may hold data.
    """

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Wraps the handler of one call."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        kinds: tuple[tuple[str, Any, bool], ...] = (
            ("unary_unary", grpc.unary_unary_rpc_method_handler, False),
            ("stream_unary", grpc.stream_unary_rpc_method_handler, False),
            ("unary_stream", grpc.unary_stream_rpc_method_handler, True),
            ("stream_stream", grpc.stream_stream_rpc_method_handler, True),
        )
        for attribute, build, streams in kinds:
            behaviour = getattr(handler, attribute)
            if behaviour is not None:
                wrapped = _wrap_stream(behaviour, method) if streams else _wrap_unary(behaviour, method)
                return cast(
                    grpc.RpcMethodHandler,
                    build(wrapped, handler.request_deserializer, handler.response_serializer),
                )
        return handler


def _wrap_unary(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return behaviour(request, context)
        except Exception as error:
            _abort(context, error, method)

    return call


def _wrap_stream(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from behaviour(request, context)
        except Exception as error:
            _abort(context, error, method)

    return call


def _abort(context: grpc.ServicerContext, error: Exception, method: str) -> NoReturn:
    if not isinstance(error, UsufructError):
        if not context.is_active():
            context.abort(grpc.StatusCode.CANCELLED, "")  # the caller is gone; nobody is left to tell
        places = " < ".join(
            f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
            for frame in reversed(traceback.extract_tb(error.__traceback__)[-5:])
        )
        _LOG.error("%s failed with %s at %s", method, type(error).__name__, places)
        error = UsufructError()
    else:
        _LOG.info("%s refused with %s", method, error.reason)
    context.abort_with_status(rpc_status.to_status(to_status(error)))
