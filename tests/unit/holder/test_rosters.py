"""Rosters: a holder agrees on one per attempt, and only on one that it has checked itself; masks vanish over it."""

from __future__ import annotations

import secrets
from dataclasses import replace

import numpy as np
import pytest
from eth_account import Account
from holder_world import WIDTH, RoundParts, RoundTalk, member, to_sum
from neighbour import Neighbour, answer
from running_leg import Leg

from usufruct.domain.usage_record import UsageKind
from usufruct.encryption.linear_check import Challenge, check_sum
from usufruct.encryption.masks import MaskKey
from usufruct.errors import InvalidInput
from usufruct.v1 import rounds_pb2
from usufruct.wire.aggregation import BuilderAggregation
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.signatures import sign_ready
from usufruct_server.holder.training.block import SharedBlock


def test_two_holders_masks_vanish_and_the_check_opens_the_sum(
    shared: Leg, neighbour: Neighbour, aggregator: PinnedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    read = SharedBlock.values

    def watched(self: SharedBlock, start: int, stop: int) -> np.ndarray:
        drawn.append(read(self, start, stop))
        return drawn[-1]

    monkeypatch.setattr(SharedBlock, "values", watched)
    parts, mask = shared.parts(), MaskKey(shared.spec.job_id, neighbour.dataset_id)
    talk = shared.talk(parts)
    submission = parts.submit(talk.ready(), neighbour.member(parts, mask))
    summed, values = to_sum(shared.spec, submission.view), np.array([1, 2, 65535])
    path, commitment = neighbour.encrypt(parts, submission.view, mask, values)
    with BuilderAggregation(aggregator, shared.builder.account) as aggregation:
        aggregation.open_round(summed, 60)
        talk.say(submission.step)
        neighbour.send(aggregator, shared.spec, submission.view, path, commitment)
        with aggregation.fetch_sum(summed, 30) as fetched:
            talk.until(rounds_pb2.ROUND_STATE_SUBMITTED)
            challenge = Challenge(secrets.token_bytes(32), submission.view.hash, fetched.commitment.root)
            check = rounds_pb2.Check(
                seed=challenge.seed, sum_root=challenge.sum_root, uploads=fetched.uploads
            )
            talk.say(rounds_pb2.RoundStep(check=check))
            mine = talk.until(rounds_pb2.ROUND_STATE_CHECKED)
            answers = {
                shared.dataset_id: tuple(mine.check_values),
                neighbour.dataset_id: answer(challenge, path, commitment),
            }
            checked = check_sum(challenge, fetched.commitment, fetched.chunks(), lambda: answers)
            opened = np.concatenate(list(parts.key.open_sum(checked, fetched.chunks())))
    assert list(opened) == list(drawn[0] + values)
    stored = shared.served.ledger.upload(shared.dataset_id, shared.spec.job_id, 1, 1)
    assert stored is not None and len(drawn[0]) == WIDTH + 1
    (record,) = shared.records(UsageKind.CHECKED)
    assert (record.sum_digest, record.upload_digest) == (challenge.sum_root, stored.root)


def test_a_roster_that_does_not_hold_is_refused_and_the_attempt_is_not_lost(
    shared: Leg, neighbour: Neighbour
) -> None:
    parts, mask = shared.parts(), MaskKey(shared.spec.job_id, neighbour.dataset_id)
    first = shared.talk(parts)
    own, other = first.ready(), neighbour.member(parts, mask)
    first.hang_up()
    elsewhere = shared.parts()  # another offer of the same attempt: other holders might be shown it
    foreign = member(99, mask.public_bytes, other.ready_signature)
    low_order = sign_ready(neighbour.operator, parts.offer.hash, neighbour.dataset_id, bytes(32))
    strange = sign_ready(Account.create(), parts.offer.hash, neighbour.dataset_id, mask.public_bytes)
    my_key = MaskKey(shared.spec.job_id, shared.dataset_id).public_bytes
    stranger = Account.create()
    for reason, roster in (
        ("ROSTER_MISMATCH", ()),
        ("ROSTER_MISMATCH", (other,)),
        ("ROSTER_MISMATCH", (own, foreign)),
        ("ROSTER_MISMATCH", (member(shared.dataset_id, my_key, own.ready_signature), other)),
        ("BAD_SIGNATURE", (own, neighbour.member(elsewhere, mask))),
        ("BAD_SIGNATURE", (own, member(neighbour.dataset_id, mask.public_bytes, strange))),
        ("PUBLIC_KEY_INVALID", (own, member(neighbour.dataset_id, bytes(32), low_order))),
    ):
        assert refusal(shared, parts, raw(parts, *roster)) == reason, (reason, roster)
    for roster in ((own, own), (other, own), (own, *[other] * 300)):
        assert refusal(shared, parts, raw(parts, *roster)) == "ROSTER_MISMATCH"
    unsigned = parts.submit(own, other, signer=stranger)
    assert refusal(shared, parts, unsigned.step) == "BAD_SIGNATURE"
    assert refusal(shared, parts, parts.submit(own, other).step) == "ROUND_UNKNOWN", (
        "nobody opened it, and no more"
    )
    assert shared.charged == 1 and UsageKind.LOST not in shared.kinds()


def test_an_attempt_has_one_roster_for_good(shared: Leg, neighbour: Neighbour) -> None:
    """A second roster of one update would give two sums whose difference is one holder's."""
    parts, mask = shared.parts(), MaskKey(shared.spec.job_id, neighbour.dataset_id)
    talk = shared.talk(parts)
    own = talk.ready()
    talk.say(parts.submit(own).step)
    assert talk.error() == "ROUND_UNKNOWN"
    both = parts.submit(own, neighbour.member(parts, mask)).step
    one, two = shared.talk(parts), shared.talk(parts)
    assert one.ready() == two.ready() == own
    one.say(both)
    assert one.error() == "ROUND_VIEW_CHANGED"
    two.say(parts.submit(own).step)
    assert two.error() == "ROUND_UNKNOWN", "the first one still holds, also for whoever listens already"


def test_of_two_streams_with_two_rosters_one_is_refused(
    shared: Leg, neighbour: Neighbour, aggregator: PinnedEndpoint
) -> None:
    parts, mask = shared.parts(), MaskKey(shared.spec.job_id, neighbour.dataset_id)
    one, two = shared.talk(parts), shared.talk(parts)
    own = one.ready()
    assert own == two.ready(), "one mask key and one signature for an attempt"
    first, second = parts.submit(own), parts.submit(own, neighbour.member(parts, mask))
    with BuilderAggregation(aggregator, shared.builder.account) as aggregation:
        aggregation.open_round(to_sum(shared.spec, first.view), 60)
        one.say(first.step)
        one.until(rounds_pb2.ROUND_STATE_SUBMITTED)
    two.say(second.step)
    assert two.error() == "ROUND_VIEW_CHANGED"
    one.hang_up()


@pytest.mark.parametrize("named", [True, False])
def test_a_roster_below_the_minimum_cohort_is_refused_and_only_named_holders_count(
    shared: Leg, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    parts, mask = shared.parts(), MaskKey(shared.spec.job_id, neighbour.dataset_id)
    alone, together = shared.talk(parts), shared.talk(parts)
    own = alone.ready()
    together.ready()
    served = shared.served.catalogue.find(shared.dataset_id)
    assert served is not None
    other = shared.spec.leg(neighbour.dataset_id).holder_id
    policy = replace(shared.served.config.policy, co_holders=(other,) if named else (other + 1,))
    monkeypatch.setattr(shared.served.rounds._submission, "_policy", policy)
    # the holder's own minimum is raised once the attempt is ready
    object.__setattr__(served.config, "min_cohort", 2)
    try:
        alone.say(parts.submit(own).step)
        assert alone.error() == "COHORT_TOO_SMALL"
        together.say(parts.submit(own, neighbour.member(parts, mask)).step)
        # two are enough, if both are known; then only the aggregator is not ready
        assert together.error() == ("ROUND_UNKNOWN" if named else "COHORT_TOO_SMALL")
    finally:
        object.__setattr__(served.config, "min_cohort", 1)


def raw(parts: RoundParts, *roster: rounds_pb2.RosterMember) -> rounds_pb2.RoundStep:
    """A roster that need not be one, under a signature that need not fit."""
    try:
        return parts.submit(*roster).step
    except InvalidInput:
        return rounds_pb2.RoundStep(submit=rounds_pb2.Submit(roster=roster, view_signature=bytes(65)))


def refusal(leg: Leg, parts: RoundParts, step: rounds_pb2.RoundStep) -> str:
    """How the attempt ends on a stream of its own when this is said after READY."""
    talk: RoundTalk = leg.talk(parts)
    talk.ready()
    talk.say(step)
    return talk.error()
