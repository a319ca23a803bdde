"""One leg from proposal to receipt, through a real server, trainer, aggregator and chain."""

from __future__ import annotations

import secrets

import numpy as np
from holder_world import Builder, World, registered, round_parts, to_sum

from usufruct.chain import LegState as ChainLegState
from usufruct.domain.usage_record import UsageKind, leaf, merkle_root
from usufruct.encryption.linear_check import Challenge, check_sum
from usufruct.v1 import jobs_pb2, rounds_pb2
from usufruct.wire.aggregation import BuilderAggregation
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.signatures import verify_check
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.job_store import LegStatus
from usufruct_server.holder.server import HolderServer


def test_a_leg_runs_is_logged_and_delivered_at_its_whole_reservation(
    world: World, served: HolderServer, peer: PinnedEndpoint, aggregator: PinnedEndpoint, builder: Builder
) -> None:
    dataset_id = registered(served.config)
    before = served.ledger.budget(dataset_id)
    spec = builder.started(peer, dataset_id, aggregator=aggregator)
    leg = builder.start(peer, spec.job_id, dataset_id).leg
    assert (leg.state, leg.attempts_reserved) == (jobs_pb2.LEG_STATE_RUNNING, 3)

    parts = round_parts(builder.account, spec, dataset_id)
    talk = builder.run_round(peer, parts)
    submission = parts.submit(talk.ready())
    summed = to_sum(spec, submission.view)
    with BuilderAggregation(aggregator, builder.account) as aggregation:
        aggregation.open_round(summed, 60)
        talk.say(submission.step)
        submitted = talk.until(rounds_pb2.ROUND_STATE_SUBMITTED)
        assert submitted.attempts_charged == 1
        with aggregation.fetch_sum(summed, 30) as fetched:
            assert fetched.upload_roots[dataset_id] == submitted.upload_root
            seed = secrets.token_bytes(32)
            challenge = Challenge(seed, submission.view.hash, fetched.commitment.root)
            check = rounds_pb2.Check(seed=seed, sum_root=challenge.sum_root, uploads=fetched.uploads)
            talk.say(rounds_pb2.RoundStep(check=check))
            answer = talk.until(rounds_pb2.ROUND_STATE_CHECKED)
            values = tuple(answer.check_values)
            verify_check(
                view_hash=submission.view.hash, sum_root=challenge.sum_root, seed=seed, dataset_id=dataset_id,
                values=values, signature=answer.check_signature, operator=served.operator,
            )  # fmt: skip
            checked = check_sum(challenge, fetched.commitment, fetched.chunks(), lambda: {dataset_id: values})
            update = np.concatenate(list(parts.key.open_sum(checked, fetched.chunks())))
            assert len(np.unique(update)) > 1, "an update carries noise"
        aggregation.close_round(summed)

    signed = builder.finish(peer, spec.job_id, dataset_id, 1)
    reservation = spec.reservation_micro(dataset_id)
    assert signed.receipt.loss_micro == reservation
    assert builder.finish(peer, spec.job_id, dataset_id, 1).receipt == signed.receipt
    after = served.ledger.budget(dataset_id)
    assert (after.spent_micro - before.spent_micro, after.reserved_micro) == (
        reservation,
        before.reserved_micro,
    )
    builder.deliver(spec.job_id, dataset_id, signed)
    assert builder.leg(spec.job_id, dataset_id).state is ChainLegState.ACKNOWLEDGED
    served.following.follow()
    stored = served.store.leg(spec.job_id, dataset_id)
    assert stored is not None and stored.state is LegStatus.ENDED

    served.publisher.publish()
    records = served.ledger.usage_records(0, 1000)
    mine = [r for r in map(record_from_bytes, records) if r.job_id == spec.job_id]
    assert [r.kind for r in mine] == [
        UsageKind.GRANTED,
        UsageKind.CHARGED,
        UsageKind.SUBMITTED,
        UsageKind.CHECKED,
        UsageKind.DELIVERED,
    ]
    holder_id = world.chain.dataset(dataset_id).holder_id
    for batch in served.ledger.usage_batches():
        covered = records[batch.first_seq : batch.first_seq + batch.count]
        assert batch.root == merkle_root([leaf(batch.first_seq + i, r) for i, r in enumerate(covered)])
        assert batch.root == world.chain.usage_root(holder_id, batch.first_seq)
