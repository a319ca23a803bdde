"""Raw streams are bounded and exact; errors cross the wire as reasons, never as text."""

from __future__ import annotations

import itertools
import logging

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from usufruct.errors import (
    CATALOGUE,
    ChainError,
    InvalidInput,
    PeerError,
    PeerUnreachable,
    Refused,
    RoundFailed,
    UsufructError,
)
from usufruct.v1 import aggregation_pb2
from usufruct.wire.channel import pinned_channel
from usufruct.wire.raw import CHUNK_BYTES, IncomingStream, chunks, with_header
from usufruct.wire.status import family_of, from_rpc_error, rpc_errors, to_status

FAIL, REPEAT = "/usufruct.test.Echo/Fail", "/usufruct.test.Echo/Repeat"
HEADER = aggregation_pb2.UploadHeader(dataset_id=9, upload_bytes=5)


@given(st.binary(max_size=5000), st.integers(1, 600))
def test_chunks_lose_nothing(data: bytes, size: int) -> None:
    pieces = list(chunks(data, size))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= size for piece in pieces)


@given(
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.lists(st.integers(0, 600), max_size=6),
)
def test_bodies_are_read_exactly_however_they_are_cut(first: bytes, second: bytes, cuts: list[int]) -> None:
    data = first + second
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    messages = [data[a:b] for a, b in itertools.pairwise(edges)]
    stream = IncomingStream([HEADER.SerializeToString(), *messages])
    assert stream.header(aggregation_pb2.UploadHeader) == HEADER
    assert stream.read(len(first), 300) == first
    assert stream.read(len(second), 300) == second
    stream.end()


def test_a_whole_stream_round_trips() -> None:
    stream = IncomingStream(with_header(HEADER, b"a" * (CHUNK_BYTES + 1), b"b"))
    assert stream.header(aggregation_pb2.UploadHeader).dataset_id == 9
    assert stream.read(CHUNK_BYTES + 2, 1 << 30) == b"a" * (CHUNK_BYTES + 1) + b"b"
    stream.end()


@pytest.mark.parametrize(
    ("messages", "announced", "allowed", "reason"),
    [
        ([b"abc"], 4, 10, "MALFORMED"),
        ([], 1, 10, "MALFORMED"),
        ([b"abc"], 2, 10, "TOO_LARGE"),
        ([b"ab", b"c"], 2, 10, "TOO_LARGE"),
        ([b"abc"], 3, 2, "TOO_LARGE"),
        ([b"abc"], -1, 2, "MALFORMED"),
    ],
    ids=["short", "empty", "long", "long in a later message", "more than allowed", "negative"],
)
def test_a_stream_of_another_length_is_refused(
    messages: list[bytes], announced: int, allowed: int, reason: str
) -> None:
    stream = IncomingStream(messages)

    def read() -> None:
        stream.read(announced, allowed)
        stream.end()

    with pytest.raises(InvalidInput) as refused:
        read()
    assert refused.value.reason == reason


def test_what_is_not_allowed_is_refused_before_a_byte_is_read() -> None:
    def messages():
        raise AssertionError("read")
        yield b""

    with pytest.raises(InvalidInput):
        IncomingStream(messages()).read(11, 10)


def test_a_missing_or_malformed_header_is_refused() -> None:
    for messages in ([], [b"\xff\xff"], [b"\0" * 70_000]):
        with pytest.raises(InvalidInput):
            IncomingStream(messages).header(aggregation_pb2.UploadHeader)


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", sorted(CATALOGUE))
def test_every_reason_crosses_the_wire(echo, reason: str) -> None:
    echo.to_raise = UsufructError("secret 4711", reason=reason, dataset_id=3, patient="secret 4712")
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.stream_unary(FAIL)(iter([]), timeout=5)
    assert failed.value.code().name == CATALOGUE[reason].status.value
    assert failed.value.details() == CATALOGUE[reason].text
    assert "secret" not in str(failed.value) + str(failed.value.trailing_metadata())
    error = from_rpc_error(failed.value)
    assert error.reason == reason and error.details == {"dataset_id": "3"}
    assert isinstance(error, family_of(reason))


@pytest.mark.parametrize(
    ("reason", "family"),
    [
        ("ROUND_INCOMPLETE", RoundFailed), ("GRANT_EXPIRED", Refused), ("BUDGET_SHORT", Refused),
        ("GRAPH_NOT_ALLOWED", InvalidInput), ("CHAIN_UNREACHABLE", ChainError), ("UPLOAD_INVALID", InvalidInput),
    ],
)  # fmt: skip
def test_a_reason_comes_back_as_its_family(reason: str, family: type) -> None:
    assert family_of(reason) is family


def test_an_unknown_exception_says_nothing_and_logs_no_text(echo, caplog: pytest.LogCaptureFixture) -> None:
    echo.to_raise = KeyError("patient 4711")
    with caplog.at_level(logging.DEBUG), pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.stream_unary(FAIL)(iter([]), timeout=5)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert failed.value.details() == CATALOGUE["INTERNAL"].text
    assert "4711" not in str(failed.value) + caplog.text
    assert "KeyError" in caplog.text and "conftest.py:" in caplog.text


def test_an_error_in_the_middle_of_a_stream_arrives_after_what_was_sent(echo) -> None:
    echo.to_raise = RoundFailed(missing="1,5")
    with pinned_channel(echo.endpoint, echo.identity.fingerprint) as channel:
        answers = channel.unary_stream(REPEAT)(b"x", timeout=5)
        received = []
        with pytest.raises(RoundFailed) as failed, rpc_errors():
            received.extend(iter(answers.__next__, None))
    assert received == [b"x"] * 3
    assert failed.value.details == {"missing": "1,5"}


class Call(grpc.RpcError, grpc.Call):
    """A failed call as a hostile or foreign server can make it."""

    def __init__(self, code: grpc.StatusCode, metadata: tuple = ()) -> None:
        self._code, self._metadata = code, metadata

    def code(self):
        return self._code

    def details(self):
        return "hostile text"

    def trailing_metadata(self):
        return self._metadata

    def initial_metadata(self):
        return ()

    def is_active(self):
        return False

    def time_remaining(self):
        return None

    def cancel(self):
        return False

    def add_callback(self, callback):
        return False


def with_info(reason: str, domain: str = "usufruct.v1", **metadata: str) -> Call:
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata))
    status = status_pb2.Status(code=10, message="hostile text", details=[detail])
    return Call(grpc.StatusCode.ABORTED, (("grpc-status-details-bin", status.SerializeToString()),))


@pytest.mark.parametrize(
    "call",
    [
        Call(grpc.StatusCode.UNKNOWN),
        Call(grpc.StatusCode.ABORTED, (("grpc-status-details-bin", b"\xff\xff\xff"),)),
        with_info("NO_SUCH_REASON"),
        with_info("BUDGET_SHORT", domain="elsewhere"),
    ],
)
def test_a_foreign_status_becomes_a_peer_error_without_its_text(call: Call) -> None:
    error = from_rpc_error(call, "there:1")
    assert isinstance(error, PeerError) and error.reason == "INTERNAL"
    assert "hostile" not in error.message


def test_only_known_short_printable_details_are_taken_over() -> None:
    error = from_rpc_error(with_info("BUDGET_SHORT", limit="7", field="x" * 500, order="\x1b[2J", evil="1"))
    assert error.reason == "BUDGET_SHORT" and error.details == {"limit": "7"}


def test_a_lost_connection_and_a_late_answer_have_their_own_reasons() -> None:
    lost = from_rpc_error(Call(grpc.StatusCode.UNAVAILABLE), "there:1")
    assert isinstance(lost, PeerUnreachable) and "there:1" in lost.message
    assert from_rpc_error(Call(grpc.StatusCode.DEADLINE_EXCEEDED)).reason == "DEADLINE_EXCEEDED"


def test_the_status_of_an_error_carries_only_public_details() -> None:
    status = to_status(Refused("patient 4711", reason="BUDGET_SHORT", limit=5, row=17))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert dict(info.metadata) == {"limit": "5"} and "4711" not in str(status)
