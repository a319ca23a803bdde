"""The public key of the next attempt, named with the challenge of this one: zeros are made for it, and for nothing else."""

from __future__ import annotations

import secrets
import time

import numpy as np
import pytest
from holder_world import Builder, RoundParts, registered, round_parts, to_sum

from usufruct.domain.training_job import TrainingJobSpec
from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.linear_check import Challenge, check_sum
from usufruct.encryption.zeros import ZeroPool
from usufruct.v1 import rounds_pb2
from usufruct.wire.aggregation import BuilderAggregation
from usufruct.wire.channel import PinnedEndpoint
from usufruct_server.holder.server import HolderServer


def test_zeros_are_made_ahead_for_the_key_that_was_named_and_every_sum_opens(
    served: HolderServer,
    peer: PinnedEndpoint,
    aggregator: PinnedEndpoint,
    builder: Builder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Attempt 1 names the key of attempt 2. Attempt 2 names another than attempt 3 has. Attempt 3 names what is no key."""
    dataset_id = registered(served.config)
    spec = builder.started(peer, dataset_id, aggregator=aggregator)
    builder.start(peer, spec.job_id, dataset_id)
    keys = [RoundKey.generate(DEFAULT_PARAMETERS) for _ in range(4)]
    named = [keys[1].public_key_bytes, keys[3].public_key_bytes, bytes(100)]
    with BuilderAggregation(aggregator, builder.account) as aggregation:
        for number in (1, 2, 3):
            parts = round_parts(
                builder.account, spec, dataset_id, min(number, 2), number, key=keys[number - 1]
            )
            _round(builder, peer, aggregation, spec, dataset_id, parts, named[number - 1])
            pool = served.rounds._pools._zeros[spec.job_id, dataset_id]
            if number < 3:
                _wait_until_one_is_made(pool)
                assert pool._ahead is not None and pool._ahead[0] == named[number - 1]
    assert pool._ahead is None and pool._make_here is None
    assert "zeros_not_ahead" in caplog.text

    builder.finish(peer, spec.job_id, dataset_id, 2)
    served.rounds._pools.begin_ahead(
        served.legs.granted(builder.account.address, spec.job_id, dataset_id), named[0]
    )
    assert (spec.job_id, dataset_id) not in served.rounds._pools._zeros, (
        "after a leg's end nothing is begun for it"
    )


def _round(
    builder: Builder, peer: PinnedEndpoint, aggregation: BuilderAggregation, spec: TrainingJobSpec, dataset_id: int,
    parts: RoundParts, next_public_key: bytes,
) -> None:  # fmt: skip
    talk = builder.run_round(peer, parts)
    submission = parts.submit(talk.ready())
    summed = to_sum(spec, submission.view)
    aggregation.open_round(summed, 60)
    talk.say(submission.step)
    talk.until(rounds_pb2.ROUND_STATE_SUBMITTED)
    with aggregation.fetch_sum(summed, 30) as fetched:
        challenge = Challenge(secrets.token_bytes(32), submission.view.hash, fetched.commitment.root)
        check = rounds_pb2.Check(
            seed=challenge.seed,
            sum_root=challenge.sum_root,
            uploads=fetched.uploads,
            next_public_key=next_public_key,
        )
        talk.say(rounds_pb2.RoundStep(check=check))
        values = tuple(talk.until(rounds_pb2.ROUND_STATE_CHECKED).check_values)
        checked = check_sum(challenge, fetched.commitment, fetched.chunks(), lambda: {dataset_id: values})
        update = np.concatenate(list(parts.key.open_sum(checked, fetched.chunks())))
        assert len(np.unique(update)) > 1
    talk.end()
    assert not list(talk.rest())
    aggregation.close_round(summed)


def _wait_until_one_is_made(pool: ZeroPool) -> None:
    until = time.monotonic() + 20
    while not sum(worker.ready for worker in pool._alive):
        assert time.monotonic() < until
        time.sleep(0.01)
        pool._hear()
