"""Holders and aggregators that lie: whatever does not fit is found before anything is decrypted, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from round_world import RoundWorld, close_to

from usufruct.encryption.commitment import Commitment, leaf_of
from usufruct.encryption.parameters import HEADER_BYTES
from usufruct.encryption.sum import add_chunk
from usufruct.errors import UsufructError
from usufruct.v1 import aggregation_pb2, rounds_pb2
from usufruct.wire.aggregation import RoundToSum
from usufruct.wire.signatures import sign_check, sign_ready
from usufruct_server.aggregator.service import AggregationService

CHARGED, READY = rounds_pb2.ROUND_STATE_CHARGED, rounds_pb2.ROUND_STATE_READY
ENCRYPTED, CHECKED = rounds_pb2.ROUND_STATE_ENCRYPTED, rounds_pb2.ROUND_STATE_CHECKED
LIAR = 5


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RoundWorld]:
    running = RoundWorld(tmp_path)
    yield running
    running.stop()


def at(
    state: int, change: Callable[[rounds_pb2.RoundEvent], object]
) -> Callable[[rounds_pb2.RoundEvent], None]:
    """Changes the event of one state."""

    def says(event: rounds_pb2.RoundEvent) -> None:
        if event.state == state:
            change(event)

    return says


def setting(**fields: Any) -> Callable[[rounds_pb2.RoundEvent], None]:
    """Replaces fields."""

    def change(event: rounds_pb2.RoundEvent) -> None:
        for name, value in fields.items():
            setattr(event, name, value)

    return change


# -- a holder that lies before the roster is fixed --------------------------------------------------------------------


def mask_key_of_another(world: RoundWorld, event: rounds_pb2.RoundEvent) -> None:
    """Signs the key of dataset 3 as its own; it must have been ready before."""
    kept = list(world.holders[3]._kept.values())[-1]
    event.mask_key = kept.mask.public_bytes
    event.ready_signature = sign_ready(world.holders[LIAR].operator, event.offer_hash, LIAR, event.mask_key)


def signed_for_another_dataset(world: RoundWorld, event: rounds_pb2.RoundEvent) -> None:
    event.ready_signature = sign_ready(world.holders[LIAR].operator, event.offer_hash, 8, event.mask_key)


def signed_by_another(world: RoundWorld, event: rounds_pb2.RoundEvent) -> None:
    event.ready_signature = sign_ready(Account.create(), event.offer_hash, LIAR, event.mask_key)


def signed_for_another_offer(world: RoundWorld, event: rounds_pb2.RoundEvent) -> None:
    event.ready_signature = sign_ready(world.holders[LIAR].operator, bytes(32), LIAR, event.mask_key)


@pytest.mark.parametrize(
    ("state", "lie", "reason"),
    [
        (CHARGED, lambda world, event: setting(offer_hash=bytes(32))(event), "ROSTER_MISMATCH"),
        (CHARGED, lambda world, event: setting(state=READY)(event), "MALFORMED"),
        (READY, lambda world, event: setting(offer_hash=bytes(32))(event), "ROSTER_MISMATCH"),
        (READY, lambda world, event: setting(state=ENCRYPTED)(event), "MALFORMED"),
        (READY, lambda world, event: setting(mask_key=b"1" * 32)(event), "BAD_SIGNATURE"),
        (READY, lambda world, event: setting(mask_key=b"1")(event), "MALFORMED"),
        (READY, mask_key_of_another, "ROSTER_MISMATCH"),
        (READY, signed_for_another_dataset, "BAD_SIGNATURE"),
        (READY, signed_by_another, "BAD_SIGNATURE"),
        (READY, signed_for_another_offer, "BAD_SIGNATURE"),
    ],
)
def test_a_holder_whose_readiness_does_not_fit_is_left_out_or_named(
    world: RoundWorld, state: int, lie: Callable[[RoundWorld, rounds_pb2.RoundEvent], None], reason: str
) -> None:
    liar = world.holders[LIAR]
    liar.trained.clear()

    def others_first(dataset_id: int, event: rounds_pb2.RoundEvent) -> None:
        if dataset_id == 3 and event.state == READY:
            liar.trained.set()

    liar.says = at(state, lambda event: lie(world, event))
    attempt = world.prepare()
    with pytest.raises(UsufructError) as caught:
        world.driver().run(attempt, others_first)
    assert (caught.value.reason, caught.value.details["dataset_id"]) == (reason, LIAR)
    assert not any(holder.views for holder in world.holders.values()), "nobody was told a roster"
    assert not attempt.key.used
    liar.trained.clear()
    world.let(min_cohort=2)
    opened = world.driver().run(world.prepare(2), others_first)
    assert opened.roster == (3, 8)
    assert close_to(opened.update, world.average(3, 8), 2, 0.7)


# -- a holder that lies about its update ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "lie", "reason"),
    [
        (ENCRYPTED, setting(view_hash=bytes(32)), "ROUND_VIEW_CHANGED"),
        (ENCRYPTED, setting(upload_root=bytes(32)), "SUM_INVALID"),
        (ENCRYPTED, setting(upload_bytes=1), "SUM_INVALID"),
        (ENCRYPTED, setting(state=CHECKED), "MALFORMED"),
        (CHECKED, setting(view_hash=bytes(32)), "ROUND_VIEW_CHANGED"),
        (CHECKED, setting(check_signature=bytes(65)), "BAD_SIGNATURE"),
        (CHECKED, lambda event: event.check_values.pop(), "BAD_SIGNATURE"),
    ],
)
def test_a_holder_that_says_another_thing_than_it_sent_is_named(
    world: RoundWorld, state: int, lie: Callable[[rounds_pb2.RoundEvent], object], reason: str
) -> None:
    world.holders[LIAR].says = at(state, lie)
    attempt, error = world.failure()
    assert (error.reason, error.details["dataset_id"]) == (reason, LIAR)
    assert not attempt.key.used


def test_a_wrong_answer_that_is_signed_opens_nothing(world: RoundWorld) -> None:
    liar = world.holders[LIAR]

    def lie(event: rounds_pb2.RoundEvent) -> None:
        event.check_values[0] ^= 1
        challenge = liar.challenges[-1]
        event.check_signature = sign_check(
            liar.operator, view_hash=challenge.view_hash, sum_root=challenge.sum_root, seed=challenge.seed,
            dataset_id=LIAR, values=event.check_values,
        )  # fmt: skip

    liar.says = at(CHECKED, lie)
    attempt, error = world.failure()
    assert error.reason == "SUM_INVALID"
    assert "nothing was decrypted" in error.message
    assert not attempt.key.used


def test_a_holder_that_signs_an_update_that_cannot_be_added_is_named(world: RoundWorld) -> None:
    def too_large(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[:HEADER_BYTES] + b"\xff" * (len(data) - HEADER_BYTES))

    world.holders[LIAR].sends = too_large
    attempt, error = world.failure()
    assert (error.reason, int(error.details["dataset_id"])) == ("UPLOAD_INVALID", LIAR)
    assert not attempt.key.used


def test_an_update_signed_with_another_key_is_not_in_any_sum(world: RoundWorld) -> None:
    world.holders[LIAR].signer = Account.create()
    attempt, error = world.failure()
    assert error.reason == "BAD_SIGNATURE"
    assert not attempt.key.used


# -- an aggregator that lies ------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What an aggregator tells of one sum, and what it has to make up another from.

    Attributes:
        uploads: by dataset, the chunks of its upload.
        before: what it told of an earlier attempt.
    """

    header: aggregation_pb2.SumHeader
    chunks: list[bytes]
    to_sum: RoundToSum
    uploads: dict[int, list[bytes]] = field(default_factory=dict)
    before: Told | None = None

    def add(self, *datasets: int) -> None:
        """The sum of these instead."""
        picked = [self.uploads[number] for number in datasets]
        self.chunks = [
            bytes(add_chunk(self.to_sum.uploads, index, list(column)))
            for index, column in enumerate(zip(*picked, strict=True))
        ]


def one_bit(told: Told) -> None:
    told.chunks[0] = told.chunks[0][:-2] + bytes([told.chunks[0][-2] ^ 1]) + told.chunks[0][-1:]


def chosen_by_the_aggregator(told: Told) -> None:
    told.chunks = [bytes(len(chunk)) for chunk in told.chunks]


def leaves_one_out(told: Told) -> None:
    told.add(3, 8)


def doubles_one(told: Told) -> None:
    told.add(3, 3, 8)


def another_attempts_sum(told: Told) -> None:
    assert told.before is not None
    told.chunks = told.before.chunks


def another_attempt_as_a_whole(told: Told) -> None:
    assert told.before is not None
    told.chunks, told.header = told.before.chunks, told.before.header


def one_upload_of_another_attempt(told: Told) -> None:
    assert told.before is not None
    told.header.uploads[0].CopyFrom(told.before.header.uploads[0])


def shorter(told: Told) -> None:
    told.chunks[-1] = told.chunks[-1][:-1]


def header_without_one(told: Told) -> None:
    del told.header.uploads[0]


def header_with_one_twice(told: Told) -> None:
    told.header.uploads[0].CopyFrom(told.header.uploads[1])


def another_signature(told: Told) -> None:
    told.header.uploads[0].signature = told.header.uploads[1].signature


def another_root(told: Told) -> None:
    told.header.uploads[0].upload_root = told.header.uploads[1].upload_root


def another_view(told: Told) -> None:
    told.header.uploads[0].view_hash = bytes(32)


def another_attempt(told: Told) -> None:
    told.header.uploads[0].attempt += 1


Lie = Callable[[Told], None]
SUMS: list[Lie] = [
    one_bit, chosen_by_the_aggregator, leaves_one_out, doubles_one, another_attempts_sum,
]  # fmt: skip
CLAIMS: list[Lie] = [
    another_attempt_as_a_whole, one_upload_of_another_attempt, shorter, header_without_one, header_with_one_twice,
    another_signature, another_root, another_view, another_attempt,
]  # fmt: skip


def lying(world: RoundWorld, monkeypatch: pytest.MonkeyPatch, lie: Lie, *, from_attempt: int) -> None:
    """Lets the aggregator lie about every sum from an attempt on, with a root that fits what it tells."""
    honest = AggregationService.fetch_sum
    earlier: list[Told] = []

    def fetch_sum(service: AggregationService, message: bytes, context: Any) -> Iterator[bytes]:
        first, *chunks, last = honest(service, message, context)
        driver, view = world.driver(), world.holders[3].views[-1]
        told = Told(aggregation_pb2.SumHeader.FromString(first), chunks, driver._to_sum(view))
        for number, holder in world.holders.items():
            data = holder.outbox[view.offer.attempt, view.hash]
            span = told.to_sum.uploads.span
            told.uploads[number] = [
                data[span(index).start : span(index).stop] for index in range(told.to_sum.uploads.chunks)
            ]
        told.before = earlier[-1] if earlier else None
        earlier.append(Told(aggregation_pb2.SumHeader.FromString(first), list(chunks), told.to_sum))
        if view.offer.attempt >= from_attempt:
            lie(told)
        yield told.header.SerializeToString()
        yield from told.chunks
        try:
            sums = told.to_sum.sums
            leaves = tuple(leaf_of(sums, index, chunk) for index, chunk in enumerate(told.chunks))
            last = aggregation_pb2.SumTrailer(sum_root=Commitment(sums, leaves).root).SerializeToString()
        except UsufructError:  # no sum has chunks like these
            pass
        yield last

    monkeypatch.setattr(AggregationService, "fetch_sum", fetch_sum)


@pytest.mark.parametrize("lie", [*SUMS, *CLAIMS])
def test_a_sum_that_is_not_the_rosters_is_never_decrypted(
    lie: Lie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = RoundWorld.__new__(RoundWorld)
    lying(world, monkeypatch, lie, from_attempt=2)
    world.__init__(tmp_path)  # type: ignore[misc]  # its aggregator serves what it finds when it starts
    try:
        world.run()
        attempt, error = world.failure(world.prepare(2))
        challenged = len(world.holders[3].challenges)
    finally:
        world.stop()
    if lie in SUMS:
        assert (error.reason, challenged) == ("SUM_INVALID", 2), "only the holders' check can find it"
    else:
        assert error.reason in ("SUM_INVALID", "ROSTER_MISMATCH", "BAD_SIGNATURE")
        assert challenged == 1, "it was found before the seed was revealed"
    assert "othing was decrypted" in error.message
    assert not attempt.key.used


def test_another_sum_of_the_same_attempt_is_not_even_put_to_the_holders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed is known by now: a sum made to fit it must not be judged by it."""
    lies: list[Lie] = [lambda told: None]
    world = RoundWorld.__new__(RoundWorld)
    lying(world, monkeypatch, lambda told: lies[-1](told), from_attempt=1)
    world.__init__(tmp_path)  # type: ignore[misc]
    try:
        attempt = world.prepare()
        world.holders[LIAR].says = at(CHECKED, setting(check_signature=bytes(65)))
        assert world.failure(attempt)[1].reason == "BAD_SIGNATURE"
        lies.append(leaves_one_out)
        _, error = world.failure(attempt)
        assert error.reason == "SUM_INVALID"
        assert "another sum" in error.message
        assert all(len(holder.challenges) == 1 for holder in world.holders.values())
        assert not attempt.key.used
    finally:
        world.stop()
