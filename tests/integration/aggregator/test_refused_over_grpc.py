"""What an aggregator refuses: what is not signed, too large, for somebody else, or not the sum; each with its own reason."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from aggregator_world import LIMITS, chunks_of, leaves_of, raw_send, refused, signed, wait_for_fetches
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from usufruct.encryption.sum import add_chunk
from usufruct.errors import Refused
from usufruct.v1 import aggregation_pb2
from usufruct.wire.channel import pinned_channel
from usufruct.wire.raw import UPLOAD
from usufruct.wire.status import rpc_errors


def test_an_update_meant_for_all_cannot_be_summed_with_fewer_or_with_invented_ones(network) -> None:
    """A builder alone cannot have single updates opened: the holders' signatures name their roster."""
    mine = {3: network.operators[3].address}
    for operators in (mine, {**mine, 5: network.stranger.address, 8: network.stranger.address}):
        r = network.new_round()
        smaller = network.new_round(job_id=r.job_id, view_hash=r.view_hash, operators=operators)
        with network.as_builder() as builder:
            builder.open_round(smaller, 60)
            with refused("BAD_SIGNATURE"):
                raw_send(network, signed(network, r, 3, network.uploads[3]), leaves_of(network.uploads[3]))
            builder.close_round(smaller)


@pytest.mark.parametrize("flip", [(0, 0), (0, 60_000), (1, 5), (2, -1)])
def test_a_ciphertext_tampered_with_on_the_way_is_refused(network, flip: tuple[int, int]) -> None:
    """The signed tree no longer fits, whatever the altered bit does to the ciphertext."""
    r, upload = network.new_round(), network.uploads[3]
    tampered = [bytearray(chunk) for chunk in chunks_of(upload)]
    tampered[flip[0]][flip[1]] ^= 1
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        with refused("UPLOAD_INVALID"):
            raw_send(network, signed(network, r, 3, upload), leaves_of(upload), *map(bytes, tampered))
        assert network.send(r, 3) == 1


def test_a_stream_without_a_header_is_refused(network) -> None:
    with (
        refused("MALFORMED"),
        pinned_channel(network.peer.endpoint, network.peer.fingerprint) as channel,
        rpc_errors(),
    ):
        channel.stream_unary(UPLOAD)(iter([]), timeout=10)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset_id": 5}, "BAD_SIGNATURE"),
        ({"dataset_id": 4}, "ROSTER_MISMATCH"),
        ({"round": 5}, "ROUND_UNKNOWN"),
        ({"attempt": 7}, "ROUND_UNKNOWN"),
        ({"job_id": b"\x01" * 32}, "ROUND_UNKNOWN"),
        ({"view_hash": b"\x01" * 32}, "ROUND_UNKNOWN"),
        ({"upload_root": b"\x01" * 32}, "BAD_SIGNATURE"),
        ({"upload_bytes": 7}, "UPLOAD_INVALID"),
        ({"signature": b"\x01" * 65}, "BAD_SIGNATURE"),
        ({"signature": b""}, "BAD_SIGNATURE"),
        ({"upload_root": b"\x01" * 31}, "MALFORMED"),
    ],
)
def test_every_field_of_the_header_is_signed_or_looked_up(network, change: dict, reason: str) -> None:
    r, upload = network.new_round(), network.uploads[3]
    header = signed(network, r, 3, upload)
    for name, value in change.items():
        setattr(header, name, value)
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        with refused(reason):
            raw_send(network, header, leaves_of(upload), *chunks_of(upload))
        assert network.send(r, 3) == 1


def test_a_stranger_cannot_send_in_a_holders_name(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        with refused("BAD_SIGNATURE"):
            network.send(r, 3, operator=network.stranger)


def test_a_round_that_nobody_opened_takes_nothing(network) -> None:
    with refused("ROUND_UNKNOWN"):
        network.send(network.new_round(), 3)


# -- bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "timeout", "reason"),
    [
        ({"parameter_count": 400_001}, 60, "TOO_LARGE"),
        ({"parameter_count": 0}, 60, "MALFORMED"),
        ({}, 601, "TOO_LARGE"),
        ({}, 0, "MALFORMED"),
        ({"operators": {}}, 60, "MALFORMED"),
        ({"operators": {n: "0x" + "11" * 20 for n in range(65)}}, 60, "TOO_LARGE"),
        ({"operators": {1: "nobody"}}, 60, "MALFORMED"),
        ({"job_id": b"short"}, 60, "MALFORMED"),
        ({"view_hash": b""}, 60, "MALFORMED"),
    ],
)
def test_what_is_too_large_or_malformed_is_not_opened(
    network, change: dict, timeout: int, reason: str
) -> None:
    with network.as_builder() as builder:
        with refused(reason):
            builder.open_round(network.new_round(**change), timeout)
    assert network.server.rounds.open_rounds == 0


def test_a_parameter_set_of_another_version_is_not_opened(network) -> None:
    with network.as_builder() as builder:
        request = aggregation_pb2.OpenRoundRequest(
            job_id=bytes(32), view_hash=bytes(32), parameters="ckks", parameter_count=1, timeout_seconds=1
        )
        with refused("SPEC_INVALID"), rpc_errors():
            builder._stub.OpenRound(request, timeout=5)


def test_one_builder_opens_so_many_rounds_and_no_more(network) -> None:
    with network.as_builder() as builder, network.as_builder(network.stranger) as other:
        rounds = [network.new_round() for _ in range(3)]
        builder.open_round(rounds[0], 60)
        builder.open_round(rounds[1], 60)
        with refused("TOO_MANY"):
            builder.open_round(rounds[2], 60)
        other.open_round(network.new_round(), 60)
        builder.close_round(rounds[0])
        builder.open_round(rounds[2], 60)


def test_disk_is_bounded_over_all_rounds(start) -> None:
    network = start(dataclasses.replace(LIMITS, max_disk_bytes=20_000_000))
    with network.as_builder() as builder:
        r = network.new_round()  # 2.1 MB for each of three uploads and the sum
        builder.open_round(r, 60)
        builder.open_round(network.new_round(), 60)
        with network.as_builder(network.stranger) as other:
            with refused("TOO_LARGE"):
                other.open_round(network.new_round(), 60)
            builder.close_round(r)
            other.open_round(network.new_round(), 60)


def test_a_caller_that_sends_no_header_is_cut_off(network, monkeypatch: pytest.MonkeyPatch) -> None:
    from usufruct_server.aggregator import service

    monkeypatch.setattr(service, "HEADER_SECONDS", 0.3)
    release = threading.Event()

    def silent():
        release.wait()
        yield b""

    with pinned_channel(network.peer.endpoint, network.peer.fingerprint) as channel:
        start = time.monotonic()
        with pytest.raises(grpc.RpcError) as cut:
            channel.stream_unary(UPLOAD)(silent(), timeout=20)
        release.set()
    assert time.monotonic() - start < 5 and cut.value.code() is grpc.StatusCode.CANCELLED


# -- the builder does not believe the aggregator ------------------------------------------------------------------


def test_a_sum_of_other_bytes_than_its_root_says_is_refused(network, monkeypatch: pytest.MonkeyPatch) -> None:
    from usufruct_server.aggregator.open_round import OpenRound

    r = network.new_round()
    monkeypatch.setattr(OpenRound, "sum_root", property(lambda self: bytes(32)))
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        for d in network.operators:
            network.send(r, d)
        with refused("SUM_INVALID"):
            builder.fetch_sum(r, 10)


def test_an_aggregator_that_adds_something_else_is_caught_before_anything_is_opened(
    network, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usufruct_server.aggregator import lockstep

    def adds_one_twice(uploads, index, chunks):
        return add_chunk(uploads, index, [*chunks, chunks[0]])

    monkeypatch.setattr(lockstep, "add_chunk", adds_one_twice)
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        for d in network.operators:
            network.send(r, d)
        with builder.fetch_sum(r, 10) as fetched:
            with refused("SUM_INVALID"):
                network.opened(fetched)
            assert not network.key.used
            assert not builder.fetch_chunk(r, 1, fetched.commitment.root).adds_up


def test_too_many_fetches_of_one_sum_are_refused(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder, ThreadPoolExecutor(2) as background:
        builder.open_round(r, 60)
        waiting = [background.submit(builder.fetch_sum, r, 30) for _ in range(2)]
        wait_for_fetches(network, r, 2)
        with pytest.raises(Refused) as failed:
            builder.fetch_sum(r, 5)
        assert failed.value.reason == "TOO_MANY"
        for d in network.operators:
            network.send(r, d)
        roots = {w.result(10).commitment.root for w in waiting}
        assert len(roots) == 1


# -- anyone of the round adds again -------------------------------------------------------------------------------


def test_builder_and_holders_add_any_chunk_again(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        for d in network.operators:
            network.send(r, d)
        with builder.fetch_sum(r, 10) as fetched:
            root = fetched.commitment.root
            for index in range(3):
                assert builder.fetch_chunk(r, index, root).adds_up
            with network.as_holder(5) as holder:
                chunk = holder.fetch_chunk(r, 2, root)
            assert chunk.adds_up and chunk.sum_chunk == list(fetched.chunks())[2]
            assert chunk.chunks == {d: chunks_of(upload)[2] for d, upload in network.uploads.items()}
            with refused("SUM_INVALID"):
                builder.fetch_chunk(r, 0, bytes(32))
        builder.close_round(r)
        with refused("ROUND_UNKNOWN"):
            builder.fetch_chunk(r, 0, root)


def test_a_chunk_is_for_the_round_and_for_a_complete_sum_only(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder, network.as_builder(network.stranger) as stranger:
        builder.open_round(r, 60)
        network.send(r, 5)
        with refused("ROUND_INCOMPLETE") as expectation:
            builder.fetch_chunk(r, 0, bytes(32))
        assert expectation.info.value.details["missing"] == "3,8"
        with refused("NOT_YOURS"):
            stranger.fetch_chunk(r, 0, bytes(32))
        with refused("UPLOAD_INVALID"):
            builder.fetch_chunk(r, 3, bytes(32))
        with refused("ROUND_UNKNOWN"):
            builder.fetch_chunk(dataclasses.replace(r, view_hash=bytes(32)), 0, bytes(32))


# -- surroundings -------------------------------------------------------------------------------------------------


def test_health_and_reflection_answer(network) -> None:
    with pinned_channel(network.peer.endpoint, network.peer.fingerprint) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "usufruct.v1.AggregationService", "usufruct.v1.AuthService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"usufruct.v1.AggregationService", "usufruct.v1.AuthService", "grpc.health.v1.Health"} <= set(
        services
    )


def test_the_aggregator_loads_no_key_no_seal_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, usufruct_server.aggregator.commands\n"
        "bad = {'tenseal', 'torch', 'zstandard', 'usufruct.encryption.keys', 'usufruct.encryption.update',\n"
        "       'usufruct.encryption.seal_raw', 'usufruct.privacy', 'usufruct.graph', 'usufruct_server.holder'}\n"
        "print(bad & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
