"""One leg from proposal to receipt, through a real server, trainer, aggregator and chain."""

from __future__ import annotations

import numpy as np
from holder_world import WIDTH, Builder, World, registered, round_parts

from usufruct.chain import LegState as ChainLegState
from usufruct.domain.usage_record import UsageKind, leaf, merkle_root
from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.v1 import jobs_pb2, rounds_pb2
from usufruct.wire.aggregation import BuilderAggregation, RoundToSum
from usufruct.wire.channel import PinnedEndpoint
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
    operator = served.operator
    to_sum = RoundToSum(
        spec.job_id, 1, 1, parts.view.hash, {dataset_id: operator}, WIDTH + 1, DEFAULT_PARAMETERS
    )
    with BuilderAggregation(aggregator, builder.account) as aggregation:
        aggregation.open_round(to_sum, 60)
        events = list(builder.run_round(peer, parts.header, parts.key.public_key_bytes, parts.weights))
        assert [e.state for e in events] == [
            rounds_pb2.ROUND_STATE_CHARGED, rounds_pb2.ROUND_STATE_ENCRYPTED, rounds_pb2.ROUND_STATE_SUBMITTED,
        ]  # fmt: skip
        again = list(builder.run_round(peer, parts.header, parts.key.public_key_bytes, parts.weights))
        assert again[-1].upload_digest == events[-1].upload_digest
        assert again[-1].attempts_charged == 1
        fetched = aggregation.fetch_sum(to_sum, 30)
        assert fetched.upload_digests[dataset_id] == events[-1].upload_digest
        update = parts.key.decrypt(fetched.sum_bytes, WIDTH + 1, 1)
        assert len(np.unique(update)) > 1, "an update carries noise"

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
        UsageKind.DELIVERED,
    ]
    holder_id = world.chain.dataset(dataset_id).holder_id
    for batch in served.ledger.usage_batches():
        covered = records[batch.first_seq : batch.first_seq + batch.count]
        assert batch.root == merkle_root([leaf(batch.first_seq + i, r) for i, r in enumerate(covered)])
        assert batch.root == world.chain.usage_root(holder_id, batch.first_seq)
