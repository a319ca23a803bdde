"""A round at the aggregator: exact for the honest, refused with its own reason for everyone else."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from aggregator_world import chunks_of, leaves_of, raw_send, refused, signed, wait_for_fetches
from eth_account import Account

from usufruct.encryption.parameters import HEADER_BYTES
from usufruct.errors import NotAuthenticated
from usufruct.v1 import aggregation_pb2, aggregation_pb2_grpc
from usufruct.wire.channel import pinned_channel
from usufruct.wire.raw import FETCH_CHUNK, FETCH_SUM, UPLOAD
from usufruct.wire.status import rpc_errors


def test_three_holders_sum_exactly(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        ends = builder.open_round(r, 60)
        assert 50 < ends - time.time() <= 61
        assert [network.send(r, d) for d in network.operators] == [1, 2, 3]
        with builder.fetch_sum(r, 10) as fetched:
            builder.close_round(r)
            np.testing.assert_array_equal(network.opened(fetched), network.total())
    assert fetched.upload_roots == {
        d: signed(network, r, d, upload).upload_root for d, upload in network.uploads.items()
    }
    assert network.server.rounds.open_rounds == 0


def test_a_fetch_waits_for_the_last_holder(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder, ThreadPoolExecutor(1) as background:
        builder.open_round(r, 60)
        waiting = background.submit(builder.fetch_sum, r, 30)
        network.send(r, 3)
        network.send(r, 5)
        assert not waiting.done()
        network.send(r, 8)
        with waiting.result(10) as fetched:
            np.testing.assert_array_equal(network.opened(fetched), network.total())


def test_holders_may_send_at_the_same_time(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder, ThreadPoolExecutor(3) as background:
        builder.open_round(r, 60)
        counts = list(background.map(lambda d: network.send(r, d), network.operators))
        assert max(counts) == 3, "whoever is told last is told of all"
        with builder.fetch_sum(r, 10) as fetched:
            np.testing.assert_array_equal(network.opened(fetched), network.total())


def test_the_sum_can_be_fetched_again_until_it_is_closed(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        for d in network.operators:
            network.send(r, d)
        with builder.fetch_sum(r, 10) as first, builder.fetch_sum(r, 10) as again:
            assert list(first.chunks()) == list(again.chunks())
        builder.close_round(r)
        builder.close_round(r)
        with refused("ROUND_UNKNOWN"):
            builder.fetch_sum(r, 10)


def test_an_open_round_is_opened_once(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        assert builder.open_round(r, 60) == builder.open_round(r, 60)
        with refused("ROUND_VIEW_CHANGED"):
            builder.open_round(dataclasses.replace(r, view_hash=secrets.token_bytes(32)), 60)


def test_an_attempt_has_one_aggregate_even_after_it_has_ended(network) -> None:
    r = network.new_round()
    fewer = dataclasses.replace(r, operators=dict(list(r.operators.items())[:2]))
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        builder.close_round(r)
        for other in (fewer, dataclasses.replace(r, view_hash=secrets.token_bytes(32))):
            with refused("ROUND_VIEW_CHANGED"):
                builder.open_round(other, 60)
        with refused("ROUND_OUT_OF_ORDER"):
            builder.open_round(dataclasses.replace(r, attempt=5), 60)
        builder.open_round(r, 60)
        builder.open_round(dataclasses.replace(fewer, attempt=7), 60)


# -- at the deadline ------------------------------------------------------------------------------------------


def test_at_the_deadline_the_missing_are_named_and_all_is_forgotten(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 1)
        network.send(r, 5)
        with refused("ROUND_INCOMPLETE") as expectation:
            builder.fetch_sum(r, 10)
        assert expectation.info.value.details["missing"] == "3,8"
        assert network.server.rounds.open_rounds == 0
        with refused("ROUND_UNKNOWN"):
            network.send(r, 8)
        with refused("ROUND_UNKNOWN"):
            builder.fetch_sum(r, 10)


def test_a_fetch_that_waits_is_told_when_its_round_is_closed(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder, network.as_builder() as again, ThreadPoolExecutor(1) as background:
        builder.open_round(r, 60)
        waiting = background.submit(builder.fetch_sum, r, 30)
        wait_for_fetches(network, r)
        again.close_round(r)
        with refused("ROUND_UNKNOWN"):
            waiting.result(10)


def test_a_fetch_that_waits_is_told_when_the_aggregator_stops(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder, ThreadPoolExecutor(1) as background:
        builder.open_round(r, 60)
        waiting = background.submit(builder.fetch_sum, r, 30)
        wait_for_fetches(network, r)
        start = time.monotonic()
        network.server.stop()
        with refused("INTERRUPTED"):
            waiting.result(10)
        assert time.monotonic() - start < 5


def test_a_builder_that_goes_away_frees_its_fetch(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        opened = network.server.rounds.of_builder(network.builder.address, r.job_id, r.attempt)
        call = builder._fetch_sum(
            aggregation_pb2.FetchSumRequest(job_id=r.job_id, attempt=r.attempt).SerializeToString(),
            timeout=30,
        )
        wait_for_fetches(network, r)
        call.cancel()
        with opened._changed:
            assert opened._changed.wait_for(lambda: not opened._under_way[network.builder.address], 10)


# -- who may ----------------------------------------------------------------------------------------------------


def test_only_the_builder_that_opened_a_round_fetches_it(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder, network.as_builder(network.stranger) as stranger:
        builder.open_round(r, 60)
        for d in network.operators:
            network.send(r, d)
        with refused("NOT_YOURS"):
            stranger.fetch_sum(r, 10)
        stranger.close_round(r)  # closes nothing
        builder.fetch_sum(r, 10)


def test_nobody_can_take_a_rounds_place(network) -> None:
    """Job ids are public. A stranger may open a round of that name, with another view: it stays apart."""
    r = network.new_round()
    with network.as_builder() as builder, network.as_builder(network.stranger) as stranger:
        stranger.open_round(dataclasses.replace(r, view_hash=secrets.token_bytes(32)), 60)
        builder.open_round(r, 60)
        for d in network.operators:
            network.send(r, d)
        builder.fetch_sum(r, 10)

    with network.as_builder(Account.create()) as third, refused("NOT_YOURS"):
        third.open_round(r, 60)


def test_without_a_proved_key_nothing_is_opened_fetched_or_closed(network) -> None:
    r = network.new_round()
    with pinned_channel(network.peer.endpoint, network.peer.fingerprint) as channel:
        stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        for call in (
            lambda: stub.OpenRound(aggregation_pb2.OpenRoundRequest(job_id=r.job_id), timeout=5),
            lambda: stub.CloseRound(aggregation_pb2.CloseRoundRequest(job_id=r.job_id), timeout=5),
            lambda: list(channel.unary_stream(FETCH_SUM)(b"", timeout=5)),
            lambda: list(channel.unary_stream(FETCH_CHUNK)(b"", timeout=5)),
        ):
            with pytest.raises(NotAuthenticated), rpc_errors():
                call()


def test_an_aggregator_may_serve_named_builders_only(start) -> None:
    network = start(allowed_builders=frozenset({Account.create().address}))
    with network.as_builder() as builder, refused("POLICY_REFUSED"):
        builder.open_round(network.new_round(), 60)


# -- what may be sent -------------------------------------------------------------------------------------------


def test_the_same_upload_again_is_welcome(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        assert [network.send(r, 3), network.send(r, 3), network.send(r, 5), network.send(r, 8)] == [
            1,
            1,
            2,
            3,
        ]
        assert network.send(r, 3) == 3
        with builder.fetch_sum(r, 10) as fetched:
            np.testing.assert_array_equal(network.opened(fetched), network.total())


def test_another_upload_of_the_same_attempt_is_refused(network) -> None:
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        network.send(r, 3)
        with refused("UPLOAD_CHANGED"):
            network.send(r, 3, upload=network.uploads[5])
        network.send(r, 5)
        network.send(r, 8)
        with refused("UPLOAD_CHANGED"):
            network.send(r, 3, upload=network.uploads[5])
        with builder.fetch_sum(r, 10) as fetched:
            np.testing.assert_array_equal(network.opened(fetched), network.total())


def with_bad_coefficient(upload: bytes) -> bytes:
    planes = bytearray(upload)
    for start, size in ((0, 4), (8192 * 4, 2), (8192 * 6, 1)):
        planes[HEADER_BYTES + start : HEADER_BYTES + start + size] = b"\xff" * size
    return bytes(planes)


def test_a_signed_upload_that_cannot_be_added_ends_the_wait_and_names_its_dataset(network) -> None:
    r, spoilt = network.new_round(), with_bad_coefficient(network.uploads[3])
    with network.as_builder() as builder, ThreadPoolExecutor(1) as background:
        builder.open_round(r, 60)
        waiting = background.submit(builder.fetch_sum, r, 30)
        with refused("UPLOAD_INVALID"):
            network.send(r, 3, upload=spoilt)
        with refused("UPLOAD_INVALID") as expectation:
            waiting.result(10)
        assert expectation.info.value.details["dataset_id"] == "3"
        with refused("UPLOAD_INVALID"):
            network.send(r, 5)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda leaves, chunks: [leaves[:-32], *chunks], "UPLOAD_INVALID"),
        (lambda leaves, chunks: [leaves + bytes(32), *chunks], "TOO_LARGE"),
        (lambda leaves, chunks: [leaves[:-1], *chunks], "UPLOAD_INVALID"),
        (lambda leaves, chunks: [leaves[32:] + leaves[:32], *chunks], "UPLOAD_INVALID"),
        (lambda leaves, chunks: [b"", *chunks], "UPLOAD_INVALID"),
        (lambda leaves, chunks: [], "MALFORMED"),
        (lambda leaves, chunks: [leaves], "MALFORMED"),
        (lambda leaves, chunks: [leaves, *chunks[:-1]], "MALFORMED"),
        (lambda leaves, chunks: [leaves, *chunks, b"more"], "TOO_LARGE"),
        (lambda leaves, chunks: [leaves, chunks[0][:-1], *chunks[1:]], "UPLOAD_INVALID"),
        (lambda leaves, chunks: [leaves, chunks[0] + b"x", *chunks[1:]], "TOO_LARGE"),
        (lambda leaves, chunks: [leaves, chunks[1], chunks[0], chunks[2]], "UPLOAD_INVALID"),
    ],
    ids=[
        "a leaf less", "a leaf more", "half a leaf", "leaves out of order", "no leaves", "nothing", "no chunk",
        "a chunk less", "bytes more", "short chunk", "long chunk", "chunks out of order",
    ],
)  # fmt: skip
def test_what_is_not_the_signed_upload_is_refused_and_the_right_one_still_counts(
    network, spoil, reason: str
) -> None:
    r, upload = network.new_round(), network.uploads[3]
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        with refused(reason):
            raw_send(network, signed(network, r, 3, upload), *spoil(leaves_of(upload), chunks_of(upload)))
        for d in network.operators:
            network.send(r, d)
        with builder.fetch_sum(r, 10) as fetched:
            np.testing.assert_array_equal(network.opened(fetched), network.total())


def test_an_upload_that_broke_off_goes_on_from_where_it_was(network) -> None:
    """What arrived of it is in the sum already when it is sent again from its start."""
    r, upload = network.new_round(), network.uploads[3]
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        with refused("MALFORMED"):
            raw_send(network, signed(network, r, 3, upload), leaves_of(upload), *chunks_of(upload)[:2])
        assert network.send(r, 5) == 1
        assert network.send(r, 8) == 2
        with refused("UPLOAD_CHANGED"):
            network.send(r, 3, upload=network.uploads[5])
        assert network.send(r, 3) == 3
        with builder.fetch_sum(r, 10) as fetched:
            np.testing.assert_array_equal(network.opened(fetched), network.total())


def test_a_range_of_the_sum_is_handed_on_as_soon_as_it_is_added(network) -> None:
    """The builder has chunk 0 while every upload is still under way: nobody waits for a whole one."""
    r, go_on = network.new_round(), threading.Event()

    def slowly(d: int):
        upload = network.uploads[d]
        yield signed(network, r, d, upload).SerializeToString()
        yield leaves_of(upload)
        first, *others = chunks_of(upload)
        yield first
        assert go_on.wait(20)
        yield from others

    def upload(d: int) -> bytes:
        with pinned_channel(network.peer.endpoint, network.peer.fingerprint) as channel, rpc_errors():
            return channel.stream_unary(UPLOAD)(slowly(d), timeout=30)

    request = aggregation_pb2.FetchSumRequest(job_id=r.job_id, attempt=r.attempt).SerializeToString()
    with network.as_builder() as builder, ThreadPoolExecutor(3) as background:
        builder.open_round(r, 60)
        sending = [background.submit(upload, d) for d in network.operators]
        messages = iter(builder._fetch_sum(request, timeout=30))
        header = aggregation_pb2.SumHeader.FromString(next(messages))
        assert [u.dataset_id for u in header.uploads] == [3, 5, 8]
        first = next(messages)
        assert not any(sent.done() for sent in sending)
        go_on.set()
        others = list(messages)
        assert [sent.exception(20) for sent in sending] == [None] * 3
        with builder.fetch_sum(r, 10) as fetched:
            assert list(fetched.chunks()) == [first, *others[:-1]]
            trailer = aggregation_pb2.SumTrailer.FromString(others[-1])
            assert trailer.sum_root == fetched.commitment.root
