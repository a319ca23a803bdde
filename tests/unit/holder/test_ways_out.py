"""What a leg spends when it ends early: exactly what was charged if both sides agree, and all of it otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from holder_world import Builder, Place, round_parts

from usufruct.chain import CallState
from usufruct.chain import LegState as ChainLegState
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import UsufructError
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.job_store import LegStatus
from usufruct_server.holder.ledger import LegState


def _reason(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UsufructError) as caught:
        call(*arguments, **named)
    return caught.value.reason


def _charge_once(place: Place, builder: Builder, spec: TrainingJobSpec) -> int:
    """One attempt that is charged and encrypted, and finds no aggregator; its loss in 10^-6 nat."""
    parts = round_parts(builder.account, spec, place.dataset_id)
    assert builder.run_alone(place.peer, parts) == "PEER_UNREACHABLE"
    return spec.leg(place.dataset_id).loss_per_attempt_micro


def _spent(place: Place, builder: Builder, spec: TrainingJobSpec) -> tuple[int, int]:
    """By the leg: in the ledger, once it has followed the chain, and on chain."""
    place.server.following.follow()
    leg = builder.leg(spec.job_id, place.dataset_id)
    return place.server.ledger.committed_micro(place.dataset_id, spec.job_id), leg.loss_micro


def test_exactly_what_was_charged_is_spent_if_the_builder_signs_for_it(
    quiet: Place, customer: Builder
) -> None:
    dataset_id = quiet.dataset_id
    spec = customer.started(quiet.peer, dataset_id)
    before, loss = quiet.budgets(), _charge_once(quiet, customer, spec)
    lower = customer.lower(spec.job_id, dataset_id, loss)
    signed = customer.finish(quiet.peer, spec.job_id, dataset_id, 1, loss, lower)
    assert (signed.receipt.loss_micro, signed.receipt.attempts_charged) == (loss, 1)
    again = customer.finish(quiet.peer, spec.job_id, dataset_id, 1)
    assert again.receipt == signed.receipt, "what was agreed on stays agreed on"
    book = quiet.server.ledger.leg(dataset_id, spec.job_id)
    assert book.state is LegState.RESERVED, "the leg may still expire, at its whole reservation"
    customer.deliver(spec.job_id, dataset_id, signed, lower)
    assert _spent(quiet, customer, spec) == (loss, loss)
    reservation, after = spec.reservation_micro(dataset_id), quiet.budgets()
    changes = [now - then for now, then in zip(after, before, strict=True)]
    assert changes == [-reservation, loss, -reservation, loss], "what is left is free in both books"


@pytest.mark.parametrize("wrong", ["more", "less", "another leg", "another key", "garbage"])
def test_any_other_consent_spends_the_whole_reservation(quiet: Place, customer: Builder, wrong: str) -> None:
    dataset_id = quiet.dataset_id
    spec = customer.started(quiet.peer, dataset_id)
    loss = _charge_once(quiet, customer, spec)
    offered = loss + {"more": 1, "less": -1}.get(wrong, 0)
    lower = customer.lower(spec.job_id, dataset_id, offered)
    if wrong == "another leg":
        lower = customer.lower(spec.job_id, dataset_id + 1, offered)
    elif wrong == "another key":
        lower = Builder(quiet.world).lower(spec.job_id, dataset_id, offered)
    elif wrong == "garbage":
        lower = b"\xff" * 65
    signed = customer.finish(quiet.peer, spec.job_id, dataset_id, 1, offered, lower)
    whole = spec.reservation_micro(dataset_id)
    assert signed.receipt.loss_micro == whole
    customer.deliver(spec.job_id, dataset_id, signed)
    assert _spent(quiet, customer, spec) == (whole, whole)


def test_a_lower_loss_that_was_agreed_on_is_what_the_holder_delivers_itself(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = quiet.dataset_id
    spec = customer.started(quiet.peer, dataset_id)
    loss = _charge_once(quiet, customer, spec)
    customer.finish(
        quiet.peer, spec.job_id, dataset_id, 1, loss, customer.lower(spec.job_id, dataset_id, loss)
    )
    monkeypatch.setattr(quiet.server.following, "_clock", lambda: spec.deliver_by_seconds - 60)
    quiet.server.following.follow()
    assert customer.leg(spec.job_id, dataset_id).state is ChainLegState.DELIVERED
    assert _spent(quiet, customer, spec) == (loss, loss)


def test_a_leg_of_which_nothing_was_charged_is_given_up_and_free_again_in_both_books(
    quiet: Place, customer: Builder
) -> None:
    dataset_id = quiet.dataset_id
    before = quiet.budgets()
    spec = customer.started(quiet.peer, dataset_id)
    given_up = customer.release(quiet.peer, spec.job_id, dataset_id)
    assert customer.release(quiet.peer, spec.job_id, dataset_id) == given_up
    parts = round_parts(customer.account, spec, dataset_id)
    assert customer.run_alone(quiet.peer, parts) == "LEG_NOT_OPEN", (
        "nothing is trained on a leg that may end unpaid"
    )
    assert _reason(customer.start, quiet.peer, spec.job_id, dataset_id) == "LEG_NOT_OPEN"
    assert _reason(customer.finish, quiet.peer, spec.job_id, dataset_id, 0) == "LEG_NOT_OPEN"
    quiet.server.following.follow()
    assert quiet.server.ledger.leg(dataset_id, spec.job_id).state is LegState.RESERVED, "not before the chain"
    customer.sender.fail(
        customer.leg(spec.job_id, dataset_id), 0, given_up.fencing_epoch, given_up.failure_signature,
        customer.lower(spec.job_id, dataset_id, 0),
    )  # fmt: skip
    quiet.server.following.follow()
    assert quiet.status(spec) is LegStatus.RELEASED
    assert quiet.budgets() == before


def test_a_leg_that_was_charged_is_not_given_up(quiet: Place, customer: Builder) -> None:
    dataset_id = quiet.dataset_id
    spec = customer.started(quiet.peer, dataset_id)
    _charge_once(quiet, customer, spec)
    assert _reason(customer.release, quiet.peer, spec.job_id, dataset_id) == "ATTEMPT_ALREADY_CHARGED"
    assert quiet.status(spec) is LegStatus.RUNNING


def test_a_leg_that_was_given_up_and_left_lying_is_paid_for_and_commits_only_what_the_chain_spends(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id, following = quiet.dataset_id, quiet.server.following
    lying, ended = (customer.started(quiet.peer, dataset_id) for _ in range(2))
    statements = {s.job_id: customer.release(quiet.peer, s.job_id, dataset_id) for s in (lying, ended)}
    monkeypatch.setattr(following, "_clock", lambda: ended.deliver_by_seconds - 60)
    deliver = following._sender.deliver

    def overtaken(leg: Any, *rest: Any) -> Any:
        if leg.job_id == ended.job_id:  # its builder ends it just before the holder's delivery arrives
            given_up = statements[ended.job_id]
            customer.sender.fail(
                leg, 0, given_up.fencing_epoch, given_up.failure_signature, customer.lower(ended.job_id, dataset_id, 0)
            )  # fmt: skip
        return deliver(leg, *rest)

    monkeypatch.setattr(following._sender, "deliver", overtaken)
    following.follow()
    following.follow()
    whole = lying.reservation_micro(dataset_id)
    assert quiet.status(lying) is LegStatus.DELIVERED
    assert _spent(quiet, customer, lying) == (whole, whole)
    assert quiet.status(ended) is LegStatus.RELEASED
    assert quiet.server.ledger.leg(dataset_id, ended.job_id).state is LegState.RELEASED


def test_a_record_that_an_auditor_calls_for_is_shown_on_chain(quiet: Place, customer: Builder) -> None:
    spec = customer.started(quiet.peer, quiet.dataset_id)
    customer.finish(quiet.peer, spec.job_id, quiet.dataset_id, 0)
    server, chain = quiet.server, quiet.world.chain
    server.publisher.publish()
    holder_id = customer.leg(spec.job_id, quiet.dataset_id).holder_id
    sequence = server.usage.last_sequence(quiet.dataset_id, spec.job_id)
    assert sequence is not None
    customer.sender.call_record(holder_id, sequence)
    assert chain.record_call(holder_id, sequence).state is CallState.OPEN
    server.record_calls.answer()
    assert chain.record_call(holder_id, sequence).state is CallState.ANSWERED
    (shown,) = chain.find_events(
        "UsageLog", "RecordShown", holder_id.to_bytes(32, "big"), sequence.to_bytes(32, "big")
    )
    assert record_from_bytes(shown.record).kind is UsageKind.DELIVERED  # type: ignore[attr-defined]
    server.record_calls.answer()  # again: nothing is sent twice
