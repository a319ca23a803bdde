"""From an encrypted sum to the average of the updates: compared, challenged, and only then opened, once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usufruct import privacy
from usufruct.builder.attempt import Attempt
from usufruct.builder.peers import AggregatorPeer
from usufruct.domain.training_job import NANO, NoiseMode, TrainingJobSpec
from usufruct.encryption.linear_check import Challenge, CheckedSum, CheckValue, check_sum
from usufruct.errors import RoundFailed
from usufruct.v1 import rounds_pb2
from usufruct.wire import signatures
from usufruct.wire.aggregation import FetchedSum, RoundToSum


@dataclass(frozen=True)
class OpenedSum:
    """The decrypted average of the holders' updates: float64, shape (parameters,), in layout order.

    Attributes:
        roster: whose updates are in it.
        left_out: by dataset number, why its holder's is not, though its leg takes part in the job.
        attempts_charged: by dataset number, what its holder says its ledger has charged; also of those left out, where
            they said so.
        stages: wall seconds until all holders were ready (offered, charged, trained), the roster had encrypted, the sum was
            here, its check was answered, and it was opened.
    """

    update: NDArray[np.float64]
    roster: tuple[int, ...]
    left_out: Mapping[int, str]
    attempts_charged: Mapping[int, int]
    upload_bytes: int
    download_bytes: int
    stages: Mapping[str, float]


class Stages:
    """How long each stage of an attempt took, wall seconds by name, in their order.

    Args:
        began: on the monotonic clock.
    """

    def __init__(self, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = began

    def end(self, name: str) -> None:
        """A stage is over, and the next begins."""
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now


def compare_uploads(
    fetched: FetchedSum, to_sum: RoundToSum, encrypted: Mapping[int, rounds_pb2.RoundEvent]
) -> None:
    """Holds the uploads that the sum claims to be of against what each holder said it would send.

    Args:
        fetched: roster, view and operator signatures have been checked (``wire.signatures.verify_uploads``).
        encrypted: the ENCRYPTED event of every holder.
    Raises:
        RoundFailed: SUM_INVALID: it is over another upload than a holder's; nothing has been decrypted.
    """
    size = to_sum.parameters.upload_bytes(to_sum.parameter_count)
    for dataset_id, root in fetched.upload_roots.items():
        event = encrypted[dataset_id]
        if (event.upload_root, event.upload_bytes) != (root, size):
            raise RoundFailed(
                f"The holder of dataset {dataset_id} said that it sent another update than the one in the aggregator's "
                "sum, which carries its signature; nothing was decrypted.",
                reason="SUM_INVALID",
                dataset_id=dataset_id,
            )


def check_step(
    challenge: Challenge, fetched: FetchedSum, next_public_key: bytes = b""
) -> rounds_pb2.RoundStep:
    """The challenge, as every holder of the roster is sent it.

    Args:
        next_public_key: of the attempt after this one, if there is a key for it.
    """
    return rounds_pb2.RoundStep(
        check=rounds_pb2.Check(
            seed=challenge.seed,
            sum_root=challenge.sum_root,
            uploads=fetched.uploads,
            next_public_key=next_public_key,
        )
    )


def check(
    challenge: Challenge,
    fetched: FetchedSum,
    to_sum: RoundToSum,
    said: Callable[[], Mapping[int, rounds_pb2.RoundEvent]],
) -> CheckedSum:
    """Whether the sum is the sum of what the holders sent, by their signed answers to the challenge.

    Args:
        said: waits for the CHECKED event of every holder; called when the sum's own part is done, which takes as long as theirs.
    Raises:
        InvalidInput: BAD_SIGNATURE: an answer is not its operator's.
        RoundFailed: SUM_INVALID: the answers do not add up. Nothing has been decrypted.
    """

    def answers() -> Mapping[int, CheckValue]:
        values: dict[int, CheckValue] = {}
        for dataset_id, event in said().items():
            values[dataset_id] = tuple(event.check_values)
            signatures.verify_check(
                view_hash=challenge.view_hash,
                sum_root=challenge.sum_root,
                seed=challenge.seed,
                dataset_id=dataset_id,
                values=values[dataset_id],
                signature=event.check_signature,
                operator=to_sum.operators[dataset_id],
            )
        return values

    return check_sum(challenge, fetched.commitment, fetched.chunks(), answers)


def add_again(
    aggregator: AggregatorPeer, to_sum: RoundToSum, sum_root: bytes, chunks: int
) -> tuple[int, ...]:
    """Fetches chunks of every upload, drawn at random, and adds them again here; which they were.

    Possible until the attempt is closed. The uploads are masked and encrypted: nothing is learned but whether they add up.

    Args:
        sum_root: of the sum in question.
        chunks: how many; all of them where there are no more.
    Raises:
        RoundFailed: SUM_INVALID: a chunk does not add up.
        UsufructError: what :meth:`usufruct.wire.aggregation.BuilderAggregation.fetch_chunk` raises.
    """
    there = to_sum.uploads.chunks
    drawn = random.SystemRandom().sample(range(there), min(chunks, there))
    for index in drawn:
        if not aggregator.fetch_chunk(to_sum, index, sum_root).adds_up:
            raise RoundFailed(
                f"Chunk {index} of the aggregator's sum is not the sum of the holders' chunks, added again here. Do not "
                "trust this aggregator.",
                reason="SUM_INVALID",
                index=index,
            )
    return tuple(drawn)


def open_average(
    attempt: Attempt, checked: CheckedSum, fetched: FetchedSum, spec: TrainingJobSpec
) -> NDArray[np.float64]:
    """Decrypts, once, and reads the average of the holders' updates (:func:`read_average`).

    Raises:
        RoundFailed: KEY_USED; or SUM_INVALID: what it opens to can be no sum of updates.
    """
    opened = attempt.key.open_sum(checked, fetched.chunks())
    return read_average(opened, spec, sorted(fetched.upload_roots), attempt.offer.rotation_seed)


def read_average(
    opened: Iterable[NDArray[np.int64]], spec: TrainingJobSpec, roster: Sequence[int], rotation_seed: bytes
) -> NDArray[np.float64]:
    """The average of the holders' updates, float64, shape (parameters,), from the sum of their integers.

    With `local` noise every holder has weighted its own update as the spec says; where some of the spec's holders are not in
    the roster, the sum is divided by the weight of those that are. With `distributed` noise the sum is one of clipped
    gradients: it is divided by the declared batch sizes of the roster and taken as one step of the optimiser.

    Args:
        opened: the sum, int64, a chunk at a time.
        roster: datasets whose integers are in it.
        rotation_seed: of the attempt.
    Raises:
        RoundingInvalid: so many holders cannot have such sums.
    """
    if spec.plan.noise_mode is NoiseMode.DISTRIBUTED:
        plans = [privacy.distributed_plan_of(spec, dataset_id) for dataset_id in roster]
        total = privacy.open_sum(np.concatenate(list(opened)), plans[0], rotation_seed)
        rate = spec.optimizer.learning_rate_nano / NANO
        return total * (-rate / sum(plan.nominal_batch_size for plan in plans))
    encryption = spec.encryption
    update = np.empty(encryption.parameter_count, np.float64)
    start = 0
    for sums in opened:
        end = start + sums.size
        update[start:end] = privacy.unround_sum(
            sums, len(roster), encryption.update_range_nano / NANO, encryption.value_bits
        )
        start = end
    update *= NANO / sum(spec.leg(dataset_id).weight_nano for dataset_id in roster)
    return update


def bytes_moved(attempt: Attempt, asked: int, fetched: FetchedSum, to_sum: RoundToSum) -> tuple[int, int]:
    """Ciphertext bytes that the holders sent up; and bytes that this builder sent to those it asked and fetched."""
    size = to_sum.parameters.upload_bytes(to_sum.parameter_count)
    offered = asked * (len(attempt.weights) + len(attempt.key.public_key_bytes))
    return len(fetched.upload_roots) * size, offered + size
