"""What an attempt has signed or revealed once stays as it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from eth_account import Account

from usufruct.builder.attempt import Attempt
from usufruct.builder.round_stream import Steps
from usufruct.domain.round_view import RoundOffer
from usufruct.encryption import BoundedValues, plan
from usufruct.encryption.keys import RoundKey
from usufruct.errors import InvalidInput, RoundFailed
from usufruct.v1 import rounds_pb2
from usufruct.wire.signatures import sign_ready, verify_offer, verify_ready, verify_view

OPERATORS = {number: Account.create() for number in (3, 5, 8)}
BUILDER = Account.create()
KEY = RoundKey.generate(plan(BoundedValues(8), 2))


@pytest.fixture
def attempt() -> Attempt:
    offer = RoundOffer(b"j" * 32, b"s" * 32, 1, 2, b"k" * 32, b"w" * 32)
    return Attempt(offer, KEY, b"weights", BUILDER)


def make_ready(attempt: Attempt, dataset_id: int, mask_key: bytes = b"") -> None:
    mask_key = mask_key or bytes([dataset_id]) * 32
    signature = sign_ready(OPERATORS[dataset_id], attempt.offer.hash, dataset_id, mask_key)
    event = rounds_pb2.RoundEvent(mask_key=mask_key, ready_signature=signature)
    attempt.note_ready(dataset_id, OPERATORS[dataset_id].address, event)


def test_every_holder_is_offered_the_same_and_can_check_who_offers(attempt: Attempt) -> None:
    first, second = attempt.header(3), attempt.header(5)
    verify_offer(attempt.offer.hash, first.offer_signature, BUILDER.address)
    first.dataset_id = second.dataset_id
    assert first == second


def test_the_roster_is_sent_with_what_each_holder_needs_to_check_it(attempt: Attempt) -> None:
    for number in (8, 3, 5):
        make_ready(attempt, number)
    view = attempt.fix_view((8, 3))
    submit = attempt.submit().submit
    assert [member.dataset_id for member in submit.roster] == [3, 8]
    for member in submit.roster:
        operator = OPERATORS[member.dataset_id].address
        verify_ready(attempt.offer.hash, member.dataset_id, member.mask_key, member.ready_signature, operator)
    verify_view(view.hash, submit.view_signature, BUILDER.address)


def test_a_second_view_is_never_signed(attempt: Attempt) -> None:
    for number in (3, 5, 8):
        make_ready(attempt, number)
    view = attempt.fix_view((3, 5))
    assert attempt.fix_view((5, 3)) == view
    for other in ((3, 5, 8), (3,), (5, 8)):
        with pytest.raises(RoundFailed) as caught:
            attempt.fix_view(other)
        assert caught.value.reason == "ROUND_VIEW_CHANGED"
    assert attempt.view == view


@pytest.mark.parametrize("second", [(3, b"\x05" * 32), (5, b"\x03" * 32)])
def test_a_mask_key_is_one_holders_and_stays(attempt: Attempt, second: tuple[int, bytes]) -> None:
    make_ready(attempt, 3)
    make_ready(attempt, 3)
    with pytest.raises(RoundFailed) as caught:
        make_ready(attempt, *second)
    assert caught.value.reason == "ROSTER_MISMATCH"


def test_readiness_for_another_attempt_does_not_count(attempt: Attempt) -> None:
    signature = sign_ready(OPERATORS[3], b"o" * 32, 3, b"m" * 32)
    event = rounds_pb2.RoundEvent(mask_key=b"m" * 32, ready_signature=signature)
    with pytest.raises(InvalidInput) as caught:
        attempt.note_ready(3, OPERATORS[3].address, event)
    assert caught.value.reason == "BAD_SIGNATURE"


def fetched(root: bytes) -> Any:
    return SimpleNamespace(commitment=SimpleNamespace(root=root))


def test_an_attempt_has_one_challenge_about_one_sum(attempt: Attempt) -> None:
    make_ready(attempt, 3)
    attempt.fix_view((3,))
    first = attempt.challenge(fetched(b"r" * 32))
    assert attempt.challenge(fetched(b"r" * 32)) == first
    with pytest.raises(RoundFailed) as caught:
        attempt.challenge(fetched(b"R" * 32))
    assert caught.value.reason == "SUM_INVALID"


# -- what is said on a stream -----------------------------------------------------------------------------------------


class Call:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def test_steps_follow_the_opening_until_the_end() -> None:
    steps, step = Steps(), rounds_pb2.RoundStep(submit=rounds_pb2.Submit())
    messages = steps.after(iter([b"header", b"weights"]))
    steps.send(step)
    steps.end()
    steps.send(step)
    assert list(messages) == [b"header", b"weights", step.SerializeToString()]


def test_a_call_that_is_opened_again_takes_over() -> None:
    steps = Steps()
    refused = steps.after(iter([b"one"]))
    again = steps.after(iter([b"one"]))
    steps.end()
    assert (list(refused), list(again)) == ([b"one"], [b"one"])


def test_hanging_up_holds_for_calls_to_come() -> None:
    steps, before, after = Steps(), Call(), Call()
    steps.attach(before)
    steps.cancel()
    steps.attach(after)
    assert before.cancelled
    assert after.cancelled
    assert list(steps.after(iter([b"one"]))) == [b"one"]
